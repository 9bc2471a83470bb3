package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/crossfade/crossfade/admin"
)

func verifyVerb() *verb {
	return &verb{name: "verify", short: "compare both sides, key by key", run: verifySides, long: `
Compares values, types and expiries both ways while clients go on. Keys that
differ are compared again before they count. Exit status 3 when some do.`}
}

func verifySides(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	sample := f.set.Float64("sample", 1, "the `SHARE` of the keys to compare, above 0 and up to 1")
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	if !(*sample > 0 && *sample <= 1) {
		return usage(fmt.Errorf("verify: --sample %v is out of range: give a share above 0 and up to 1, such as 0.1", *sample))
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	r, err := door.Verify(ctx, admin.VerifyRequest{Sample: *sample})
	if err != nil {
		return s.failed(err, *asJSON)
	}
	if *asJSON {
		err = printJSON(s.stdout, r)
	} else {
		_, err = io.WriteString(s.stdout, strings.TrimRight(r.String(), "\n")+"\n")
	}
	if err != nil {
		return err
	}
	if !r.OK() {
		return refused("the sides differ")
	}
	return nil
}
