package proxy

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// subscribing are commands of transactions that subscribe their client to what they cause.
var subscribing = []string{"SUBSCRIBE a b", "SUBSCRIBE c", "SUBSCRIBE __keyevent@3__:set a", "SUBSCRIBE __keyspace@3__:k __keyspace@4__:k", "SSUBSCRIBE a", "PSUBSCRIBE a*", "PSUBSCRIBE __keyspace@3__:* c",
	"UNSUBSCRIBE a", "UNSUBSCRIBE __keyevent@3__:set c", "PUNSUBSCRIBE __keyspace@3__:*", "SUNSUBSCRIBE", "PUBLISH a x", "PUBLISH c y", "SPUBLISH a z",
	"SET k v", "SET k w", "KEYS k*", "KEYS k", "GET none", "LRANGE none 0 -1", "SELECT 4", "SELECT 3", "SELECT x", "PING", "SCAN 0 MATCH k", "MGET k none", "LPUSH k wrong",
	"EVAL \"return {'subscribe','__keyspace@3__:k',1}\" 0", "EVAL \"redis.call('publish','a','s') return {1,{2}}\" 0",
	"ZADD z 1 m", "BZPOPMIN z 1", "XADD s 1-1 f v", "XREAD STREAMS s 0", "CLIENT SETNAME n", "CLIENT GETNAME", "OBJECT HELP"}

// TestRandomTransactionsThatSubscribe makes up such transactions. Each is answered, to the byte,
// as by a server of the client's own.
func TestRandomTransactionsThatSubscribe(t *testing.T) {
	seed := cmp.Or(*randomSeed, rand.Uint64N(1<<32))
	for way, m := range map[string]router.DBMap{"as they are": router.Identity(16), "databases": backwards(t), "prefixes": partsOfOne(t)} {
		t.Run(way, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				direct, target := redistest.Start(t, withDebug), redistest.Start(t, withDebug)
				w := newWorldMapped(t, redistest.Start(t), target, router.Route{Side: router.Target, Epoch: 1, Map: m}, mode)
				for round := range 8 * *randomRounds {
					from := seed + uint64(round)
					rng := rand.New(rand.NewPCG(from, 4))
					lines := []string{[]string{"HELLO 2", "HELLO 3"}[rng.IntN(2)], allEvents, "SELECT 4", "SET k 4", "SELECT 3", "SET k 3"}
					if rng.IntN(4) == 0 {
						lines = append(lines, "CLIENT REPLY OFF")
					}
					lines = append(lines, "MULTI")
					for range 1 + rng.IntN(10) {
						lines = append(lines, subscribing[rng.IntN(len(subscribing))])
					}
					lines = append(lines, "EXEC", "UNSUBSCRIBE a b c __keyevent@3__:set __keyspace@3__:k __keyspace@4__:k", "PUNSUBSCRIBE a* c __keyspace@3__:*", "SUNSUBSCRIBE a", "CLIENT REPLY ON")
					lines = slices.Concat(lines, afterInside)
					for _, s := range []*redistest.Server{direct, target} {
						c := s.Client(0)
						c.FlushAll(context.Background())
						_ = c.Close()
					}
					want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
					t.Run(fmt.Sprintf("-from %d", from), func(t *testing.T) {
						if got != want {
							t.Logf("%q: -from %d", lines, from)
						}
						compare(t, mask(got), mask(want))
					})
				}
			})
		})
	}
}
