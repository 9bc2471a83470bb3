//go:build linux

package epoll

import (
	"net"
	"testing"
	"time"
)

// pair returns a connection and the descriptor of its other end.
func pair(t *testing.T) (net.Conn, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := Take(other)
	if err != nil {
		t.Fatal(err)
	}
	return conn, fd
}

// next waits until something has happened.
func next(t *testing.T, p *Poller) Event {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		events, err := p.Wait(nil, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if len(events) > 0 {
			return events[0]
		}
	}
	t.Fatal("nothing has happened")
	return Event{}
}

func TestPollerTellsWhatHappens(t *testing.T) {
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	conn, fd := pair(t)
	defer Close(fd)
	if err := p.Add(fd, Read); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if _, again, err := Receive(fd, b); !again || err != nil {
		t.Fatal("an empty socket is read:", again, err)
	}
	if _, err := conn.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, p); ev.FD != fd || ev.What&Read == 0 {
		t.Fatal(ev)
	}
	if n, again, err := Receive(fd, b); n != 3 || again || err != nil {
		t.Fatal(n, again, err)
	}
	if err := p.Change(fd, Write); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, p); ev.FD != fd || ev.What&Write == 0 {
		t.Fatal(ev)
	}
	if n, err := Send(fd, []byte("de")); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := conn.Read(b); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if err := p.Change(fd, Read); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	next(t, p)
	if n, again, err := Receive(fd, b); n != 0 || again || err != nil {
		t.Fatal("the end is read as", n, again, err)
	}
}

// TestWakeEndsEveryWait wakes a Poller that is busy, and one that has been quiet.
func TestWakeEndsEveryWait(t *testing.T) {
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for p.quiet < 2*quietWaits {
		p.Wake()
		events, err := p.Wait(nil, -1)
		if err != nil || len(events) != 0 {
			t.Fatal(events, err)
		}
		if p.quiet == 0 { // a Wake is as much of a reason to stay busy as an event
			break
		}
	}
	p.quiet = quietWaits
	woken := make(chan error, 1)
	go func() {
		_, err := p.Wait(nil, -1)
		woken <- err
	}()
	p.Wake()
	select {
	case err := <-woken:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is not woken")
	}
}

func TestSendTakesWhatFits(t *testing.T) {
	conn, fd := pair(t)
	defer Close(fd)
	large := make([]byte, 64<<20)
	n, err := Send(fd, large)
	if err != nil || n == 0 || n == len(large) {
		t.Fatal(n, err)
	}
	_ = conn.Close()
	for err == nil {
		_, err = Send(fd, large[:1<<10])
	}
}

func TestGiveIsTheEndOfTake(t *testing.T) {
	conn, fd := pair(t)
	back, err := Give(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = back.Close() }()
	if _, err := back.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := conn.Read(b); err != nil || b[0] != 'x' {
		t.Fatal(b, err)
	}
}
