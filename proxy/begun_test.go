package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

const (
	queued = "+QUEUED\r\n"
	abort  = "-EXECABORT Transaction discarded because of previous errors.\r\n"
)

// TestUnwatchInsideATransaction: it is queued, and what was watched stays so until EXEC,
// wherever in the transaction a switch comes.
func TestUnwatchInsideATransaction(t *testing.T) {
	lines := []string{"WATCH k", "MULTI", "UNWATCH", "SET k old"}
	for at := 1; at <= len(lines); at++ {
		t.Run("behind "+lines[at-1], func(t *testing.T) {
			w := newWorld(t)
			c, other := w.client(), w.client()
			say := func(lines []string) {
				for _, line := range lines {
					if got := c.do(line); got != ok && got != queued {
						t.Fatalf("%s: %q", line, got)
					}
				}
			}
			say(lines[:at])
			other.want("SET k new", ok)
			w.switchTo(router.Target, func() { w.do(router.Target, 0, "SET", "k", "new") })
			say(lines[at:])
			c.want("EXEC", "*-1\r\n")
			c.want("GET k", bulk("new"))
			say([]string{"MULTI", "SET k newest"})
			c.want("EXEC", "*1\r\n+OK\r\n")
		})
	}
	t.Run("nothing was watched", func(t *testing.T) {
		w := newWorld(t)
		c := w.client()
		c.want("MULTI", ok)
		c.want("SET k 1", queued)
		c.want("UNWATCH", queued)
		w.switchTo(router.Target)
		c.want("EXEC", "*2\r\n+OK\r\n+OK\r\n")
		w.switchTo(router.Source)
		c.want("GET k", "$-1\r\n")
	})
}

// TestUnwatchCountsInATransaction: which of its replies is that to SELECT says where the
// client is from then on.
func TestUnwatchCountsInATransaction(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.want("SET text x", ok)
	c.want("MULTI", ok)
	for _, line := range []string{"UNWATCH", "LPUSH text x", "SELECT 3"} {
		c.want(line, queued)
	}
	c.send("EXEC")
	if got := c.next(); !strings.HasPrefix(got, "*3\r\n+OK\r\n-WRONGTYPE") || !strings.HasSuffix(got, ok) {
		t.Fatalf("got %q", got)
	}
	w.switchTo(router.Target)
	c.want("SET where here", ok)
	if got := fmt.Sprintf("%v, %v", w.do(router.Target, 0, "GET", "where"), w.do(router.Target, 5, "GET", "where")); got != "redis: nil, here" {
		t.Fatalf("there is %s", got)
	}
}

// TestWatchIsLiftedAcross has what was watched before a switch be forgotten where a server
// would forget it, and nowhere else: by UNWATCH, DISCARD and RESET that were obeyed.
func TestWatchIsLiftedAcross(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		rules := redistest.WithACL("few on >f ~* &* +@all -unwatch -discard", "fewer on >f ~* &* +@all -multi")
		w := newWorldOn(t, redistest.Start(t, rules), redistest.Start(t, rules), mode)
		ran, not, none := "*1\r\n+OK\r\n", "*-1\r\n", "-ERR EXEC without MULTI\r\n"
		for _, c := range []struct{ user, before, behind, last string }{
			{"", "", "", not},
			{"", "", "UNWATCH", ran},
			{"", "", "MULTI, UNWATCH", not},
			{"", "", "MULTI, DISCARD", ran},
			{"", "MULTI", "DISCARD", ran},
			{"", "", "MULTI, EXEC", ran},
			{"", "MULTI", "EXEC", ran},
			{"", "", "EXEC", not},
			{"", "", "DISCARD", not},
			{"", "", "RESET", ran},
			{"", "", "UNWATCH x", not},
			{"few", "", "UNWATCH", not},
			{"few", "MULTI", "SET k 1, EXEC", ran},
			{"few", "MULTI", "GET, EXEC", ran},
			{"few", "MULTI", "DISCARD", abort},
			{"fewer", "", "MULTI, UNWATCH", none},
			{"fewer", "", "MULTI, EXEC", none},
		} {
			t.Run(fmt.Sprintf("%s %s|%s", c.user, c.before, c.behind), func(t *testing.T) {
				one := w.client()
				one.t = t
				if c.user != "" {
					one.want("AUTH "+c.user+" f", ok)
				}
				one.want("WATCH k", ok)
				split := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
				for _, line := range split(c.before) {
					one.do(line)
				}
				w.switchTo(w.gate.Route().Side.Other())
				lines := append(split(c.behind), "MULTI", "SET k 1", "EXEC") // in one write
				if c.behind == "MULTI, UNWATCH" || c.last == abort {         // it is in one
					lines = append(split(c.behind), "SET k 1", "EXEC")
				}
				one.send(lines...)
				for range lines[1:] {
					one.next()
				}
				one.expect(c.last)
			})
		}
	})
}

// TestSpoiltTransactionsStayThat: what spoils a transaction before a switch has spoilt it
// behind it, and what does not does not. Servers differ in which that is.
func TestSpoiltTransactionsStayThat(t *testing.T) {
	rules := redistest.WithACL("few on >f ~* &* +@all -watch -discard")
	w := newWorldOn(t, redistest.Start(t, rules), redistest.Start(t, rules))
	for _, line := range []string{"WATCH", "WATCH k", "MULTI", "MULTI x", "DISCARD x", "UNWATCH x", "RESET x", "EXEC x", "GET", "few WATCH k", "few DISCARD", "few GET k"} {
		t.Run(line, func(t *testing.T) {
			user, line, few := "few", strings.TrimPrefix(line, "few "), strings.HasPrefix(line, "few ")
			direct, moved := dialRaw(t, w.server(w.gate.Route().Side).Addr()), w.client()
			answers := map[*raw]string{}
			for _, c := range []*raw{direct, moved} {
				if few {
					c.want("AUTH "+user+" f", ok)
				}
				c.want("MULTI", ok)
				c.want("SET a 1", queued)
				answers[c] = c.do(line)
			}
			w.switchTo(w.gate.Route().Side.Other())
			for _, c := range []*raw{direct, moved} {
				answers[c] += c.do("EXEC")
			}
			if answers[direct] != answers[moved] {
				t.Fatalf("the server alone answers %q, with a switch before EXEC %q", answers[direct], answers[moved])
			}
		})
	}
}

// TestTransactionOfASubscriberSurvivesWhatIsUndone: what finds out which was the last message
// of the source leaves a transaction as it is.
func TestTransactionOfASubscriberSurvivesWhatIsUndone(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		rule := redistest.WithACL("app on >a ~* &* +@all")
		w := newWorldOn(t, redistest.Start(t, rule), redistest.Start(t, rule), mode)
		plain, listens, watches, moves := w.client(), w.client(), w.client(), w.client()
		w.do(router.Source, 0, "SET", "text", "x")
		for _, c := range []*raw{plain, listens, watches, moves} {
			c.do("HELLO 3 AUTH app a")
			c.do("SUBSCRIBE c")
		}
		watches.want("WATCH w", ok)
		for _, c := range []*raw{plain, listens, watches, moves} {
			c.want("MULTI", ok)
			c.want("INCR n", queued)
		}
		listens.want("SUBSCRIBE d e", queued)
		undo := func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			old := w.gate.Route()
			route := old
			route.Side, route.Epoch = router.Target, old.Epoch+1
			if err := w.proxy.Prepare(ctx, router.Target); err != nil {
				t.Fatal(err)
			}
			if err := w.proxy.Hold(ctx); err != nil {
				t.Fatal(err)
			}
			for _, rule := range []string{"-@all", "+ping", "+hello", "+auth", "+select"} {
				w.do(router.Source, 0, "ACL", "SETUSER", "app", rule)
			}
			if err := w.proxy.Align(ctx, route); err != nil {
				t.Fatal(err)
			}
			w.do(router.Source, 0, "ACL", "SETUSER", "app", "+@all")
			w.proxy.Release(old)
		}
		undo()
		for _, c := range []*raw{plain, listens, watches, moves} {
			c.want("LPUSH text x", queued)
			c.want("SELECT 3", queued)
			c.want("SET in 3", queued)
		}
		undo()
		wrong := "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
		plain.want("EXEC", "*4\r\n:1\r\n"+wrong+"+OK\r\n+OK\r\n")
		watches.want("EXEC", "*4\r\n:2\r\n"+wrong+"+OK\r\n+OK\r\n")
		// What SUBSCRIBE answers for a second channel stands behind the array.
		listens.send("EXEC", "ECHO end")
		if got, want := listens.transcript(bulk("end")), "*5\r\n:3\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:2\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\ne\r\n:3\r\n"+wrong+ok+ok+bulk("end"); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		for _, c := range []*raw{plain, listens, watches} {
			c.want("GET in", bulk("3"))
		}
		w.switchTo(router.Target)
		moves.want("EXEC", "*4\r\n:1\r\n:1\r\n+OK\r\n+OK\r\n")
		w.do(router.Target, 0, "PUBLISH", "c", "m")
		for _, c := range []*raw{plain, listens, watches, moves} {
			c.expect(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
			c.want("GET in", bulk("3"))
		}
		if got := fmt.Sprintf("%v, %v", w.do(router.Target, 5, "GET", "in"), w.do(router.Source, 3, "GET", "in")); got != "3, 3" {
			t.Errorf("there is %s", got)
		}
	})
}
