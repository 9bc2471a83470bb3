package proxy

import "golang.org/x/sys/unix"

// shortSlice is the least that the kernel takes, in nanoseconds.
const shortSlice = 100_000

// prompt asks the kernel for short slices of time for the calling thread, which must be
// locked to its goroutine. From Linux 6.12 on a thread that wakes and asks for less at a
// time than the one that runs need not wait until that one has had its milliseconds: a loop
// has little to do whenever it wakes, and clients wait for it. Its share of the processor
// stays what it was, and no right is needed. Older kernels take no notice. See
// sched_setattr(2), and "custom slices" in the scheduler's documentation.
func prompt() {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return // somebody has decided otherwise for the whole process
	}
	attr.Runtime = shortSlice
	_ = unix.SchedSetAttr(0, attr, 0) // without it clients wait as long as they did before
}
