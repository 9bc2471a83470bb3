package main

import (
	"cmp"
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
sidecar ends, or until --scheduled; sync.keys_per_second, sync.bytes_per_second
and sync.schedule hold from its start.
A pause or a limit is for scans: changes that clients make are carried all the
same. A cutover or rollback that has begun waits for neither; but none can be
made before a scan is through, so that a pause puts it off. A pause of
sync.schedule does not hold while clients are on the target: a scan there is for
the way back.`}
}

func changeThrottle(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	keys := f.set.Int64("keys", 0, "`NUMBER` of keys a second; 0: no limit")
	bytes := f.set.Int64("bytes", 0, "`NUMBER` of bytes a second; 0: no limit")
	pause := f.set.Bool("pause", false, "stop scanning until --resume")
	resume := f.set.Bool("resume", false, "go on after --pause")
	scheduled := f.set.Bool("scheduled", false, "have sync.schedule count again, instead of what was set")
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	if *pause && *resume {
		return usage(errors.New("throttle: --pause and --resume contradict each other: give one"))
	}
	request := admin.ThrottleRequest{Scheduled: *scheduled}
	if *scheduled && (*pause || *resume || f.given("keys", "bytes")) {
		return usage(errors.New("throttle: --scheduled takes back what was set: give it alone"))
	}
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

// throttleText says in a line how fast scans may copy, and why.
func throttleText(t throttle.Status) string {
	text := speedText(t)
	switch {
	case t.Manual:
		text += " (set by hand; crossfade throttle --scheduled goes back to the schedule)"
	case t.Scheduled:
		text += " (schedule: " + cmp.Or(t.Window, "outside of all windows")
		if !t.Until.IsZero() {
			text += ", until " + t.Until.Format("Mon 15:04")
		}
		text += ")"
	}
	return text
}

func speedText(t throttle.Status) string {
	if t.Paused && t.Scheduled && !t.Manual {
		return "the copy is paused"
	}
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
