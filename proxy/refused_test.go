package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// fencedWorld is a world whose source can be fenced as a migration does it.
type fencedWorld struct {
	*world
	refusals atomic.Int64
}

func newFencedWorld(t *testing.T, mode setting) *fencedWorld {
	t.Helper()
	f := &fencedWorld{}
	source := redistest.Start(t, redistest.WithACL("admin on >secret ~* &* +@all", "app on >secret ~* &* +@all"))
	f.world = newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) {
		c.Refused = func() { f.refusals.Add(1) }
	})
	return f
}

func (f *fencedWorld) admin(args ...any) any {
	f.t.Helper()
	c := f.source.ClientAs("admin", "secret", 0)
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil {
		f.t.Fatalf("%v: %v", args, err)
	}
	return v
}

func (f *fencedWorld) fence() {
	f.t.Helper()
	f.admin("ACL", "SETUSER", "default", "-@all", "+ping", "+hello", "+auth", "+select", "+client|setname", "clearselectors", "(resetchannels +get %R~crossfade:*)")
}

func (f *fencedWorld) lower() {
	f.t.Helper()
	f.admin("ACL", "SETUSER", "default", "+@all", "clearselectors")
}

// late ends a switch that the proxy has not heard of.
func (f *fencedWorld) late(side router.Side) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.proxy.Hold(ctx); err != nil {
		f.t.Fatal(err)
	}
	if side == router.Target {
		f.epoch++
	}
	f.proxy.Release(router.Route{Side: side, Epoch: f.epoch, Map: f.dbs})
}

// TestRefusedByAFence has clients of all kinds meet a fence. What they said is said again,
// where the switch leads or where it was before, and they notice nothing.
func TestRefusedByAFence(t *testing.T) {
	for _, side := range []router.Side{router.Target, router.Source} {
		t.Run(side.String(), func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				f := newFencedWorld(t, mode)
				type client struct {
					c    *raw
					says []string
					want []string
				}
				clients := map[string]*client{
					"plain":   {says: []string{"SET k 1", "INCR n", "PING", "INCR n", "GET n", "GET crossfade:none"}, want: []string{ok, ":1\r\n", "+PONG\r\n", ":2\r\n", bulk("2"), "$-1\r\n"}},
					"queues":  {says: []string{"INCR q", "EXEC", "GET q"}, want: []string{"+QUEUED\r\n", "*2\r\n:1\r\n:2\r\n", bulk("2")}},
					"ends":    {says: []string{"EXEC", "INCR e"}, want: []string{"*1\r\n:1\r\n", ":2\r\n"}},
					"begins":  {says: []string{"MULTI", "INCR b", "EXEC"}, want: []string{ok, "+QUEUED\r\n", "*1\r\n:1\r\n"}},
					"scripts": {says: []string{"EVAL \"return redis.call('incr',KEYS[1])\" 1 s", "INCR s"}, want: []string{":1\r\n", ":2\r\n"}},
					"selects": {says: []string{"SELECT 3", "INCR d", "SELECT 0", "INCR d"}, want: []string{ok, ":1\r\n", ok, ":1\r\n"}},
					"waits":   {says: []string{"BLPOP l 0"}, want: []string{"*2\r\n" + bulk("l") + bulk("x")}},
				}
				for name, x := range clients {
					x.c = f.client()
					switch name {
					case "queues":
						x.c.want("MULTI", ok)
						x.c.want("INCR q", "+QUEUED\r\n")
					case "ends":
						x.c.want("MULTI", ok)
						x.c.want("INCR e", "+QUEUED\r\n")
					default:
						x.c.want("PING", "+PONG\r\n")
					}
				}
				f.fence()
				for name, x := range clients {
					before := f.refusals.Load()
					x.c.send(x.says...)
					until(t, name+" is refused", func() bool { return f.refusals.Load() > before })
				}
				if side == router.Source {
					f.lower()
				}
				f.late(side)
				if side == router.Target {
					f.do(side, 0, "RPUSH", "l", "x")
				} else {
					f.admin("RPUSH", "l", "x")
				}
				for name, x := range clients {
					for _, want := range x.want {
						if got := x.c.next(); got != want {
							t.Fatalf("%s: got %q, want %q", name, got, want)
						}
					}
				}
				if got := fmt.Sprint(f.admin("DBSIZE")); side == router.Target && got != "0" {
					t.Errorf("%s keys are on the fenced server", got)
				}
			})
		})
	}
}

// TestRefusedForGood: what a client may not do at all it is told, once nobody finds a fence.
func TestRefusedForGood(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		f := newFencedWorld(t, mode)
		f.admin("ACL", "SETUSER", "app", "-set", "-eval")
		for _, says := range []string{"SET k 1", "EVAL return(1) 0"} {
			c := f.client()
			c.want("AUTH app secret", ok)
			c.want("INCR n", ":1\r\n")
			before := f.refusals.Load()
			c.send("INCR n", says)
			until(t, "it is refused", func() bool { return f.refusals.Load() > before })
			c.send("GET n")
			c.expect(":2\r\n")
			f.proxy.Retry()
			for _, want := range []string{"-NOPERM", bulk("2")} {
				if got := c.next(); !strings.HasPrefix(got, want) {
					t.Fatalf("got %q, want %q", got, want)
				}
			}
			// Who says more at once shows that there is no fence.
			c.send(says, "PING", "DEL n", "PING")
			for _, want := range []string{"-NOPERM", "+PONG", ":1", "+PONG"} {
				if got := c.next(); !strings.HasPrefix(got, want) {
					t.Fatalf("got %q, want %q", got, want)
				}
			}
		}
	})
}

// TestHungUpWhileRefused: who has hung up, or cannot be told from one that has, may have
// written something newer by another sidecar. What it had said is not said again.
func TestHungUpWhileRefused(t *testing.T) {
	for name, end := range map[string]func(f *fencedWorld){
		"the switch is over": func(f *fencedWorld) { f.late(router.Target) },
		"it is given up":     func(f *fencedWorld) { f.lower(); f.late(router.Source) },
		"there was no fence": func(f *fencedWorld) { f.lower(); f.proxy.Retry() },
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				f := newFencedWorld(t, mode)
				guest, session, stays := f.client(), f.client(), f.client()
				for _, c := range []*raw{guest, stays} {
					c.want("PING", "+PONG\r\n")
				}
				session.want("MULTI", ok)
				session.want("INCR n", "+QUEUED\r\n")
				f.fence()
				guest.send("SET k old", "GET k")
				session.send("EXEC", "GET n")
				stays.send("INCR m")
				for _, c := range []*raw{guest, session} {
					if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
						t.Fatal(err)
					}
				}
				until(t, "all are refused", func() bool { return f.refusals.Load() > 2 })
				end(f)
				stays.expect(":1\r\n")
				for _, c := range []*raw{guest, session} {
					c.expect("EOF")
				}
				for _, got := range []any{f.admin("EXISTS", "k", "n"), f.do(router.Target, 0, "EXISTS", "k", "n")} {
					if fmt.Sprint(got) != "0" {
						t.Errorf("what they had said was said again: %v", got)
					}
				}
			})
		})
	}
}

// TestRefusedInPieces: an error comes in pieces, between other replies.
func TestRefusedInPieces(t *testing.T) {
	const text = "-NOPERM this user has no permissions to run the 'set' command or its subcommand\r\n"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answerInPieces(conn, text)
		}
	}()
	var refusals atomic.Int64
	w := newWorld(t, func(c *Config) {
		c.Refused = func() { refusals.Add(1) }
		c.Upstreams[router.Source].Dial = newDialer(l.Addr().String())
	})
	c := w.client()
	c.send("GET a", "GET b", "SET k 1", "SET k 2")
	for range 2 {
		if got := c.next(); got != bulk("v") {
			t.Fatalf("got %q", got)
		}
	}
	until(t, "it is refused", func() bool { return refusals.Load() > 0 })
	w.proxy.Retry()
	for range 2 {
		if got := c.next(); got != text {
			t.Fatalf("got %q", got)
		}
	}
}

func answerInPieces(conn net.Conn, refusal string) {
	defer func() { _ = conn.Close() }()
	in := resp.Requests{}
	for {
		n, err := conn.Read(in.Space())
		if err != nil {
			return
		}
		in.Advance(n)
		for {
			req, ok, err := in.Next()
			if err != nil {
				return
			}
			if !ok {
				break
			}
			reply := []byte(refusal)
			switch {
			case bytes.EqualFold(req.Args[0], []byte("get")):
				reply = []byte(bulk("v"))
			case !bytes.EqualFold(req.Args[0], []byte("set")):
				reply = []byte("+OK\r\n")
			}
			for len(reply) > 0 {
				k := min(len(reply), 7)
				if _, err := io.Copy(conn, bytes.NewReader(reply[:k])); err != nil {
					return
				}
				reply = reply[k:]
				time.Sleep(time.Millisecond) // so that the pieces are read one by one
			}
		}
	}
}

// TestAside looks at what is said again, and what is not.
func TestAside(t *testing.T) {
	noperm := func(name string) []byte {
		return []byte("-NOPERM this user has no permissions to run the '" + name + "' command\r\n")
	}
	key := []byte("-NOPERM No permissions to access a key\r\n")
	script := []byte("-NOPERM ACL failure in script: User app has no permissions to run the 'set' command\r\n")
	for _, tt := range []struct {
		name  string
		said  []string
		reply [][]byte
		again string // of which commands
		lost  int
	}{
		{"refused", []string{"SET a 1", "GET a"}, [][]byte{noperm("set"), key}, "SET a 1,GET a", 0},
		{"answered before", []string{"GET a", "SET a 1"}, [][]byte{[]byte("$-1\r\n"), noperm("set")}, "SET a 1", 0},
		{"what a fence lets through", []string{"SET a 1", "PING", "SELECT 3", "CLIENT SETNAME x"}, [][]byte{noperm("set"), []byte("+PONG\r\n"), []byte(ok), []byte(ok)}, "SET a 1,PING,SELECT 3,CLIENT SETNAME x", 0},
		{"the fence falls in between", []string{"SET a 1", "SET a 2", "SET a 3"}, [][]byte{noperm("set"), noperm("set"), []byte(ok)}, "", 2},
		{"a script that ran in part", []string{"EVAL x 0"}, [][]byte{script}, "", 0},
		{"a script that says so itself", []string{"EVAL x 0"}, [][]byte{key}, "", 0},
		{"a script that did not run", []string{"EVAL x 0"}, [][]byte{noperm("eval")}, "EVAL x 0", 0},
		{"a module's command", []string{"MODULE.DO x"}, [][]byte{key}, "", 0},
		{"a module's command that did not run", []string{"MODULE.DO x"}, [][]byte{noperm("module.do")}, "MODULE.DO x", 0},
		{"a transaction", []string{"EXEC"}, [][]byte{[]byte("-EXECABORT Transaction discarded because of: NOPERM this user has no permissions to run the 'exec' command\r\n")}, "EXEC", 0},
		{"a transaction of its own fault", []string{"EXEC"}, [][]byte{[]byte("-EXECABORT Transaction discarded because of previous errors.\r\n")}, "", 0},
	} {
		var a aside
		var in sent
		wires := func(texts []string) (out [][]byte) {
			for _, s := range texts {
				out = append(out, words(strings.Fields(s)...))
			}
			return out
		}
		for _, wire := range wires(tt.said) {
			in.push(wire)
		}
		lost := 0
		for _, reply := range tt.reply {
			_, before := a.takes(in.pop(), reply)
			lost += before.n
		}
		var want []byte
		if tt.again != "" {
			want = bytes.Join(wires(strings.Split(tt.again, ",")), nil)
		}
		if lost != tt.lost || !bytes.Equal(a.raw, want) {
			t.Errorf("%s: %q is said again and %d are given up, want %q and %d", tt.name, a.raw, lost, want, tt.lost)
		}
	}
}

// TestSent: what is in flight is found again in order, however much of it there is.
func TestSent(t *testing.T) {
	var s sent
	next, oldest := 0, 0
	word := func(n int) []byte { return bytes.Repeat([]byte{byte('a' + n%26)}, 1+n%5000) }
	for round := range 2000 {
		for range round % 7 {
			s.push(word(next))
			next++
		}
		for range min(round%5, next-oldest) {
			if got := s.pop(); !bytes.Equal(got, word(oldest)) {
				t.Fatalf("number %d is %d bytes of %.1q", oldest, len(got), got)
			}
			oldest++
		}
	}
}

// TestRefusedWhileTheClientGoesOn: what waits for the answers before it is said, and is set
// aside, is said again as it was, whatever the client has sent meanwhile.
func TestRefusedWhileTheClientGoesOn(t *testing.T) {
	for _, line := range []string{"AUTH default x", "HELLO 2 AUTH default x"} {
		t.Run(line, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				f := newFencedWorld(t, mode)
				c := f.client()
				c.want("WATCH w", ok)
				f.fence()
				if err := f.source.Stop(); err != nil {
					t.Fatal(err)
				}
				before := f.proxy.commands.Load()
				c.send("INCR n")
				until(t, "the first is sent", func() bool { return f.proxy.commands.Load() == before+1 })
				c.send(line)
				until(t, "the next one waits", func() bool { return f.proxy.commands.Load() == before+2 })
				c.send("SET text " + strings.Repeat("x", 100))
				until(t, "it is read", func() bool { return f.proxy.received.Load() > 200 })
				if err := f.source.Cont(); err != nil {
					t.Fatal(err)
				}
				until(t, "they are refused", func() bool { return f.refusals.Load() > 0 })
				f.late(router.Target)
				c.expect(":1\r\n")
				if got := c.next(); got[0] == '-' {
					t.Fatalf("%s: %q", line, got)
				}
				c.expect(ok)
				if got := f.do(router.Target, 0, "STRLEN", "text"); fmt.Sprint(got) != "100" {
					t.Errorf("there are %v bytes", got)
				}
			})
		})
	}
}
