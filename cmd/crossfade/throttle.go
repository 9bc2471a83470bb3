package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/sync/throttle"
)

func throttleVerb() *verb {
	return &verb{name: "throttle", short: "show or change how fast the copy may go, or pause it", run: changeThrottle, long: `
Without flags it says how fast the copy may go. What is set holds until the
sidecar ends; sync.keys_per_second and sync.bytes_per_second hold from its
start.
A pause or a limit is for scans: changes that clients make are carried all the
same, and a cutover waits for neither.`}
}

func changeThrottle(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	keys := f.set.Int64("keys", 0, "`NUMBER` of keys a second; 0: no limit")
	bytes := f.set.Int64("bytes", 0, "`NUMBER` of bytes a second; 0: no limit")
	pause := f.set.Bool("pause", false, "stop scanning until --resume")
	resume := f.set.Bool("resume", false, "go on after --pause")
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	if *pause && *resume {
		return usage(errors.New("throttle: --pause and --resume contradict each other: give one"))
	}
	var request admin.ThrottleRequest
	if f.given("keys") {
		request.Keys = keys
	}
	if f.given("bytes") {
		request.Bytes = bytes
	}
	if *pause || *resume {
		request.Paused = pause
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	t, err := door.Throttle(ctx, request)
	if err != nil {
		return s.failed(err, *asJSON)
	}
	if *asJSON {
		return printJSON(s.stdout, t)
	}
	_, err = fmt.Fprintln(s.stdout, throttleText(t))
	return err
}

// throttleText says in a line how fast scans may copy.
func throttleText(t throttle.Status) string {
	if t.Paused {
		return "the copy is paused: crossfade throttle --resume"
	}
	var bounds []string
	if t.Keys > 0 {
		bounds = append(bounds, fmt.Sprintf("%s keys/s at most", count(t.Keys)))
	}
	if t.Bytes > 0 {
		bounds = append(bounds, fmt.Sprintf("%s bytes/s at most", count(t.Bytes)))
	}
	if t.Pace > 0 {
		bounds = append(bounds, fmt.Sprintf("%s keys/s for the clients' sake", count(t.Pace)))
	}
	if t.Held > 0 {
		bounds = append(bounds, fmt.Sprintf("%s keys/s since %s takes %.0f ms longer than at best to answer PING", count(t.Held), t.Slow, t.SlowMS))
	}
	if bounds == nil {
		return "the copy goes as fast as it can"
	}
	return "the copy is held to " + strings.Join(bounds, ", ")
}
