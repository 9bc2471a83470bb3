package proxy

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestRandomSessionsBehindAPrefix has many clients lead lives that nobody has thought of in
// parts of one database, beside one another and keys of nobody's. Each must see, to the
// byte, what it sees of a server of its own.
func TestRandomSessionsBehindAPrefix(t *testing.T) {
	seed := cmp.Or(*randomSeed, rand.Uint64N(1<<32))
	const clients, steps = 24, 60
	eachMode(t, func(t *testing.T, mode setting) {
		acl := redistest.WithACL("lim on nopass ~* &* +@all -multi -blpop -mget -select -subscribe")
		direct, target := redistest.Start(t, withDebug, acl), redistest.Start(t, withDebug, acl)
		w := newWorldMapped(t, redistest.Start(t), target, router.Route{Side: router.Target, Epoch: 1, Map: partsOfOne(t)}, mode)
		part := stage{w.proxy.Addr().String(), target, func() {}}
		for round := range *randomRounds {
			for s, with := range map[*redistest.Server]string{direct: "", target: "c0:"} {
				c := s.Client(0)
				c.FlushAll(context.Background())
				c.Set(context.Background(), with+"big", strings.Repeat("b", 300_000), 0)
				_ = c.Close()
			}
			part.addForeign(t)
			var wg sync.WaitGroup
			for i := range clients {
				wg.Go(func() {
					from := seed + uint64(round*clients+i)
					l := newLife(from, fmt.Sprintf("c%d", i), steps, true)
					l.lines = slices.DeleteFunc(l.lines, func(line string) bool { return line == "NOSUCH command" }) // refused in a transaction in other words
					pieces, rests := l.wire()
					want := mask(live(direct.Addr(), pieces, make([]time.Duration, len(rests))))
					got := mask(live(w.proxy.Addr().String(), pieces, rests))
					if got == want {
						return
					}
					at := 0
					for at < len(got) && at < len(want) && got[at] == want[at] {
						at++
					}
					t.Errorf("-from %d: differs at byte %d:\n got …%.300q\nwant …%.300q", from, at, got[max(0, at-100):], want[max(0, at-100):])
				})
			}
			wg.Wait()
			if part.checkForeign(t); t.Failed() {
				return
			}
		}
	})
}
