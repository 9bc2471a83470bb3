package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// changedKeys is what a client is told that these have changed.
func changedKeys(keys ...string) string {
	b := header([]byte(">2\r\n$10\r\ninvalidate\r\n"), '*', len(keys))
	for _, k := range keys {
		b = bulk(b, k)
	}
	return string(b)
}

// isPush reports whether something came that was not asked for.
func isPush(el string) bool { return strings.HasPrefix(el, ">") }

// told returns the pushes that have come, and waits for nothing but an answer.
func (e *end) told() (pushes []string) {
	e.t.Helper()
	e.send([]string{"ECHO", "told"})
	for {
		el := e.read()
		if !isPush(el) {
			return pushes
		}
		pushes = append(pushes, el)
	}
}

// drop closes a node's connections of clients.
func drop(t *testing.T, c *redistest.Cluster, s *redistest.Server) {
	t.Helper()
	if err := c.On(s).Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
}

// awaits waits until the client is told something.
func (e *end) awaits(want string) {
	e.t.Helper()
	if got := e.heard(); got != want {
		e.t.Errorf("it is told %q, want %q", got, want)
	}
}

// TestTracking has clients remember what they have read at all masters.
func TestTracking(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	e, writer := dial(t, f), dial(t, f)
	e.line("HELLO 3")
	e.want("CLIENT TRACKING ON", "+OK\r\n")
	e.send(fields("CLIENT TRACKINGINFO"))
	if got := e.heard(); !strings.Contains(got, "$2\r\non\r\n") {
		t.Errorf("CLIENT TRACKINGINFO: %q", got)
	}
	var keys []string
	for _, m := range c.Masters() {
		keys = append(keys, at(c, m, "k"))
	}
	for i, key := range keys {
		writer.want("SET "+key+" 1", "+OK\r\n")
		e.calm("GET "+key, "$1\r\n1\r\n")
		writer.want("SET "+key+" 2", "+OK\r\n")
		e.awaits(changedKeys(key))
		writer.want("SET "+key+" 3", "+OK\r\n") // which it has not read again
		if got := e.told(); slices.Contains(got, changedKeys(key)) {
			t.Errorf("master %d: it is told more: %q", i, got)
		}
	}
	e.send(append([]string{"MGET"}, keys...))
	e.heard()
	writer.line("DEL " + strings.Join(keys, " "))
	var got []string
	for range keys {
		got = append(got, e.heard())
	}
	slices.Sort(got)
	want := []string{changedKeys(keys[0]), changedKeys(keys[1]), changedKeys(keys[2])}
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("it is told %q, want %q", got, want)
	}

	// Of what is read in a transaction too, which has a connection of its own.
	e.calm("MULTI", "+OK\r\n")
	e.calm("GET "+keys[1], "+QUEUED\r\n")
	e.calm("EXEC", "*1\r\n_\r\n")
	writer.want("SET "+keys[1]+" 1", "+OK\r\n")
	e.awaits(changedKeys(keys[1]))

	// A key that goes elsewhere, and what changes there.
	e.calm("GET "+keys[2], "_\r\n")
	e.calm("GET "+keys[1], "$1\r\n1\r\n")
	c.Move(c.Masters()[0], slotOfKey(keys[1]))
	if got := e.read(); got != changedKeys(keys[1]) && got != string(everything) {
		t.Errorf("of a key that has moved it is told %q", got)
	}
	e.pushed("GET "+keys[1], "$1\r\n1\r\n")
	writer.want("SET "+keys[1]+" 2", "+OK\r\n")
	redistest.Eventually(t, patience, func() bool { return len(e.told()) > 0 }, "it is told of the key at its new place")

	// Who has lost a connection knows nothing any more.
	e.pushed("GET "+keys[2], "_\r\n")
	drop(t, c, c.Masters()[2])
	for got := e.read(); got != string(everything); got = e.read() {
		if !isPush(got) {
			t.Fatalf("of a node that is lost it is told %q", got)
		}
	}
	e.pushed("GET "+keys[2], "_\r\n")
	writer = dial(t, f)
	writer.want("SET "+keys[2]+" 1", "+OK\r\n")
	told := func() bool {
		got := e.told()
		return slices.Contains(got, changedKeys(keys[2])) || slices.Contains(got, string(everything))
	}
	redistest.Eventually(t, patience, told, "it is told again")

	e.pushed("CLIENT TRACKING OFF", "+OK\r\n")
	e.pushed("GET "+keys[0], "_\r\n")
	writer.want("SET "+keys[0]+" 1", "+OK\r\n")
	if got := e.told(); slices.Contains(got, changedKeys(keys[0])) {
		t.Errorf("with tracking off it is told %q", got)
	}
}

// heard is read, but for what the client is told when the cluster has changed.
func (e *end) heard() string {
	e.t.Helper()
	for {
		if el := e.read(); el != string(everything) {
			return el
		}
	}
}

// calm is want, but for the same.
func (e *end) calm(text, reply string) {
	e.t.Helper()
	e.send(fields(text))
	if got := e.heard(); got != reply {
		e.t.Errorf("%s: %q, want %q", text, got, reply)
	}
}

// pushed is want where pushes may come before the reply, or the connection of the node be lost
// by now.
func (e *end) pushed(text, reply string) {
	e.t.Helper()
	e.send(fields(text))
	for {
		got := e.read()
		if isPush(got) {
			continue
		}
		if got != reply {
			e.t.Errorf("%s: %q, want %q", text, got, reply)
		}
		return
	}
}

// TestTrackingOvertakesNothing: a value that came before it was changed, and waits for its
// turn, goes out before what says so.
func TestTrackingOvertakesNothing(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	e, writer := dial(t, f), dial(t, f)
	stops := c.Masters()[0]
	slow, quick := at(c, stops, "k"), at(c, c.Masters()[1], "k")
	e.line("HELLO 3")
	e.want("CLIENT TRACKING ON", "+OK\r\n")
	writer.want("SET "+quick+" 1", "+OK\r\n")
	e.calm("MGET "+slow+" "+quick, "*2\r\n_\r\n$1\r\n1\r\n") // it is connected to both
	for i := range 5 {
		if err := stops.Stop(); err != nil {
			t.Fatal(err)
		}
		e.send(fields("GET "+slow), fields("GET "+quick))
		conn := f.all()
		waits := func() bool {
			for _, cn := range conn {
				cn.mu.Lock()
				held := cn.held > 0
				cn.mu.Unlock()
				if held {
					return true
				}
			}
			return false
		}
		redistest.Eventually(t, patience, waits, "one reply waits for the other")
		writer.want(fmt.Sprintf("SET %s %d", quick, i), "+OK\r\n")
		if err := stops.Cont(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(got) < 3 {
			got = append(got, e.heard()) // the node was silent: somebody may doubt it
		}
		if got[0] != "_\r\n" || isPush(got[1]) || got[2] != changedKeys(quick) {
			t.Fatalf("round %d: %q", i, got)
		}
	}
}

// TestTrackingBroadcast has clients be told of what they have not read.
func TestTrackingBroadcast(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	e, writer := dial(t, f), dial(t, f)
	e.line("HELLO 3")
	e.want("CLIENT TRACKING ON BCAST PREFIX user: PREFIX item:", "+OK\r\n")
	e.calm("CLIENT TRACKING ON BCAST PREFIX more:", "+OK\r\n")
	e.send(fields("CLIENT TRACKING ON BCAST PREFIX user:x"))
	if got := e.heard(); !strings.HasPrefix(got, "-ERR Prefix") {
		t.Errorf("a prefix that overlaps another one: %q", got)
	}
	round := func(names ...string) {
		t.Helper()
		want := make(map[string]bool)
		for i := range 10 {
			for _, name := range names {
				key := fmt.Sprint(name, i)
				writer.pushed("SET "+key+" 1", "+OK\r\n")
				want[key] = true
			}
			writer.pushed(fmt.Sprintf("SET other%d 1", i), "+OK\r\n")
		}
		redistest.Eventually(t, patience, func() bool {
			for _, el := range e.told() {
				for key := range want {
					if strings.Contains(el, "\r\n"+key+"\r\n") {
						delete(want, key)
					}
				}
				if strings.Contains(el, "other") {
					t.Errorf("it is told %q", el)
				}
			}
			return len(want) == 0
		}, "it is told of all keys")
	}
	round("user:", "item:", "more:")
	e.calm("MULTI", "+OK\r\n")
	e.pushed("GET user:1", "+QUEUED\r\n")
	e.pushed("EXEC", "*1\r\n$1\r\n1\r\n")
	round("user:")
	// It listens again where it has lost a connection, without a word of the client's.
	for _, m := range c.Masters() {
		drop(t, c, m)
	}
	lost := 0
	for lost < 1 {
		if e.read() == string(everything) {
			lost++
		}
	}
	listens := func() bool {
		for _, cn := range f.all() {
			cn.mu.Lock()
			tracks, all := cn.me.track != nil, len(cn.nodes)
			cn.mu.Unlock()
			if tracks && all < 3 {
				return false
			}
		}
		return true
	}
	redistest.Eventually(t, patience, listens, "it is connected to all masters again")
	writer = dial(t, f)
	round("user:", "item:", "more:")
}

// TestTrackingByChoice compares what clients are told that choose what is tracked with what
// one server tells.
func TestTrackingByChoice(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	s := redistest.Start(t)
	for _, lines := range [][]string{
		{"CLIENT CACHING YES", "CLIENT TRACKING ON", "CLIENT CACHING YES", "CLIENT TRACKING ON OPTIN OPTOUT", "CLIENT TRACKING nonsense", "CLIENT TRACKING ON NONSENSE", "CLIENT TRACKING ON PREFIX a",
			"CLIENT CACHING", "CLIENT CACHING NO", "CLIENT CACHING MAYBE"},
		{"CLIENT TRACKING ON OPTIN", "CLIENT CACHING NO", "CLIENT CACHING MAYBE", "GET a", "CLIENT CACHING YES", "GET b", "GET c", "CLIENT CACHING YES", "MGET d e f", "GET g",
			"CLIENT CACHING YES", "CLIENT GETNAME", "GET h", "CLIENT CACHING YES", "MULTI", "GET {t}i", "GET {t}j", "EXEC", "GET {t}k",
			"CLIENT CACHING YES", "NOSUCH", "GET l", "CLIENT GETREDIR"},
		{"CLIENT TRACKING ON OPTOUT", "CLIENT CACHING YES", "GET a", "CLIENT CACHING NO", "GET b", "GET c", "CLIENT CACHING NO", "MGET d e f", "GET g", "CLIENT CACHING NO", "MULTI", "GET {t}i", "EXEC", "GET {t}k"},
		{"CLIENT TRACKING ON NOLOOP", "GET a", "SET a 1", "GET b"},
	} {
		var told [2][]string
		for i, pair := range [][2]*end{{dial(t, f), dial(t, f)}, {dialServer(t, s), dialServer(t, s)}} {
			e, writer := pair[0], pair[1]
			writer.line("FLUSHALL")
			e.line("HELLO 3")
			for _, line := range lines {
				e.send(fields(line))
				told[i] = append(told[i], line+": "+e.heard())
			}
			for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "{t}i", "{t}j", "{t}k", "l"} {
				writer.want("SET "+key+" 1", "+OK\r\n")
			}
			for _, cn := range f.all() { // what a node has said is behind this
				cn.mu.Lock()
				var nodes []*node
				for n := range cn.all {
					nodes = append(nodes, n)
				}
				cn.mu.Unlock()
				for _, n := range nodes {
					_, _ = cn.ask(n, words("PING"))
				}
			}
			pushes := slices.DeleteFunc(e.told(), func(el string) bool { return el == string(everything) })
			slices.Sort(pushes)
			told[i] = append(told[i], pushes...)
		}
		if !slices.Equal(told[0], told[1]) {
			t.Errorf("%s:\n%s\na server:\n%s", lines[0], strings.Join(told[0], "\n"), strings.Join(told[1], "\n"))
		}
	}
}
