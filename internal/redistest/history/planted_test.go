package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
)

// planted are faults put in by hand, each with what the checker must call it.
var planted = []struct {
	name  string
	kinds []history.Kind
	want  history.ViolationKind
	plant func(p *plant)
}{
	{"a list loses an element", on(history.RPush), history.Lost, func(p *plant) {
		p.must(p.c.LSet(p.ctx, p.key("rpush"), 5, "gone"))
		p.must(p.c.LRem(p.ctx, p.key("rpush"), 1, "gone"))
	}},
	{"a list loses its last element", on(history.RPush), history.Lost, func(p *plant) {
		p.must(p.c.RPop(p.ctx, p.key("rpush")))
	}},
	{"a list is gone", on(history.RPush), history.Lost, func(p *plant) { p.must(p.c.Del(p.ctx, p.key("rpush"))) }},
	{"an element is pushed again", on(history.RPush), history.Doubled, func(p *plant) {
		p.must(p.c.RPush(p.ctx, p.key("rpush"), p.c.LIndex(p.ctx, p.key("rpush"), 3).Val()))
	}},
	{"two elements of one writer swap", on(history.RPush), history.Reordered, func(p *plant) { p.swap(true) }},
	{"two elements of two writers swap", on(history.RPush), history.Reordered, func(p *plant) { p.swap(false) }},
	{"a stranger's element", on(history.RPush), history.Doubled, func(p *plant) {
		p.must(p.c.RPush(p.ctx, p.key("rpush"), "stranger"))
	}},
	{"a counter goes up", on(history.Incr), history.Doubled, func(p *plant) { p.must(p.c.Incr(p.ctx, p.key("incr"))) }},
	{"a counter goes down", on(history.Incr), history.Lost, func(p *plant) { p.must(p.c.Decr(p.ctx, p.key("incr"))) }},
	{"a field goes down", on(history.HIncrBy), history.Lost, func(p *plant) {
		p.must(p.c.HIncrBy(p.ctx, p.key("hash"), "f1", -1))
	}},
	{"a hash is another type", on(history.HIncrBy), history.Lost, func(p *plant) {
		p.must(p.c.Set(p.ctx, p.key("hash"), "x", 0))
	}},
	{"a register is stale", on(history.Register), history.Stale, func(p *plant) {
		key := p.present("set")
		p.must(p.c.Set(p.ctx, key, firstWrite(key), 0))
	}},
	{"a register is gone", on(history.Register), history.Lost, func(p *plant) {
		p.must(p.c.Del(p.ctx, p.present("set")))
	}},
	{"a register has an expiry", on(history.Register), history.Stale, func(p *plant) {
		p.must(p.c.Expire(p.ctx, p.present("set"), time.Hour))
	}},
	{"an expiry is gone", on(history.SetEx), history.Lost, func(p *plant) {
		p.must(p.c.Persist(p.ctx, p.present("setex")))
	}},
	{"an expiry is too long", on(history.SetEx), history.Stale, func(p *plant) {
		p.must(p.c.PExpire(p.ctx, p.present("setex"), time.Hour+30*time.Second))
	}},
	{"an expiry is too short", on(history.SetEx), history.Stale, func(p *plant) {
		p.must(p.c.PExpire(p.ctx, p.present("setex"), time.Hour-30*time.Second))
	}},
	{"a member is gone", on(history.ZAdd), history.Lost, func(p *plant) { p.must(p.c.ZPopMin(p.ctx, p.key("zadd"))) }},
	{"a score is wrong", on(history.ZAdd), history.Stale, func(p *plant) {
		p.must(p.c.ZIncrBy(p.ctx, p.key("zadd"), 1, p.c.ZRange(p.ctx, p.key("zadd"), 0, 0).Val()[0]))
	}},
	{"an entry is gone", on(history.XAdd), history.Lost, func(p *plant) {
		p.must(p.c.XDel(p.ctx, p.key("xadd"), p.entry().ID))
	}},
	{"an entry is added again", on(history.XAdd), history.Doubled, func(p *plant) {
		p.must(p.c.XAdd(p.ctx, &redis.XAddArgs{Stream: p.key("xadd"), Values: p.entry().Values}))
	}},
	{"an entry moves to the end", on(history.XAdd), history.Reordered, func(p *plant) {
		e := p.entry()
		p.must(p.c.XDel(p.ctx, p.key("xadd"), e.ID))
		p.must(p.c.XAdd(p.ctx, &redis.XAddArgs{Stream: p.key("xadd"), Values: e.Values}))
	}},
	{"an account gains", on(history.Transfer), history.Lost, func(p *plant) {
		p.must(p.c.IncrBy(p.ctx, p.key("{multi*}:to"), 3))
	}},
	{"a transfer is half there", on(history.Transfer), history.Lost, func(p *plant) {
		p.must(p.c.RPop(p.ctx, p.key("{multi*}:journal")))
	}},
	{"a script's counter runs ahead", on(history.Script), history.Doubled, func(p *plant) {
		p.must(p.c.Incr(p.ctx, p.key("{eval*}:count")))
	}},
	{"a script's list falls behind", on(history.Script), history.Lost, func(p *plant) {
		p.must(p.c.RPop(p.ctx, p.key("{eval*}:list")))
	}},
}

func on(kinds ...history.Kind) []history.Kind { return kinds }

func TestPlantedFaultsAreFound(t *testing.T) {
	s := redistest.Start(t)
	for _, test := range planted {
		t.Run(test.name, func(t *testing.T) {
			c := s.Client(0)
			if err := c.FlushAll(ctx(t)).Err(); err != nil {
				t.Fatal(err)
			}
			h := history.New(history.Config{Addr: s.Addr(), Kinds: test.kinds, Keys: 1})
			write(t, h, 200)
			if r := verify(t, h, s, nil); !r.OK() {
				t.Fatalf("before the fault: %v", r)
			}
			test.plant(&plant{t: t, ctx: ctx(t), c: c, prefix: h.Prefix()})
			r := verify(t, h, s, nil)
			if r.OK() || r.Count[test.want] == 0 {
				t.Fatalf("want %s: %v", test.want, r)
			}
			if v := r.Violations[0]; v.Key == "" || v.Database != 0 || !strings.Contains(r.String(), v.Detail) {
				t.Errorf("violation is not described: %+v", v)
			}
		})
	}
}
