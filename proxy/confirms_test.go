package proxy

import (
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestTransactionsThatSubscribeAreMapped has channels, databases and keys have other names at
// the server: what a transaction that subscribes is answered is as directly, in the array and
// behind it, where confirmations and messages push other replies out of that.
func TestTransactionsThatSubscribeAreMapped(t *testing.T) {
	const set3, set4 = "__keyevent@3__:set", "__keyevent@4__:set"
	cases := map[string][]string{
		"confirmed":      {"SUBSCRIBE __keyspace@3__:k c " + set3, "GET none", "EXEC", "UNSUBSCRIBE c __keyspace@3__:k " + set3},
		"pushed out":     {"SUBSCRIBE a b", "KEYS *", "EXEC", "UNSUBSCRIBE a b"},
		"all of it":      {"SUBSCRIBE a " + set3 + " c", "KEYS *", "PSUBSCRIBE __keyspace@3__:x p", "KEYS *", "EXEC", "UNSUBSCRIBE a c " + set3, "PUNSUBSCRIBE __keyspace@3__:x p"},
		"a message":      {"SUBSCRIBE " + set3, "SET k 2", "KEYS *", "PING", "KEYS *", "EXEC", "UNSUBSCRIBE " + set3},
		"of a pattern":   {"PSUBSCRIBE __keyspace@3__:*", "SET k 2", "KEYS *", "PING", "EXEC", "PUNSUBSCRIBE __keyspace@3__:*"},
		"of nobody":      {"SUBSCRIBE " + set3, "SELECT 4", "SET k 2", "KEYS *", "SELECT 3", "KEYS *", "EXEC", "UNSUBSCRIBE " + set3},
		"selects":        {"SUBSCRIBE a b c", "SELECT 4", "KEYS *", "SELECT x", "SELECT 3", "KEYS *", "EXEC", "UNSUBSCRIBE a b c"},
		"no more":        {"SUBSCRIBE " + set3, "UNSUBSCRIBE", "KEYS *", "UNSUBSCRIBE", "EXEC"},
		"one less":       {"UNSUBSCRIBE " + set3, "KEYS *", "EXEC"},
		"alike":          {"SUBSCRIBE " + set3 + " " + set4 + " c", "UNSUBSCRIBE " + set4, "SET k 2", "EXEC", "UNSUBSCRIBE " + set3, "UNSUBSCRIBE c"},
		"alike, no more": {"SUBSCRIBE " + set3 + " " + set4, "UNSUBSCRIBE", "KEYS *", "EXEC"},
		"one is refused": {"SSUBSCRIBE a b", "SUBSCRIBE __keyspace@3__:k", "KEYS *", "EXEC", "UNSUBSCRIBE __keyspace@3__:k", "SUNSUBSCRIBE a b"},
		"spoilt":         {"SUBSCRIBE " + set3, "GET", "EXEC"},
	}
	if older(programVersion(), 7, 2) { // later ones say the message behind all of it
		cases["no more, and a message"] = []string{"SUBSCRIBE " + set3, "SET k 2", "UNSUBSCRIBE", "SET k 3", "KEYS *", "EXEC"}
	}
	alike := strings.NewReplacer(set4, set3) // servers have an order of their own
	for way, m := range map[string]router.DBMap{"prefixes": partsOfOne(t), "databases": backwards(t)} {
		t.Run(way, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				direct := redistest.Start(t, withDebug)
				w := newWorldMapped(t, redistest.Start(t), redistest.Start(t, withDebug), router.Route{Side: router.Target, Epoch: 1, Map: m}, mode)
				for proto, first := range map[string]string{"RESP2": "PING", "RESP3": "HELLO 3"} {
					for name, lines := range cases {
						t.Run(proto+"/"+name, func(t *testing.T) {
							lines := slices.Concat([]string{first, allEvents, "FLUSHALL", "SELECT 4", "SET k 4", "SELECT 3", "SET k 1", "MULTI"}, lines, afterInside)
							want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
							compare(t, alike.Replace(mask(got)), alike.Replace(mask(want)))
						})
					}
				}
			})
		})
	}
}

// TestUnsubscribeOfAllIsMoved has a transaction end all subscriptions of a client of which two
// are one on the other side.
func TestUnsubscribeOfAllIsMoved(t *testing.T) {
	const first, second = "__keyevent@3__:set", "__keyevent@4__:set"
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorldMapped(t, redistest.Start(t), redistest.Start(t), router.Route{Map: partsOfOne(t)}, mode)
		c := w.client()
		c.send("HELLO 3", "SUBSCRIBE "+first+" "+second, "MULTI", "UNSUBSCRIBE")
		for range 5 {
			c.next()
		}
		w.switchTo(router.Target)
		c.send("GET none", "EXEC")
		c.expect("+QUEUED\r\n")
		c.expect("*2\r\n>3\r\n" + bulk("unsubscribe") + bulk(first) + ":1\r\n>3\r\n" + bulk("unsubscribe") + bulk(second) + ":0\r\n")
		c.expect("_\r\n")
		c.want("SELECT 4", ok)
		w.switchTo(router.Source)
		c.quiet("+PONG\r\n")
	})
}

// TestTransactionThatMayNotSubscribe: one error answers for all channels of a SUBSCRIBE that was
// queued, and is not allowed when it comes to it.
func TestTransactionThatMayNotSubscribe(t *testing.T) {
	for name, lines := range map[string][]string{
		"in the array": {"AUTH lim x", "SUBSCRIBE a b c", "GET none", "SELECT 3", "EXEC"},
		"nor leave":    {"AUTH lim x", "SUBSCRIBE a b c", "UNSUBSCRIBE", "GET none", "SELECT 3", "EXEC"},
		"behind it":    {"SUBSCRIBE a b c", "PING", "AUTH lim x", "SUBSCRIBE a b c", "GET none", "SELECT 3", "UNSUBSCRIBE a", "UNSUBSCRIBE b", "UNSUBSCRIBE c", "EXEC"},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				acl := redistest.WithACL("lim on nopass ~* &* +@all -subscribe")
				direct, w := redistest.Start(t, acl), newWorldOn(t, redistest.Start(t, acl), redistest.Start(t, acl), mode)
				for _, first := range []string{"PING", "HELLO 3"} {
					lines := slices.Concat([]string{first, "MULTI"}, lines, afterInside)
					want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
					compare(t, mask(got), mask(want))
				}
			})
		})
	}
}

// TestSilencedTransactionsHearPushes: CLIENT REPLY silences what answers EXEC, and nothing that
// is pushed meanwhile.
func TestSilencedTransactionsHearPushes(t *testing.T) {
	cases := map[string][]string{
		"confirmed": {"CLIENT REPLY OFF", "MULTI", "SUBSCRIBE c d", "GET none", "EXEC", "UNSUBSCRIBE c d", "CLIENT REPLY ON"},
		"no more":   {"CLIENT REPLY OFF", "MULTI", "SUBSCRIBE c", "GET none", "UNSUBSCRIBE", "EXEC", "CLIENT REPLY ON"},
		"a message": {"CLIENT REPLY OFF", "MULTI", "SUBSCRIBE c", "PUBLISH c x", "LRANGE none 0 -1", "PUBLISH c y", "EXEC", "UNSUBSCRIBE c", "CLIENT REPLY ON"},
	}
	for name, lines := range cases {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				direct, w := redistest.Start(t), newWorld(t, mode)
				for _, first := range []string{"PING", "HELLO 3"} {
					lines := slices.Concat([]string{first}, lines, afterInside)
					want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
					compare(t, mask(got), mask(want))
				}
			})
		})
	}
}
