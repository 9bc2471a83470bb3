package history_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
)

// plant has what is needed to put a fault into a server.
type plant struct {
	t      *testing.T
	ctx    context.Context
	c      *redis.Client
	prefix string
}

func (p *plant) must(cmd redis.Cmder) {
	p.t.Helper()
	if cmd.Err() != nil {
		p.t.Fatal(cmd.Err())
	}
}

// key returns the first key whose name goes on like this after the prefix.
func (p *plant) key(like string) string {
	p.t.Helper()
	keys := p.c.Keys(p.ctx, p.prefix+":"+like+"*").Val()
	if len(keys) == 0 {
		p.t.Fatalf("no key like %s", like)
	}
	return slices.Min(keys)
}

// present is key for a register that is not deleted and has been written more
// than once.
func (p *plant) present(kind string) string {
	p.t.Helper()
	for _, k := range p.c.Keys(p.ctx, p.prefix+":"+kind+":*").Val() {
		if v := p.c.Get(p.ctx, k).Val(); v != "" && v != firstWrite(k) {
			return k
		}
	}
	p.t.Skip("all registers happen to be deleted")
	return ""
}

// firstWrite returns what the owner of a register wrote first.
func firstWrite(register string) string {
	parts := strings.Split(register, ":")
	return "0." + parts[len(parts)-2] + ".1"
}

// entry returns an entry in the middle of the stream.
func (p *plant) entry() redis.XMessage { return p.c.XRange(p.ctx, p.key("xadd"), "-", "+").Val()[20] }

// swap exchanges the first two neighbours in the list that are, or are not, of
// the same writer.
func (p *plant) swap(same bool) {
	p.t.Helper()
	key := p.key("rpush")
	list := p.c.LRange(p.ctx, key, 0, -1).Val()
	for i := range len(list) - 1 {
		a, b := strings.Split(list[i], ".")[1], strings.Split(list[i+1], ".")[1]
		if (a == b) == same {
			p.must(p.c.LSet(p.ctx, key, int64(i), list[i+1]))
			p.must(p.c.LSet(p.ctx, key, int64(i+1), list[i]))
			return
		}
	}
	p.t.Skip("no such neighbours this time")
}

// TestFaultsSeenWhileWriting plants faults under running writers, who must
// notice by the replies.
func TestFaultsSeenWhileWriting(t *testing.T) {
	for _, test := range []struct {
		name  string
		kinds []history.Kind
		want  history.ViolationKind
		plant func(p *plant)
	}{
		{"a counter goes back", on(history.Incr), history.Doubled, func(p *plant) { p.must(p.c.DecrBy(p.ctx, p.key("incr"), 50)) }},
		{"a list is cut short", on(history.RPush), history.Stale, func(p *plant) {
			p.must(p.c.LTrim(p.ctx, p.key("rpush"), 0, 5)) // shorter than any writer has seen it
		}},
		{"a register comes back from the dead", on(history.Register), history.Stale, func(p *plant) {
			p.must(p.c.Set(p.ctx, p.prefix+":set:0:0", "0.0.1", 0))
		}},
		{"the sum of the accounts changes", on(history.Transfer), history.Stale, func(p *plant) {
			p.must(p.c.Incr(p.ctx, p.key("{multi*}:to")))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := redistest.Start(t)
			h := history.New(history.Config{Addr: s.Addr(), Kinds: test.kinds, Keys: 1, Writers: 2})
			p := &plant{t: t, ctx: ctx(t), c: s.Client(0), prefix: h.Prefix()}
			running, cancel := context.WithCancel(ctx(t))
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- h.Run(running) }()
			redistest.Eventually(t, 10*time.Second, func() bool { return h.Stats().Acked > 300 }, "some writes")
			for range 40 { // the register's next write may hide one of them
				test.plant(p)
				planted := h.Stats().Acked
				redistest.Eventually(t, 10*time.Second, func() bool { return h.Stats().Acked > planted+10 }, "more writes")
			}
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if r := verify(t, h, s, nil); r.Count[test.want] == 0 {
				t.Errorf("want %s: %v", test.want, r)
			}
		})
	}
}
