package e2e

import (
	"fmt"
	"strings"
)

// trackings are the ways to be told of what has changed: the options, what comes before
// a read that is to be remembered, and whether it is.
var trackings = []struct {
	options string // KEY stands for the client's own
	before  string // CLIENT CACHING, or nothing
	told    bool
	own     bool // of what the client itself writes, too
}{
	{"", "", true, true},
	{"BCAST PREFIX KEY", "", true, true},
	{"OPTIN", "YES", true, true},
	{"OPTIN", "", false, false},
	{"OPTOUT", "", true, true},
	{"OPTOUT", "NO", false, false},
	{"NOLOOP", "", true, false},
	{"BCAST PREFIX KEY NOLOOP", "", true, false},
}

// trackers remember keys. In RESP3 most of them hear themselves what has changed, and
// some have another connection hear it; in RESP2 there is no other way.
func trackers(a *act) {
	pairs := rowSessions() / 4
	if a.proto == 2 {
		pairs = rowSessions()
	}
	all := a.clients(rowSessions() + pairs)
	other := a.clients(2)
	var list []*tracker
	for i := 0; i < len(all); i++ {
		t := &tracker{peer: all[i], hears: all[i], kind: len(list) % len(trackings)}
		if i >= rowSessions()-pairs {
			i++
			t.hears = all[i]
			t.hears.askID()
			if a.proto == 2 {
				t.hears.send("SUBSCRIBE", "__redis__:invalidate")
				t.hears.expect("SUBSCRIBE", array(bulk("subscribe"), bulk("__redis__:invalidate"), ":1\r\n"))
			}
		}
		t.key = fmt.Sprintf("track:%d:", t.n) // none begins another
		list = append(list, t)
	}
	each := func(f func(t *tracker)) { a.each(peersOf(list), func(i int, _ *peer) { f(list[i]) }) }
	each(func(t *tracker) {
		words := append([]string{"CLIENT", "TRACKING", "ON"}, strings.Fields(strings.ReplaceAll(trackings[t.kind].options, "KEY", t.key))...)
		if t.hears != t.peer {
			words = append(words, "REDIRECT", t.hears.id)
		}
		t.want(ok, "SET", t.key, "0")
		t.want(ok, words...)
		t.remember("0")
	})
	for s := range 2 {
		was, now, next := fmt.Sprint(2*s), fmt.Sprint(2*s+1), fmt.Sprint(2*s+2)
		each(func(t *tracker) {
			if t.n%3 == 0 { // said before the switch for what comes after it
				t.caching()
			}
		})
		a.next(peersOf(list))
		each(func(t *tracker) {
			// Whatever it remembers was promised by the other server.
			t.hears.expect("that everything may have changed", a.invalidates(""))
			if t.n%3 != 0 {
				t.caching()
			}
			t.want(bulk(was), "GET", t.key)
			other[t.n%2].want(ok, "SET", t.key, now)
			if trackings[t.kind].told {
				t.hears.expect("that a key has changed, by "+trackings[t.kind].options, a.invalidates(t.key))
			}
			t.remember(now)
			t.send("SET", t.key, next)
			t.afterOwn()
			t.quiet()
			t.remember(next)
		})
	}
}

func peersOf(list []*tracker) []*peer {
	all := make([]*peer, len(list))
	for i, t := range list {
		all[i] = t.peer
	}
	return all
}

// tracker is a client that remembers a key, and who is told when that has changed.
type tracker struct {
	*peer
	hears *peer
	kind  int
	key   string
}

func (t *tracker) caching() {
	if before := trackings[t.kind].before; before != "" {
		t.want(ok, "CLIENT", "CACHING", before)
	}
}

func (t *tracker) remember(value string) {
	t.caching()
	t.want(bulk(value), "GET", t.key)
}

// afterOwn expects what follows a write of the client's own: its answer, and what it is
// told of it, in either order.
func (t *tracker) afterOwn() {
	told := trackings[t.kind].told && trackings[t.kind].own
	if t.hears != t.peer || !told {
		t.expect("SET", ok)
		if told {
			t.hears.expect("of one's own write, at the other connection", t.a.invalidates(t.key))
		}
		return
	}
	first, second := t.next(), t.next()
	if first != ok {
		first, second = second, first
	}
	if first != ok || second != t.a.invalidates(t.key) {
		t.failf("of one's own write: %q, %q", first, second)
	}
}

// quiet checks that nothing else has come.
func (t *tracker) quiet() {
	t.want("+PONG\r\n", "PING")
	switch {
	case t.hears == t.peer:
	case t.a.proto == 2:
		t.hears.want("*2\r\n$4\r\npong\r\n$0\r\n\r\n", "PING")
	default:
		t.hears.want("+PONG\r\n", "PING")
	}
}

// invalidates is what one is told when a key, or everything, may have changed.
func (a *act) invalidates(key string) string {
	what := bulks(key)
	if key == "" {
		what = a.null()
	}
	if a.proto == 3 {
		return a.head(2) + bulk("invalidate") + what
	}
	return a.head(3) + bulk("message") + bulk("__redis__:invalidate") + what
}
