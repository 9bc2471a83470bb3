package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

const (
	rich = "rich on >r ~* &* +@all"
	poor = "poor on >p ~* resetchannels -@all +get +set +ping +acl|whoami"
)

// TestSubscribedAsSomebodyElse has clients subscribe, select and name themselves as one
// user and become another, who may do nothing of it: as on a server, what they have they
// keep, and it goes along to the other side.
func TestSubscribedAsSomebodyElse(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		server := func() *redistest.Server { return redistest.Start(t, redistest.WithACL(rich), redistest.WithACL(poor)) }
		w := newWorldOn(t, server(), server(), mode)
		three, two, both, other := w.client(), w.client(), w.client(), w.client()
		three.do("HELLO 3 AUTH rich r SETNAME three")
		three.want("SELECT 3", ok)
		three.do("SUBSCRIBE a")
		three.do("PSUBSCRIBE p*")
		shards := !older(programVersion(), 7, 0)
		if shards {
			three.do("SSUBSCRIBE s")
		}
		three.want("CLIENT TRACKING ON", ok)
		three.want("AUTH poor p", ok)
		two.do("HELLO 3 AUTH rich r")
		two.do("SUBSCRIBE a")
		two.do("HELLO 2 AUTH poor p")
		// What the first user may say the second may not, and the other way round.
		both.do("HELLO 3 SETNAME both")
		both.do("SUBSCRIBE a")
		both.want("AUTH rich r", ok)
		both.do("SUBSCRIBE b")
		both.want("AUTH poor p", ok)
		for _, side := range []router.Side{router.Target, router.Source} {
			w.switchTo(side)
			other.want("GET k", "$-1\r\n")
			for _, m := range []string{"a", "p1", "b"} {
				w.do(side, 0, "PUBLISH", m, "m")
			}
			if got := three.next(); !strings.HasPrefix(got, ">2\r\n$10\r\ninvalidate") {
				t.Fatalf("got %q", got)
			}
			for _, want := range []string{">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n", ">4\r\n$8\r\npmessage\r\n$2\r\np*\r\n$2\r\np1\r\n$1\r\nm\r\n"} {
				three.expect(want)
			}
			if shards {
				w.do(side, 0, "SPUBLISH", "s", "m")
				three.expect(">3\r\n$8\r\nsmessage\r\n$1\r\ns\r\n$1\r\nm\r\n")
			}
			two.expect("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n")
			both.expect(">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n")
			both.expect(">3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$1\r\nm\r\n")
			three.want("ACL WHOAMI", bulk("poor"))
			both.want("ACL WHOAMI", bulk("poor"))
			two.want("PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n")
			clients := fmt.Sprint(w.do(side, 0, "CLIENT", "LIST"))
			if strings.Count(clients, "user=poor") != 3 || !strings.Contains(clients, "name=three") || !strings.Contains(clients, "name=both") {
				t.Errorf("the %s knows\n%s", side, clients)
			}
			db := map[router.Side]int{router.Source: 3, router.Target: 5}[side]
			w.do(side, db, "SET", "where", side.String())
			three.want("GET where", bulk(side.String()))
			w.do(side, db, "SET", "where", "elsewhere")
			if got := three.next(); !strings.Contains(got, "invalidate") {
				t.Errorf("got %q", got)
			}
		}
	})
}

// TestMayNotSubscribeThere has a client whose user may subscribe at the source alone, or
// not even there any more. It is closed by the switch, and holds nobody up.
func TestMayNotSubscribeThere(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		for name, rules := range map[string][2]string{
			"no right to the command there": {rich, rich + " -subscribe"},
			"no right to the channel there": {rich, rich + " resetchannels &b"},
			"no right any more":             {rich + " -subscribe", rich + " -subscribe"},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorldOn(t, redistest.Start(t, redistest.WithACL(rich)), redistest.Start(t, redistest.WithACL(rules[1])), mode)
				two, three, other, goesOn := w.client(), w.client(), w.client(), w.client()
				two.want("AUTH rich r", ok)
				three.do("HELLO 3 AUTH rich r")
				for _, c := range []*raw{two, three, goesOn} {
					c.do("SUBSCRIBE a")
				}
				for _, rule := range strings.Fields(rules[0])[1:] {
					w.do(router.Source, 0, "ACL", "SETUSER", "rich", rule)
				}
				w.do(router.Source, 0, "PUBLISH", "a", "before")
				w.switchTo(router.Target)
				for _, c := range []*raw{two, three} {
					if got := c.next(); !strings.HasSuffix(got, "before\r\n") {
						t.Errorf("got %q", got)
					}
					if got := c.next(); !strings.HasPrefix(got, "-NOPERM Crossfade: this connection cannot be continued: SUBSCRIBE on the target: ") {
						t.Errorf("got %q", got)
					}
					c.expect("EOF")
				}
				goesOn.next()
				w.do(router.Target, 0, "PUBLISH", "a", "after")
				goesOn.expect("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nafter\r\n")
				other.want("GET k", "$-1\r\n")
			})
		}
	})
}

// TestSubscriberMayNotPing has a subscriber whose user may do nothing else.
func TestSubscriberMayNotPing(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		rule := redistest.WithACL("ear on >e resetkeys &* -@all +subscribe")
		w := newWorldOn(t, redistest.Start(t, rule), redistest.Start(t, rule), mode)
		c := w.client()
		c.want("AUTH ear e", ok)
		c.do("SUBSCRIBE a")
		w.switchTo(router.Target, func() { w.do(router.Target, 0, "PUBLISH", "a", "m") })
		c.expect("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n")
	})
}

// TestTracksAndQueuesAndListens has a subscriber that is in the middle of a transaction and
// tracks keys go to a server whose fence lets it do no more than subscribe until all go.
func TestTracksAndQueuesAndListens(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorldOn(t, redistest.Start(t, redistest.WithACL(rich)), redistest.Start(t, redistest.WithACL(rich)), mode)
		c := w.client()
		c.do("HELLO 3 AUTH rich r")
		c.want("CLIENT TRACKING ON BCAST", ok)
		c.do("SUBSCRIBE a")
		c.want("MULTI", ok)
		c.want("SET k 1", "+QUEUED\r\n")
		for _, rule := range []string{"-@all", "+ping", "+hello", "+auth", "+select", "+client|setname", "+subscribe"} {
			w.do(router.Target, 0, "ACL", "SETUSER", "rich", rule)
		}
		w.switchTo(router.Target, func() {
			w.do(router.Target, 0, "ACL", "SETUSER", "rich", "+@all")
			w.do(router.Target, 0, "PUBLISH", "a", "m")
		})
		c.send("EXEC")
		heard := map[string]int{}
		for range 4 {
			got := c.next()
			heard[strings.NewReplacer("\r\n", " ", "$", "").Replace(got)]++
		}
		for _, want := range []string{">3 7 message 1 a 1 m ", ">2 10 invalidate _ ", "*1 +OK ", ">2 10 invalidate *1 1 k "} {
			if heard[want] != 1 {
				t.Errorf("%q came %d times of %v", want, heard[want], heard)
			}
		}
	})
}

// TestFormerUserIsUnknownThere has a client that was somebody else before whom the other server
// does not know: it is moved all the same, and as fast.
func TestFormerUserIsUnknownThere(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const names = "namer on >n -@all +ping +client"
		w := newWorldOn(t, redistest.Start(t, redistest.WithACL(rich), redistest.WithACL(names)), redistest.Start(t, redistest.WithACL(names)), mode)
		two, three := w.client(), w.client()
		two.want("AUTH rich r", ok)
		two.want("CLIENT SETNAME two", ok)
		two.want("AUTH namer n", ok)
		three.do("HELLO 3 AUTH rich r SETNAME three")
		three.want("AUTH namer n", ok)
		w.switchTo(router.Target)
		two.want("CLIENT GETNAME", bulk("two"))
		three.want("CLIENT GETNAME", bulk("three"))
	})
}

// TestNamedWithoutTheRight has a client say its name in HELLO that may not say CLIENT SETNAME:
// it is served as any other when it needs another connection, there and on the other side.
func TestNamedWithoutTheRight(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		rule := redistest.WithACL("poor on >p ~* -@all +get +incr +multi +exec")
		w := newWorldOn(t, redistest.Start(t, rule), redistest.Start(t, rule), mode)
		c, queues := w.client(), w.client()
		for _, one := range []*raw{c, queues} {
			one.do("HELLO 3 AUTH poor p SETNAME me")
		}
		w.othersGoHome(0)
		w.proxy.pool.distrust(router.Source)
		queues.want("MULTI", ok)
		queues.want("INCR n", "+QUEUED\r\n")
		c.want("MULTI", ok)
		c.want("EXEC", "*0\r\n")
		w.switchTo(router.Target)
		queues.want("EXEC", "*1\r\n:1\r\n")
		c.want("MULTI", ok)
		c.want("EXEC", "*0\r\n")
	})
}
