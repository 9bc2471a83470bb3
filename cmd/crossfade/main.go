// Command crossfade moves a live Redis to another behind a proxy, and back.
// It owns the verbs, their flags, what they print and their exit statuses.
// It never touches a key itself: the verbs are thin calls to the packages beside it.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // sync.time_zone, where the system has none
)

func main() {
	ctx, stop := untilSignal(context.Background())
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ())
	stop()
	os.Exit(report(os.Stderr, err))
}
