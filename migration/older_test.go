package migration

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// client is a connection of an application that comes from a host.
type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func clientFrom(t *testing.T, s *redistest.Server, host string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}, Timeout: testTimeout}
	conn, err := d.DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &client{t: t, conn: conn, in: bufio.NewReader(conn)}
	if err := c.write("SET k before"); err != nil {
		t.Fatal(err)
	}
	return c
}

// write returns why a command was not run.
func (c *client) write(line string) error {
	_ = c.conn.SetDeadline(time.Now().Add(testTimeout))
	if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
		return err
	}
	reply, err := c.in.ReadString('\n')
	if err == nil && reply[0] == '-' {
		err = errors.New(reply)
	}
	return err
}

// succeeds has m take the place of who was there.
func (m *Migration) succeeds(t *testing.T) {
	t.Helper()
	m.seat.above = m.record().Token
	if err := m.adopt(m.record()); err != nil {
		t.Fatal(err)
	}
	if err := m.sitBoth(t); err != nil {
		t.Fatal(err)
	}
}

// Who takes over closes the connections of the former's clients with its own, on both
// servers, and no others.
func TestWhoTakesOverClosesTheFormersClients(t *testing.T) {
	a, b, servers := coordinators(t)
	if err := a.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	var theirs, others []*client
	for _, s := range servers {
		do(t, s.Client(0), "CONFIG", "SET", "protected-mode", "no") // or it takes nobody from elsewhere
		theirs = append(theirs, clientFrom(t, s, "127.0.0.1"))
		others = append(others, clientFrom(t, s, "127.0.0.2"))
	}
	b.succeeds(t)
	for _, c := range theirs {
		if c.write("SET k late") == nil {
			t.Error("a client of the former writes")
		}
	}
	for i, c := range others {
		if err := c.write("INCR n"); err != nil {
			t.Errorf("a client from elsewhere was closed: %v", err)
		}
		if got := servers[i].Client(0).Get(t.Context(), "k").Val(); got != "before" {
			t.Errorf("there is %q", got)
		}
	}
	isOut(t, a)

	// Not when there is nobody, nor when clients of its own may be among them.
	mine := clientFrom(t, servers[0], "127.0.0.1")
	b.succeeds(t)
	if err := mine.write("INCR n"); err != nil {
		t.Errorf("a client was closed, and nobody else was there: %v", err)
	}
	c := clientFrom(t, servers[0], "127.0.0.1")
	if err := c.write("CLIENT SETNAME crossfade:0123abcd:source"); err != nil {
		t.Fatal(err)
	}
	b.serves.Store(true)
	if err := b.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	if err := mine.write("INCR n"); err != nil {
		t.Errorf("a client was closed that may be its own: %v", err)
	}
	if c.write("PING") == nil {
		t.Error("the other sidecar's was not closed")
	}
}

// The names of the stand-alone verbs' connections, and of clients', say nothing of a sidecar.
func TestSidecarOf(t *testing.T) {
	for name, want := range map[string]string{
		"crossfade:0123abcd:source": "0123abcd", "crossfade:0123abcd:target:seat": "0123abcd",
		"crossfade:0123abcd": "", "crossfade:check": "", "crossfade:acl:source": "", "crossfade:unblock": "",
		"crossfade:0123ABCD:source": "", "0123abcd:source": "", "": "", "app": "",
	} {
		if got := sidecarOf(name); got != want {
			t.Errorf("%q is of %q, want %q", name, got, want)
		}
	}
}

// A connection of clients' is admitted for as long as nobody else has the seat.
func TestAdmit(t *testing.T) {
	a, b, servers := coordinators(t)
	admitted := func(m *Migration) error {
		t.Helper()
		return errors.Join(m.Admit(t.Context(), router.Source), m.Admit(t.Context(), router.Target), m.mayOpen(t.Context(), router.Target))
	}
	if err := admitted(a); err != nil {
		t.Errorf("before it has taken it: %v", err)
	}
	if err := a.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	if err := admitted(a); err != nil {
		t.Errorf("while it has it: %v", err)
	}
	for _, s := range servers {
		do(t, s.Client(0), "FLUSHALL")
	}
	if err := admitted(a); err != nil {
		t.Errorf("when it was flushed: %v", err)
	}
	a.keepSeat(t.Context())
	a.asleep()
	if err := admitted(a); err != nil {
		t.Errorf("when it wakes and has it still: %v", err)
	}
	a.asleep()
	b.succeeds(t)
	for _, side := range []router.Side{router.Source, router.Target} {
		if err := a.Admit(t.Context(), side); !errors.Is(err, store.ErrSuperseded) {
			t.Errorf("on the %s, when another one has it: %v", side, err)
		}
		if err := a.mayOpen(t.Context(), side); !errors.Is(err, store.ErrSuperseded) {
			t.Errorf("to the %s, when another one has it: %v", side, err)
		}
	}
	if err := admitted(b); err != nil {
		t.Errorf("who has it: %v", err)
	}
	isOut(t, a)
}

// Who has slept, and finds no seat, admits nobody before it knows why; who finds no server
// that tells either. Who was awake does.
func TestAdmitWithoutAnAnswer(t *testing.T) {
	a, _, servers := coordinators(t)
	if err := a.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	do(t, servers[0].Client(0), "DEL", store.SeatKey)
	if err := a.Admit(t.Context(), router.Source); err != nil {
		t.Errorf("awake, and the seat was removed: %v", err)
	}
	a.asleep()
	if err := a.Admit(t.Context(), router.Source); !errors.Is(err, errSeatGone) {
		t.Errorf("asleep, and the seat was removed: %v", err)
	}
	for _, s := range servers {
		s.Kill()
	}
	a.seat.noteSeen(router.Target)
	if err := a.Admit(t.Context(), router.Target); err != nil {
		t.Errorf("awake, and nobody answers: %v", err)
	}
	a.asleep()
	if err := a.Admit(t.Context(), router.Target); !errors.Is(err, errSeatGone) {
		t.Errorf("asleep, and nobody answers: %v", err)
	}
}

// TestClientsOfAllNodes: of a cluster a sidecar need not be connected to each node on which it
// serves clients.
func TestClientsOfAllNodes(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	m := intoCluster(t, c)
	theirs := c.Servers[0].Client(0).Conn()
	client := c.Servers[1].Client(0).Conn()
	t.Cleanup(func() { _, _ = theirs.Close(), client.Close() })
	if err := theirs.ClientSetName(t.Context(), "crossfade:0123abcd:target").Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	n, err := closeTheirClients(t.Context(), m.ids[router.Target])
	if err != nil || n == 0 {
		t.Errorf("closed are %d, %v", n, err)
	}
	if client.Ping(t.Context()).Err() == nil {
		t.Error("its client on the other node is still there")
	}
	if err := theirs.Ping(t.Context()).Err(); err != nil {
		t.Errorf("its own are closed before all are found: %v", err)
	}
}
