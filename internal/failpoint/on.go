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
)

// Enabled reports whether this binary was built with failpoints.
const Enabled = true

// CROSSFADE_FAILPOINT holds name=action pairs, separated by commas:
// kill (SIGKILL to this process), stop (SIGSTOP to it), on (for On), touch:FILE
// (creates FILE and waits until it is removed). A name may end in #N: the
// action happens at the N-th hit, counted from 1.
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
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
}

// On reports whether a behaviour was switched for a test.
func On(name string) bool { return actions()[name] == "on" }
