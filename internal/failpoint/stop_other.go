//go:build failpoints && !linux

package failpoint

import (
	"os"
	"syscall"
)

// stop stops the process, a moment after it has returned at the latest.
func stop() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }
