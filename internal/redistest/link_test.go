package redistest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// through starts a server with a link and returns both and a client of the
// link.
func through(t *testing.T) (*redistest.Server, *redistest.Link, *redis.Client) {
	s := redistest.Start(t)
	l := redistest.NewLink(t, s.Addr())
	c := redis.NewClient(redistest.Options(l.Addr(), 0))
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Ping(ctx(t)).Err(); err != nil {
		t.Fatal(err)
	}
	return s, l, c
}

func TestLinkRelaysMuchInOrder(t *testing.T) {
	_, l, c := through(t)
	l.SetDelay(time.Millisecond)
	big := strings.Repeat("x", 3<<20)
	if err := c.Set(ctx(t), "big", big, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got := c.Get(ctx(t), "big").Val(); got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	c0, p := ctx(t), c.Pipeline()
	cmds := make([]*redis.StringCmd, 5000)
	for i := range cmds {
		cmds[i] = p.Echo(c0, fmt.Sprint(i))
	}
	if _, err := p.Exec(ctx(t)); err != nil {
		t.Fatal(err)
	}
	for i, cmd := range cmds {
		if cmd.Val() != fmt.Sprint(i) {
			t.Fatalf("reply %d is %q", i, cmd.Val())
		}
	}
	if l.BytesUp() < int64(len(big)) || l.BytesDown() < int64(len(big)) {
		t.Errorf("counted %d up and %d down", l.BytesUp(), l.BytesDown())
	}
}

func TestLinkDelaysEachDirection(t *testing.T) {
	_, l, c := through(t)
	const d = 30 * time.Millisecond
	took := func() time.Duration {
		start := time.Now()
		if err := c.Ping(ctx(t)).Err(); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	l.SetDelay(d)
	if got := took(); got < 2*d {
		t.Errorf("both directions delayed by %v: ping took %v", d, got)
	}
	l.SetDelay(0)
	l.SetDelayDown(d)
	if got := took(); got < d {
		t.Errorf("one direction delayed by %v: ping took %v", d, got)
	}
}

func TestLinkCut(t *testing.T) {
	s, l, c := through(t)
	blocked := make(chan error, 1)
	go func() { blocked <- c.BLPop(ctx(t), 0, "nothing").Err() }()
	redistest.Eventually(t, 5*time.Second, func() bool {
		return strings.Contains(s.Client(0).Info(ctx(t), "clients").Val(), "blocked_clients:1")
	}, "a blocked client")
	l.Cut()
	if n := l.Conns(); n != 0 {
		t.Errorf("%d connections after Cut", n)
	}
	if err := <-blocked; err == nil {
		t.Error("BLPOP survived the cut")
	}
	redistest.Eventually(t, 5*time.Second, func() error { return c.Ping(ctx(t)).Err() }, "ping by a new connection")
}

func TestLinkStall(t *testing.T) {
	s, l, c := through(t)
	l.Stall(true)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Set(short, "k", "v", 0).Err(); err == nil {
		t.Fatal("answered during the stall")
	}
	if n := s.Client(0).Exists(ctx(t), "k").Val(); n != 0 {
		t.Error("arrived during the stall")
	}
	l.Stall(false)
	redistest.Eventually(t, 5*time.Second, func() bool { return s.Client(0).Exists(ctx(t), "k").Val() == 1 },
		"what was sent during the stall to arrive after it")
}

func TestLinkSwallows(t *testing.T) {
	s, l, c := through(t)
	l.Swallow(func() bool { return true })
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Set(short, "k", "v", 0).Err(); err == nil {
		t.Fatal("answered on a half-open connection")
	}
	if n := l.Conns(); n != 1 {
		t.Fatalf("%d connections: the server's side has heard of the end", n)
	}
	if err := c.Set(ctx(t), "other", "v", 0).Err(); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	l.CutSome(func() bool { return true })
	if n := s.Client(0).Exists(ctx(t), "k").Val(); n != 0 || l.Conns() != 0 {
		t.Error("something arrived, or a connection is left")
	}
}

func TestLinkRefuse(t *testing.T) {
	_, l, c := through(t)
	l.Refuse(true)
	if err := c.Ping(ctx(t)).Err(); err != nil {
		t.Errorf("the connection that was there: %v", err)
	}
	l.Cut()
	if err := c.Ping(ctx(t)).Err(); err == nil {
		t.Error("a new connection is served")
	}
	l.Refuse(false)
	redistest.Eventually(t, 5*time.Second, func() error { return c.Ping(ctx(t)).Err() }, "ping once it accepts again")
}

func TestLinkCutsAfterBytes(t *testing.T) {
	_, l, _ := through(t)
	conn, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	l.CutAfter(10)
	if _, err := io.WriteString(conn, "PING\r\nPING\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	got, _ := io.ReadAll(conn) // ends with the cut, in order or not
	if string(got) != "+PONG\r\n+PO" {
		t.Errorf("10 bytes were to arrive, not %q", got)
	}
	redistest.Eventually(t, 5*time.Second, func() bool { return l.Conns() == 0 }, "all connections cut")
}

func TestLinkSeesTheServerDie(t *testing.T) {
	s, l, c := through(t)
	s.Kill()
	redistest.Eventually(t, 5*time.Second, func() bool { return c.Ping(ctx(t)).Err() != nil && l.Conns() == 0 }, "the link to notice")
	if err := s.Restart(ctx(t)); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 5*time.Second, func() error { return c.Ping(ctx(t)).Err() }, "ping after the restart")
}
