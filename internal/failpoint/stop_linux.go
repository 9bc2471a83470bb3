//go:build failpoints

package failpoint

import (
	"os"
	"runtime"
	"syscall"
)

// stop stops the process. The signal is for this very thread, which so takes it before it
// returns: one for the process may be taken by another thread, while this one goes on.
func stop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = syscall.Syscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGSTOP))
}
