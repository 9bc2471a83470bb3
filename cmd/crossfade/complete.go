package main

import (
	"context"

	"github.com/crossfade/crossfade/admin"
)

func completeVerb() *verb {
	return &verb{name: "complete", short: "end the migration: no way back afterwards", run: complete, long: `
Stops the copy, removes crossfade's keys and users from both servers and puts
their settings back. Clients are served on, by the side that they are on.`}
}

func complete(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	stay := f.set.Bool("stay-on-source", false, "end it although clients are on the source: give the migration up")
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	done, err := door.Complete(ctx, admin.CompleteRequest{StayOnSource: *stay})
	if err != nil {
		return s.failed(err, *asJSON)
	}
	if *asJSON {
		return printJSON(s.stdout, admin.Done{Done: done})
	}
	return printDone(s.stdout, done)
}
