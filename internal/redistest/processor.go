package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// SkipTB is what of testing.TB a helper needs that may skip the test.
type SkipTB interface {
	Helper()
	Skip(args ...any)
	Fatalf(format string, args ...any)
}

// ProcessorTime returns for how long all threads that a process has now have run, more
// finely than its own account does. It skips the test where the system does not tell
// (Linux, Documentation/scheduler/sched-stats.rst).
func ProcessorTime(tb SkipTB, pid int) (sum time.Duration) {
	tb.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		tb.Skip("this system does not tell the processor time of threads")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			tb.Fatalf("%v", err)
		}
		sum += time.Duration(ns)
	}
	return sum
}
