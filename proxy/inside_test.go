package proxy

import (
	"slices"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestMessagesInsideReplies has clients be told in the middle of a reply what its command
// does, as servers before 7.2 tell it: what they have sent behind it is answered as directly.
func TestMessagesInsideReplies(t *testing.T) {
	const events = "CONFIG SET notify-keyspace-events KEA"
	// Who has lost count silences another reply, passes on one of its own, or forgets the database.
	after := []string{"CLIENT REPLY SKIP", "GET none", "GET none", "MULTI", "GET none", "SELECT 5", "EXEC", "SET five 5", "BLPOP none 0.01", "GET five"}
	for name, lines := range map[string][]string{
		"a message, RESP2":     {"MULTI", "SUBSCRIBE c", "PUBLISH c x", "EXEC", "UNSUBSCRIBE"},
		"of a pattern, RESP2":  {"MULTI", "PSUBSCRIBE *", "PUBLISH c x", "PUBLISH d y", "EXEC", "PUNSUBSCRIBE"},
		"a message":            {"HELLO 3", "MULTI", "SUBSCRIBE c", "SUBSCRIBE d e", "PUBLISH c x", "PING", "EXEC", "UNSUBSCRIBE c d e"},
		"a shard's message":    {"HELLO 3", "SSUBSCRIBE c", "MULTI", "SPUBLISH c x", "SPUBLISH c y", "EXEC", "SUNSUBSCRIBE"},
		"of a script":          {"HELLO 3", "SUBSCRIBE c", "MULTI", "EVAL \"redis.call('publish', 'c', 'x') return {1, 2}\" 0", "EXEC", "UNSUBSCRIBE"},
		"an event":             {"HELLO 3", events, "SUBSCRIBE __keyevent@0__:set", "MULTI", "SET a 1", "SET a 2", "EXEC"},
		"an event of any name": {"HELLO 3", events, "PSUBSCRIBE __key*__:*", "MULTI", "SET a 1", "SELECT 99", "SELECT 4", "EXEC"},
		"of one command":       {"HELLO 3", events, "PSUBSCRIBE __key*__:*", "DEBUG SET-ACTIVE-EXPIRE 0", "SET a 1 PX 1", "SET b 1 PX 1", "DEBUG SLEEP 0.01", "MGET a b"},
		"an invalidation":      {"HELLO 3", "CLIENT TRACKING ON", "MULTI", "GET a", "SET a 1", "GET a", "SET a 2", "EXEC", "CLIENT TRACKING OFF"},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				direct, w := redistest.Start(t, withDebug), newWorldOn(t, redistest.Start(t, withDebug), redistest.Start(t), mode)
				lines := slices.Concat(lines, after)
				want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
				compare(t, mask(got), mask(want))
			})
		})
	}
}
