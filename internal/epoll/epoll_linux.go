// Package epoll waits for many sockets at once and reads and writes them without blocking.
// It is for an event loop that owns its sockets and its thread; everything else is better served by package net.
// It never allocates per event, and keeps nothing about a descriptor but what the kernel keeps.
package epoll

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What to wait for, and what has happened. Gone is reported whether it was asked
// for or not.
const (
	Read  = uint32(unix.EPOLLIN | unix.EPOLLRDHUP)
	Write = uint32(unix.EPOLLOUT)
	Gone  = uint32(unix.EPOLLERR | unix.EPOLLHUP)
)

// Supported says whether this system has epoll.
const Supported = true

// Poller is one epoll instance. Only Wake may be called by others than its owner.
type Poller struct {
	fd     int
	wake   int
	events [1024]unix.EpollEvent
	quiet  int // waits in a row in which nothing happened
}

// Event is a descriptor and what has happened to it.
type Event struct {
	FD   int
	What uint32
}

// New returns a Poller. It must be closed.
func New() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating an epoll instance: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("creating an event descriptor: %w", err)
	}
	p := &Poller{fd: fd, wake: wake}
	if err := p.Add(wake, uint32(unix.EPOLLIN)); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close ends the Poller; the descriptors in it stay open.
func (p *Poller) Close() {
	_ = unix.Close(p.wake)
	_ = unix.Close(p.fd)
}

// Wake makes a Wait of this moment, or the next one, return.
func (p *Poller) Wake() {
	one := uint64(1)
	_, _ = unix.Write(p.wake, unsafe.Slice((*byte)(unsafe.Pointer(&one)), 8))
}

// Add begins to watch a descriptor, level-triggered.
func (p *Poller) Add(fd int, what uint32) error { return p.control(unix.EPOLL_CTL_ADD, fd, what) }

// Change says what to wait for from now on; 0 is for nothing but Gone.
func (p *Poller) Change(fd int, what uint32) error { return p.control(unix.EPOLL_CTL_MOD, fd, what) }

// Remove ends watching a descriptor. Closing it does so as well.
func (p *Poller) Remove(fd int) { _ = p.control(unix.EPOLL_CTL_DEL, fd, 0) }

func (p *Poller) control(op, fd int, what uint32) error {
	ev := unix.EpollEvent{Events: what, Fd: int32(fd)}
	if err := unix.EpollCtl(p.fd, op, fd, &ev); err != nil {
		return fmt.Errorf("watching a descriptor: %w", err)
	}
	return nil
}

// A busy loop waits without telling the scheduler, for brief at a time, until
// nothing has happened for so many times.
const (
	brief      = 5 * time.Millisecond
	quietWaits = 20
)

// Wait appends what has happened to into and returns it. It waits for something
// to happen, or for a Wake, or for the timeout to end (below 0: for ever), and may
// return earlier with nothing. A Wake is no event.
//
// The scheduler, if it knew of the wait, would take the processor away and give it
// back at every round of a busy loop (half of the loop's cost, measured), and might
// have given it to a goroutine that computes, for 10 ms. So each Poller in use
// occupies one of GOMAXPROCS until it has been quiet for a tenth of a second. The
// garbage collector is not kept waiting: its signals end the wait as any other
// does, with EINTR.
func (p *Poller) Wait(into []Event, timeout time.Duration) ([]Event, error) {
	var n int
	var err error
	switch {
	case p.quiet < quietWaits:
		n, err = p.waitBriefly(timeout)
	default:
		n, err = unix.EpollWait(p.fd, p.events[:], milliseconds(timeout))
	}
	p.quiet++
	if n > 0 {
		p.quiet = 0
	}
	if errors.Is(err, unix.EINTR) {
		return into, nil
	}
	if err != nil {
		return into, fmt.Errorf("waiting for sockets: %w", err)
	}
	for _, ev := range p.events[:n] {
		if int(ev.Fd) == p.wake {
			var b [8]byte
			_, _ = unix.Read(p.wake, b[:])
			continue
		}
		into = append(into, Event{FD: int(ev.Fd), What: ev.Events})
	}
	return into, nil
}

func (p *Poller) waitBriefly(timeout time.Duration) (int, error) {
	if timeout < 0 || timeout > brief {
		timeout = brief
	}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(milliseconds(timeout)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// milliseconds rounds up; what is below 0 is -1.
func milliseconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int((d + time.Millisecond - 1) / time.Millisecond)
}

// Receive reads from a socket that does not block. n is 0 at the end of the
// stream; again says that nothing is there yet.
func Receive(fd int, b []byte) (n int, again bool, err error) {
	for {
		r, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(r), false, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, true, nil
		default:
			return 0, false, os.NewSyscallError("read", errno)
		}
	}
}

// Send writes to a socket as much as it takes without blocking.
func Send(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		w, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[n])), uintptr(len(b)-n), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			n += int(w)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return n, nil
		default:
			return n, os.NewSyscallError("send", errno)
		}
	}
	return n, nil
}

// Taken returns how many bytes the other end of a TCP connection has taken so far,
// since it was made; ok is false for other sockets. (Linux, include/uapi/linux/tcp.h:
// tcpi_bytes_acked.)
func Taken(fd int) (n uint64, ok bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.Bytes_acked, true
}

// Peer names the other end of a socket, "" where it has no name.
func Peer(fd int) string {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return ""
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)).String()
	}
	return ""
}

// Take takes the descriptor out of a TCP or unix connection: the caller owns it
// from now on and conn is closed. It fails, and leaves conn alone, for others.
func Take(conn net.Conn) (fd int, err error) {
	if fd, err = Copy(conn); err == nil {
		_ = conn.Close()
	}
	return fd, err
}

// Copy returns another descriptor of a TCP or unix connection, which is the caller's.
// Whoever closes conn afterwards has taken the connection.
func Copy(conn net.Conn) (fd int, err error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("taking the descriptor of a %T: it has none", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("taking a connection's descriptor: %w", err)
	}
	var dupErr error
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return -1, fmt.Errorf("taking a connection's descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("taking a connection's descriptor: %w", err)
	}
	return fd, nil
}

// Give makes a connection of a descriptor, which belongs to it from now on, also
// when that fails.
func Give(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("making a connection of a descriptor: %w", err)
	}
	return conn, nil
}

// Close closes a descriptor.
func Close(fd int) { _ = unix.Close(fd) }
