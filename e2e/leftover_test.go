package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// leftovers are clients that write to a sidecar that is stopped, and hang up. Each has a key
// of its own.
type leftovers struct {
	tb    testing.TB
	addr  string
	conns []net.Conn
}

// Of each kind there are so many: who shares connections, who has one to itself (it watches a
// key), and who connects when the sidecar stands still.
const (
	leftPlain   = 8
	leftSession = 8
	leftLate    = 8
	leftAll     = leftPlain + leftSession + leftLate
)

// leftovers connects those that are there before.
func (s *stage) leftovers() *leftovers {
	s.t.Helper()
	l := &leftovers{tb: s.t, addr: s.c.addr}
	for i := range leftPlain + leftSession {
		line := "PING"
		if i >= leftPlain {
			line = "WATCH leftover"
		}
		conn := l.connect()
		l.say(conn, line)
		if reply, err := bufio.NewReader(conn).ReadString('\n'); err != nil || reply[0] != '+' {
			s.t.Fatalf("%s is answered %q: %v", line, reply, err)
		}
	}
	return l
}

func (l *leftovers) connect() net.Conn {
	l.tb.Helper()
	conn, err := net.DialTimeout("tcp", l.addr, 10*time.Second)
	if err != nil {
		l.tb.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	l.conns = append(l.conns, conn)
	return conn
}

func (l *leftovers) say(conn net.Conn, line string) {
	l.tb.Helper()
	if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
		l.tb.Fatalf("saying %s: %v", line, err)
	}
}

func leftover(i int) string { return fmt.Sprintf("leftover:%d", i) }

// write leaves a write of each behind.
func (l *leftovers) write(value string) {
	l.tb.Helper()
	for range leftLate {
		l.connect()
	}
	for i, conn := range l.conns {
		l.say(conn, "SET "+leftover(i)+" "+value)
		_ = conn.Close()
	}
}

// goOnAt has each write through another sidecar, and be answered.
func (l *leftovers) goOnAt(addr, value string) {
	l.tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer func() { _ = c.Close() }()
	for i := range leftAll {
		if err := c.Set(l.tb.Context(), leftover(i), value, 0).Err(); err != nil {
			l.tb.Fatal(err)
		}
	}
}

// mustBe fails unless that is what there is.
func (l *leftovers) mustBe(addr, value string) {
	l.tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer func() { _ = c.Close() }()
	for i := range leftAll {
		got, err := c.Get(l.tb.Context(), leftover(i)).Result()
		if err != nil || got != value {
			l.tb.Errorf("%s is %q (%v), although %q was acknowledged", leftover(i), got, err, value)
		}
	}
}
