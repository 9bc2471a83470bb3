package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

const allEvents = "CONFIG SET notify-keyspace-events KEA"

// insideReplies are what clients say who are told in the middle of a reply what its command
// does, as servers before 7.2 tell it.
var insideReplies = map[string][]string{
	"a message, RESP2":     {"MULTI", "SUBSCRIBE c", "PUBLISH c x", "EXEC", "UNSUBSCRIBE"},
	"of a pattern, RESP2":  {"MULTI", "PSUBSCRIBE *", "PUBLISH c x", "PUBLISH d y", "EXEC", "PUNSUBSCRIBE"},
	"a message":            {"HELLO 3", "MULTI", "SUBSCRIBE c", "SUBSCRIBE d e", "PUBLISH c x", "PING", "EXEC", "UNSUBSCRIBE c d e"},
	"a shard's message":    {"HELLO 3", "SSUBSCRIBE c", "MULTI", "SPUBLISH c x", "SPUBLISH c y", "EXEC", "SUNSUBSCRIBE"},
	"of a script":          {"HELLO 3", "SUBSCRIBE c", "MULTI", "EVAL \"redis.call('publish', 'c', 'x') return {1, 2}\" 0", "EXEC", "UNSUBSCRIBE"},
	"an event":             {"HELLO 3", allEvents, "SUBSCRIBE __keyevent@0__:set", "MULTI", "SET a 1", "SET a 2", "EXEC"},
	"an event of any name": {"HELLO 3", allEvents, "PSUBSCRIBE __key*__:*", "MULTI", "SET a 1", "SELECT 99", "SELECT 4", "EXEC"},
	"of one command":       {"HELLO 3", allEvents, "PSUBSCRIBE __key*__:*", "DEBUG SET-ACTIVE-EXPIRE 0", "SET a 1 PX 1", "SET b 1 PX 1", "DEBUG SLEEP 0.01", "MGET a b"},
	"an invalidation":      {"HELLO 3", "CLIENT TRACKING ON", "MULTI", "GET a", "SET a 1", "GET a", "SET a 2", "EXEC", "CLIENT TRACKING OFF"},
}

// afterInside shows what the proxy has made of these. Who has lost count silences another
// reply, passes on one of its own, or forgets the database.
var afterInside = []string{"CLIENT REPLY SKIP", "GET none", "GET none", "MULTI", "GET none", "SELECT 5", "EXEC", "SET five 5", "BLPOP none 0.01", "GET five"}

// TestMessagesInsideReplies: what clients have sent behind such a reply is answered as directly.
func TestMessagesInsideReplies(t *testing.T) {
	for name, lines := range insideReplies {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				direct, w := redistest.Start(t, withDebug), newWorldOn(t, redistest.Start(t, withDebug), redistest.Start(t), mode)
				lines := slices.Concat(lines, afterInside)
				want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
				compare(t, mask(got), mask(want))
			})
		})
	}
}

// TestMessagesInsideRepliesAreMapped has keys and databases have other names at the server:
// clients are told theirs there too, and the replies around it name them as ever.
func TestMessagesInsideRepliesAreMapped(t *testing.T) {
	const event, space = "SUBSCRIBE __keyevent@3__:set", "PSUBSCRIBE __keyspace@3__:*"
	cases := map[string][]string{
		"keys":             {event, "MULTI", "SET a 1", "KEYS *", "SELECT 4", "SET b 1", "KEYS *", "SELECT 3", "SET a 2", "KEYS *", "EXEC"},
		"a pattern":        {space, event, "MULTI", "SET a 1", "KEYS *", "EXEC"},
		"subscribed in it": {"MULTI", "SUBSCRIBE c", "PSUBSCRIBE __keyevent*", "SET a 1", "PUBLISH c x", "KEYS *", "EXEC"},
		"in a popped one":  {"SUBSCRIBE __keyevent@3__:zpopmin", "ZADD z 1 c3:m 2 c3:n 3 c3:o", "BZPOPMIN z 1", "MULTI", "BZPOPMIN z 1", "EXEC"},
	}
	if !older(programVersion(), 7, 0) {
		cases["in some popped"] = []string{"SUBSCRIBE __keyevent@3__:zpopmin", "ZADD z 1 c3:m 2 c3:n 3 c3:o", "ZMPOP 1 z MIN COUNT 2", "MULTI", "ZMPOP 1 z MIN", "EXEC"}
	}
	for name, lines := range cases {
		cases[name] = append([]string{"HELLO 3", allEvents, "SELECT 3"}, lines...)
	}
	for name, lines := range insideReplies {
		cases[name] = append([]string{"SELECT 3"}, lines...)
		for i, line := range cases[name] {
			cases[name][i] = strings.NewReplacer("99", "x", "@0", "@3").Replace(line)
		}
	}
	for way, m := range map[string]router.DBMap{"prefixes": partsOfOne(t), "databases": backwards(t)} {
		for name, lines := range cases {
			t.Run(way+"/"+name, func(t *testing.T) {
				eachMode(t, func(t *testing.T, mode setting) {
					direct := redistest.Start(t, withDebug)
					w := newWorldMapped(t, redistest.Start(t), redistest.Start(t, withDebug), router.Route{Side: router.Target, Epoch: 1, Map: m}, mode)
					lines := slices.Concat(lines, afterInside)
					want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
					compare(t, mask(got), mask(want))
				})
			})
		}
	}
}

// TestRedirectedIntoATransaction: a client is told in the middle of its transaction what
// another one has cached, of which the proxy knows nothing. What the transaction has done
// to the client is known all the same.
func TestRedirectedIntoATransaction(t *testing.T) {
	const invalid = ">2\r\n$10\r\ninvalidate\r\n"
	redirected := func(w *world) (hears *raw) {
		hears = w.client()
		reads := w.client()
		for _, c := range []*raw{hears, reads} {
			c.send("HELLO 3")
			c.next()
		}
		reads.want("CLIENT TRACKING ON REDIRECT "+idOf(hears), ok)
		reads.want("GET a", "_\r\n")
		return hears
	}
	// told has hears run a transaction that changes what is cached.
	told := func(t *testing.T, hears *raw, lines ...string) {
		t.Helper()
		hears.send(lines...)
		var all string
		for range lines {
			all += hears.next()
		}
		if !strings.Contains(all, invalid) {
			all += hears.next() // as servers from 7.2 on say it
		}
		if !strings.Contains(all, invalid+list("a")) {
			t.Errorf("the transaction is answered %q", all)
		}
	}
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		w.do(router.Source, 3, "SET", "where", "source")
		w.do(router.Target, 5, "SET", "where", "target")
		hears := redirected(w)
		told(t, hears, "MULTI", "SET a 1", "SELECT 99", "SELECT 3", "EXEC")
		hears.want("GET where", bulk("source"))
		w.switchTo(router.Target)
		hears.expect(invalid + "_\r\n")
		hears.want("GET where", bulk("target"))

		w = newWorldMapped(t, redistest.Start(t), redistest.Start(t), router.Route{Side: router.Target, Epoch: 1, Map: partsOfOne(t)}, mode)
		told(t, redirected(w), "MULTI", "SET a 1", "KEYS *", "EXEC")
	})
}

// TestInside cuts replies at every byte.
func TestInside(t *testing.T) {
	const said, gone, confirms = ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n", ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n", ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
	for _, pieces := range [][]string{
		{"*2\r\n", said, gone, "$1\r\na\r\n", said, "-ERR\r\n"},
		{"*2\r\n" + confirms + "*2\r\n", said, "$-1\r\n", gone, ":1\r\n"},
		{"%1\r\n$3\r\n>3\r\r\n", gone, "*?\r\n+a\r\n.\r\n"},
	} {
		all := strings.Join(pieces, "")
		var want, rest []string
		for _, p := range pieces {
			if p == gone || p == said {
				want = append(want, p)
			} else {
				rest = append(rest, p)
			}
		}
		for cut := range len(all) + 1 {
			var in inside
			var got []string
			var left bytes.Buffer
			for _, b := range []string{all[:cut], all[cut:]} {
				for len(b) > 0 {
					n, piece, push := in.next([]byte(b))
					b = b[n:]
					left.Write(piece)
					if push != nil {
						got = append(got, string(push))
					}
				}
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) || left.String() != strings.Join(rest, "") {
				t.Errorf("%q cut at %d: pushed were %q, and %q is left", all, cut, got, left.String())
			}
		}
	}
}
