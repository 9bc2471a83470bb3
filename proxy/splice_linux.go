package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A large payload goes from the server's socket to the client's without a copy into this
// process (splice(2)): through a pipe, which has at most what could not be written yet. It is
// taken out of there where the client is slow, and then waits like all else does.

const (
	spliceFrom = 64 << 10  // bytes of payload still to come from which on it is worth it
	pipeSize   = 256 << 10 // bytes that are asked to fit into a pipe; the kernel may give less
	pipesKept  = 16
	pipesMost  = 64 // in use at a time, two descriptors each: the others' payloads are copied
)

// pipe is one that nothing is in.
type pipe struct{ r, w int }

var (
	pipes    = make(chan *pipe, pipesKept)
	piped    = make(chan struct{}, pipesMost) // as many as are in use
	errPipes = errors.New("no pipe of use is to be had")
)

// takePipe returns an empty pipe. An error means that it has to be done without.
func takePipe() (*pipe, error) {
	select {
	case piped <- struct{}{}:
	default:
		return nil, errPipes
	}
	select {
	case p := <-pipes:
		return p, nil
	default:
	}
	p, err := makePipe()
	if err != nil {
		<-piped
	}
	return p, err
}

func makePipe() (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// Who has many gets small ones only, in which less would go than in a copy.
	if n, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize); err != nil || n < spliceFrom {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
		return nil, errPipes
	}
	return &pipe{fds[0], fds[1]}, nil
}

// give gives an empty pipe back.
func (p *pipe) give() {
	select {
	case pipes <- p:
		<-piped
	default:
		p.close()
	}
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
	<-piped
}

// fill takes at most n bytes out of a socket, and waits until there are some.
func (p *pipe) fill(from syscall.RawConn, n int) (k int, err error) {
	var failed error
	err = from.Read(func(fd uintptr) bool {
		k, failed = spliceOnce(int(fd), p.w, n)
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, os.NewSyscallError("splice", failed)
	case k == 0:
		return 0, io.EOF
	}
	return k, nil
}

// drain writes what is in the pipe, n bytes, to a socket, and calls begins before it tries to.
func (p *pipe) drain(to syscall.RawConn, n int, begins func()) (k int, err error) {
	var failed error
	err = to.Write(func(fd uintptr) bool {
		for k < n && failed == nil {
			var some int
			begins()
			some, failed = spliceOnce(p.r, int(fd), n-k)
			k += some
		}
		if errors.Is(failed, unix.EAGAIN) {
			failed = nil
			return false
		}
		return true
	})
	if err == nil && failed != nil {
		err = os.NewSyscallError("splice", failed)
	}
	return k, err
}

// rest takes the n bytes out that are in the pipe.
func (p *pipe) rest(n int) ([]byte, error) {
	b := make([]byte, n)
	for at := 0; at < n; {
		k, err := unix.Read(p.r, b[at:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, os.NewSyscallError("read", err)
		case k == 0:
			return nil, io.ErrUnexpectedEOF
		default:
			at += k
		}
	}
	return b, nil
}

func spliceOnce(from, to, n int) (int, error) {
	for {
		k, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return int(max(0, k)), err
		}
	}
}

// rawOf is a plain socket's, nil of what is none.
func rawOf(c net.Conn) syscall.RawConn {
	switch c := c.(type) {
	case *net.TCPConn:
		raw, _ := c.SyscallConn()
		return raw
	case *net.UnixConn:
		raw, _ := c.SyscallConn()
		return raw
	}
	return nil
}

// spliced takes what comes of a large payload from the server to the client, if it can be
// done so now. went is whether that was tried, and err then why nothing more can be read.
func (r *reader) spliced() (went bool, err error) {
	if r.mode != modePass || r.owner == nobody || r.drop || r.raw || r.stripping || r.unspliced {
		return false, nil
	}
	n := int(min(r.fr.Payload()-1, pipeSize)) // the last byte ends it, and is looked at
	if n < spliceFrom {
		return false, nil
	}
	if r.up == nil {
		if r.up = rawOf(r.l.conn); r.up == nil {
			r.unspliced = true
			return false, nil
		}
	}
	if !r.s.out.splices() {
		return false, nil
	}
	p, err := takePipe()
	if err != nil { // no descriptors: it can be done without
		return false, nil
	}
	k, err := p.fill(r.up, n)
	if err != nil {
		p.give()
		var refused *os.SyscallError
		if errors.As(err, &refused) { // it is forbidden, or cannot be done; Read knows if it is the connection
			r.unspliced = true
			return false, nil
		}
		return true, err
	}
	s := r.s
	s.mu.Lock()
	if s.srv.cfg.UpstreamTimeout > 0 {
		s.heard = time.Now()
	}
	r.fr.Skip(k)
	r.size += k
	s.mu.Unlock()
	s.out.passPipe(p, k)
	return true, nil
}

// splices reports whether nothing waits for the client, and it is a plain socket.
func (o *outbox) splices() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.raw == nil {
		o.raw = rawOf(o.conn)
	}
	return o.raw != nil && !o.writing && !o.dead && len(o.pend) == 0 && !o.hurry()
}

// passPipe is pass of the n bytes that are in a pipe, which it takes over.
func (o *outbox) passPipe(p *pipe, n int) {
	if !o.claim() {
		b, err := p.rest(n)
		if p.free(err); err != nil { // what comes later must not follow
			o.mu.Lock()
			o.die()
			return
		}
		o.append(b)
		o.flush()
		return
	}
	k, err := p.drain(o.raw, n, func() { o.since.Store(time.Now().UnixNano()) })
	o.since.Store(0)
	var rest []byte
	var lost error
	if k < n {
		rest, lost = p.rest(n - k)
	}
	p.free(lost)
	if lost != nil {
		err = lost // and no deadline: what comes later must not follow
	}
	o.passed(k, rest, err)
}

// free gives a pipe back that is empty if err is nil.
func (p *pipe) free(err error) {
	if err != nil {
		p.close()
		return
	}
	p.give()
}
