//go:build failpoints

// Package failpoint lets tests kill, stop or weaken the program at named places.
// It owns the names' meaning; without the build tag "failpoints" it is empty.
// It never does anything in a released binary.
package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled reports whether this binary was built with failpoints.
const Enabled = true

// CROSSFADE_FAILPOINT holds name=action pairs, separated by commas:
// kill (SIGKILL to this process), stop (SIGSTOP to it), stop:FILE (the same as soon as
// FILE is there, which is removed), wait:FILE (creates FILE and waits until it is
// removed), anything else for On and Value. A name may end
// in #N: the action happens at the N-th hit, counted from 1.
var actions = sync.OnceValue(func() map[string]string {
	m := make(map[string]string)
	for pair := range strings.SplitSeq(os.Getenv("CROSSFADE_FAILPOINT"), ",") {
		if name, action, ok := strings.Cut(pair, "="); ok {
			m[name] = action
		}
	}
	return m
})

var (
	mu   sync.Mutex
	hits = map[string]int{}
)

// Hit marks a place in the program.
func Hit(name string) {
	mu.Lock()
	hits[name]++
	n := hits[name]
	mu.Unlock()
	action, ok := actions()[name+"#"+strconv.Itoa(n)]
	if !ok {
		if action, ok = actions()[name]; !ok {
			return
		}
	}
	switch {
	case action == "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case action == "stop":
		stop()
	case strings.HasPrefix(action, "stop:"):
		if os.Remove(strings.TrimPrefix(action, "stop:")) == nil {
			stop()
		}
	case strings.HasPrefix(action, "wait:"):
		file := strings.TrimPrefix(action, "wait:")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			panic(err)
		}
		for {
			if _, err := os.Stat(file); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// Value returns what a test has set a name to, or "".
func Value(name string) string { return actions()[name] }

// On reports whether a behaviour was switched for a test.
func On(name string) bool { return actions()[name] == "on" }
