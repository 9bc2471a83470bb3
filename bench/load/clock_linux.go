package load

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// clock is a descriptor that becomes readable when it is time: epoll's own
// timeouts are whole milliseconds, too coarse to pace ten thousand requests a second.
type clock struct{ fd int }

func newClock() (clock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return clock{-1}, fmt.Errorf("creating a timer: %w", err)
	}
	return clock{fd}, nil
}

// set has the clock strike once, after d.
func (c clock) set(d time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(1, d)))}
	if err := unix.TimerfdSettime(c.fd, 0, &spec, nil); err != nil {
		return fmt.Errorf("setting a timer: %w", err)
	}
	return nil
}

// heard silences the clock after it has struck.
func (c clock) heard() {
	var b [8]byte
	_, _ = unix.Read(c.fd, b[:])
}
