// Package load asks a Redis server many things at once and times the answers, in one thread and without allocating.
// It owns its connections; it asks as fast as answers come, or at a rate that does not heed them (open loop).
// It never interprets an answer but for its being an error, which ends the run.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/resp"
)

// Config says what to ask.
type Config struct {
	Addr     string
	Clients  int // connections; at least 1
	Pipeline int // requests that a client sends before it waits; with a Rate, 1
	RESP3    bool

	// Rate is how many requests a second become due, of all clients together. A
	// request that no client is free for waits, and its time runs from when it was
	// due. 0: each client asks again as soon as it has its answers.
	Rate float64

	// For is how long to ask; 0 means until the context ends.
	For time.Duration

	// Next appends one request.
	Next func(b []byte, random *rand.Rand) []byte
}

// Result is what was seen. In an open loop, Latency also counts what was due and
// not yet answered at the end, by its age.
type Result struct {
	Requests int64 // answered
	Elapsed  time.Duration
	Latency  Hist
}

// PerSecond is the rate of answers.
func (r *Result) PerSecond() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// Run connects, asks, and returns when the time is over or ctx has ended, which is
// no error. It keeps its thread busy: run few of them at once.
func Run(ctx context.Context, c Config) (*Result, error) {
	if c.Clients < 1 || c.Next == nil || c.Rate > 0 && c.Pipeline > 1 {
		return nil, errors.New("load: at least one client, something to ask, and no pipeline in an open loop")
	}
	l := &loop{cfg: c, random: rand.New(rand.NewPCG(1, uint64(c.Clients))), result: &Result{}}
	l.cfg.Pipeline = max(1, c.Pipeline)
	defer l.close()
	if err := l.open(ctx); err != nil {
		return nil, fmt.Errorf("load on %s: %w", c.Addr, err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := l.run(ctx); err != nil {
		return nil, fmt.Errorf("load on %s: %w", c.Addr, err)
	}
	return l.result, nil
}

// client is one connection. It is idle, or has requests under way.
type client struct {
	fd      int
	out     []byte // the requests
	sent    int    // bytes of out that are gone
	missing int    // answers still to come
	since   time.Duration
	framer  resp.Framer
	blocked bool // waiting for room to send
}

type loop struct {
	cfg     Config
	random  *rand.Rand
	poll    *epoll.Poller
	clock   clock
	clients []*client
	byFD    []*client // nil for the clock
	idle    []*client // a ring: the one that has been idle for longest is next
	head    int
	count   int // of the ring
	begun   time.Time
	next    int64 // in an open loop: the number of the next request
	armed   int64 // and of the one that the clock is set for, plus one
	buf     []byte
	result  *Result
}

// open connects all clients.
func (l *loop) open(ctx context.Context) (err error) {
	if l.poll, err = epoll.New(); err != nil {
		return err
	}
	if l.clock, err = newClock(); err != nil {
		return err
	}
	if err := l.poll.Add(l.clock.fd, epoll.Read); err != nil {
		return err
	}
	l.buf = make([]byte, 256<<10)
	for range l.cfg.Clients {
		fd, err := dial(ctx, l.cfg.Addr, l.cfg.RESP3)
		if err != nil {
			return err
		}
		cl := &client{fd: fd}
		l.clients = append(l.clients, cl)
		for len(l.byFD) <= fd {
			l.byFD = append(l.byFD, nil)
		}
		l.byFD[fd] = cl
		if err := l.poll.Add(fd, epoll.Read); err != nil {
			return err
		}
	}
	l.idle = make([]*client, len(l.clients))
	return nil
}

// dial connects and sees that somebody answers.
func dial(ctx context.Context, addr string, resp3 bool) (int, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return -1, err
	}
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	hello := "*1\r\n$4\r\nPING\r\n"
	if resp3 {
		hello = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"
	}
	if _, err = io.WriteString(conn, hello); err == nil {
		err = readOne(conn)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	fd := -1
	if err == nil {
		fd, err = epoll.Take(conn)
	}
	if err != nil {
		_ = conn.Close()
	}
	return fd, err
}

// readOne reads one answer, which is no error.
func readOne(conn net.Conn) error {
	var f resp.Framer
	b := make([]byte, 4096)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return err
		}
		if f.AtStart() && resp.IsError(b[:n]) {
			return errors.New(resp.ErrorText(b[:n]))
		}
		if _, done, err := f.Feed(b[:n]); done || err != nil {
			return err
		}
	}
}

func (l *loop) close() {
	for _, cl := range l.clients {
		epoll.Close(cl.fd)
	}
	if l.clock.fd > 0 {
		epoll.Close(l.clock.fd)
	}
	if l.poll != nil {
		l.poll.Close()
	}
}

func (l *loop) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.poll.Wake)()
	l.begun = time.Now()
	for _, cl := range l.clients {
		if err := l.free(cl, 0); err != nil {
			return err
		}
	}
	var events []epoll.Event
	for {
		now := time.Since(l.begun)
		if ctx.Err() != nil || l.cfg.For > 0 && now >= l.cfg.For {
			l.finish(now)
			return nil
		}
		if err := l.startDue(now); err != nil {
			return err
		}
		wait := 50 * time.Millisecond
		if l.cfg.For > 0 {
			wait = min(wait, l.cfg.For-now)
		}
		var err error
		if events, err = l.poll.Wait(events[:0], wait); err != nil {
			return err
		}
		for _, ev := range events {
			if ev.FD == l.clock.fd {
				l.clock.heard()
				continue
			}
			if err := l.serve(l.byFD[ev.FD], ev.What); err != nil {
				return err
			}
		}
	}
}

// finish counts what is still open. In a closed loop these are as many as there
// are clients, and begun a moment ago; in an open one they may be the longest.
func (l *loop) finish(now time.Duration) {
	l.result.Elapsed = now
	if l.cfg.Rate == 0 {
		return
	}
	for _, cl := range l.clients {
		if cl.missing > 0 {
			l.result.Latency.Add(now - cl.since)
		}
	}
	for ; l.due(l.next) <= now; l.next++ {
		l.result.Latency.Add(now - l.due(l.next))
	}
}

// due says when request n is to be sent, in an open loop.
func (l *loop) due(n int64) time.Duration {
	return time.Duration(float64(n) / l.cfg.Rate * float64(time.Second))
}

// startDue sends what is due, as far as clients are idle, and sets the clock for
// what comes next.
func (l *loop) startDue(now time.Duration) error {
	if l.cfg.Rate == 0 {
		return nil
	}
	for l.count > 0 {
		at := l.due(l.next)
		if at > now {
			if l.armed == l.next+1 {
				return nil
			}
			l.armed = l.next + 1
			return l.clock.set(at - now)
		}
		cl := l.idle[l.head]
		l.head = (l.head + 1) % len(l.idle)
		l.count--
		l.next++
		if err := l.ask(cl, at); err != nil {
			return err
		}
	}
	return nil // an answer will wake us
}

// free is called for a client that has no request under way.
func (l *loop) free(cl *client, now time.Duration) error {
	if l.cfg.Rate == 0 {
		return l.ask(cl, now)
	}
	l.idle[(l.head+l.count)%len(l.idle)] = cl
	l.count++
	return nil
}

// ask sends a client's next requests; since is when their time began.
func (l *loop) ask(cl *client, since time.Duration) error {
	cl.out = cl.out[:0]
	for range l.cfg.Pipeline {
		cl.out = l.cfg.Next(cl.out, l.random)
	}
	cl.sent, cl.missing, cl.since = 0, l.cfg.Pipeline, since
	return l.send(cl)
}

func (l *loop) send(cl *client) error {
	n, err := epoll.Send(cl.fd, cl.out[cl.sent:])
	if err != nil {
		return err
	}
	cl.sent += n
	if more := cl.sent < len(cl.out); more != cl.blocked {
		cl.blocked = more
		what := epoll.Read
		if more {
			what |= epoll.Write
		}
		return l.poll.Change(cl.fd, what)
	}
	return nil
}

// serve deals with what has happened to a client's socket.
func (l *loop) serve(cl *client, what uint32) error {
	if what&epoll.Write != 0 && cl.blocked {
		if err := l.send(cl); err != nil {
			return err
		}
	}
	if what&^epoll.Write == 0 {
		return nil
	}
	n, again, err := epoll.Receive(cl.fd, l.buf)
	switch {
	case err != nil:
		return err
	case again:
		return nil
	case n == 0:
		return errors.New("the connection was closed")
	}
	return l.answered(cl, l.buf[:n])
}

// answered counts the answers that end in b.
func (l *loop) answered(cl *client, b []byte) error {
	for len(b) > 0 {
		if cl.missing == 0 {
			return fmt.Errorf("an answer to no request: %.60q", b)
		}
		if cl.framer.AtStart() && resp.IsError(b) {
			return fmt.Errorf("it answers: %.200s", b)
		}
		n, done, err := cl.framer.Feed(b)
		if err != nil {
			return err
		}
		b = b[n:]
		if done {
			cl.missing--
			l.result.Requests++
			l.result.Latency.Add(time.Since(l.begun) - cl.since)
		}
	}
	if cl.missing == 0 {
		return l.free(cl, time.Since(l.begun))
	}
	return nil
}
