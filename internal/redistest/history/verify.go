package history

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Creds is how Verify logs in. The zero value is the default user without a
// password.
type Creds struct{ Username, Password string }

// verifier checks one database.
type verifier struct {
	h      *History
	s      *space
	client *redis.Client
	report *Report
	found  *findings
}

// Verify reads everything back from the server at addr, where the data finally
// are, and compares it with the record. mapDB says into which database there a
// database of the writers has gone; nil leaves the numbers as they are.
// Nobody may write these keys meanwhile. The error says that the server could
// not be read; what is wrong with the data is in the report.
func (h *History) Verify(ctx context.Context, addr string, creds Creds, mapDB func(int) int) (Report, error) {
	if h.bad != nil {
		return Report{}, h.bad
	}
	if !h.busy.CompareAndSwap(false, true) {
		return Report{}, errBusy
	}
	defer h.busy.Store(false)
	if mapDB == nil {
		mapDB = func(db int) int { return db }
	}
	h.mu.Lock()
	found := h.found.clone()
	h.mu.Unlock()
	report := Report{Stats: h.Stats()}
	for _, s := range h.spaces {
		if err := h.verifySpace(ctx, addr, creds, mapDB(s.db), s, &report, &found); err != nil {
			return Report{}, fmt.Errorf("history: verify database %d at %s database %d: %w", s.db, addr, mapDB(s.db), err)
		}
	}
	report.Violations, report.Count = found.list, found.count
	return report, nil
}

func (h *History) verifySpace(ctx context.Context, addr string, creds Creds, db int, s *space, report *Report, found *findings) error {
	client := redis.NewClient(&redis.Options{
		Addr: addr, Username: creds.Username, Password: creds.Password, DB: db,
		PoolSize: 1, PipelinePoolSize: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
		ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer func() { _ = client.Close() }()
	v := &verifier{h: h, s: s, client: client, report: report, found: found}
	for _, check := range []func(context.Context) error{
		v.counters, v.registers, v.lists, v.sets, v.streams, v.transfers,
	} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) add(kind ViolationKind, key, format string, args ...any) {
	v.found.add(Violation{Kind: kind, Database: v.s.db, Key: key, Detail: fmt.Sprintf(format, args...)})
}

// chunk is how many keys are read in one pipeline.
const chunk = 100

// pipelined calls queue for 0 … n-1, some at a time, runs what it queued, and
// then calls check for the same numbers.
func (v *verifier) pipelined(ctx context.Context, n, size int, queue func(redis.Pipeliner, int), check func(int) error) error {
	for from := 0; from < n; from += size {
		to := min(from+size, n)
		pipe := v.client.Pipeline()
		for i := from; i < to; i++ {
			queue(pipe, i)
		}
		if pipe.Len() > 0 {
			_, _ = pipe.Exec(ctx) // each command has its own error, which check looks at
		}
		for i := from; i < to; i++ {
			if err := check(i); err != nil {
				return err
			}
		}
		v.report.Keys += to - from
	}
	return nil
}

// counters checks INCR and HINCRBY.
func (v *verifier) counters(ctx context.Context) error {
	all := append(append([]*counter(nil), v.s.counters...), v.s.fields...)
	got := make([]*redis.StringCmd, len(all))
	queue := func(p redis.Pipeliner, i int) {
		if c := all[i]; c.field == "" {
			got[i] = p.Get(ctx, c.key)
		} else {
			got[i] = p.HGet(ctx, c.key, c.field)
		}
	}
	return v.pipelined(ctx, len(all), chunk, queue, func(i int) error {
		value, err := number(got[i])
		if err != nil {
			return v.odd(all[i].name(), err)
		}
		v.counter(all[i], value)
		return nil
	})
}

// counter checks the final value of one.
func (v *verifier) counter(c *counter, value int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case value < c.acked:
		v.add(Lost, c.name(), "is %d after %d acknowledged increments", value, c.acked)
	case value < c.high:
		v.add(Lost, c.name(), "is %d after an increment answered %d", value, c.high)
	case value > c.acked+c.unknown && value <= c.acked+c.unknown+c.refused:
		v.add(RefusedButApplied, c.name(), "is %d after %d acknowledged and %d unknown increments; %d were refused", value, c.acked, c.unknown, c.refused)
	case value > c.acked+c.unknown:
		v.add(Doubled, c.name(), "is %d after %d acknowledged and %d unknown increments", value, c.acked, c.unknown)
	}
}

// registers checks SET and SETEX: value, absence and expiry.
func (v *verifier) registers(ctx context.Context) error {
	for _, kind := range []Kind{Register, SetEx} {
		regs := v.s.regs[kind]
		values, expiries := make([]*redis.StringCmd, len(regs)), make([]*redis.DurationCmd, len(regs))
		name := func(i int) string {
			return registerKey(v.h.cfg.Prefix, kind, i/v.h.cfg.Keys, i%v.h.cfg.Keys)
		}
		asked := make([]time.Time, len(regs))
		queue := func(p redis.Pipeliner, i int) {
			asked[i] = time.Now()
			values[i], expiries[i] = p.Get(ctx, name(i)), p.PTTL(ctx, name(i))
		}
		err := v.pipelined(ctx, len(regs), chunk, queue, func(i int) error {
			answered := time.Now()
			text, err := values[i].Result()
			present, err := absent(err)
			if err != nil {
				return v.odd(name(i), err)
			}
			m, wrong := regs[i].judge(id{db: v.s.db, writer: i / v.h.cfg.Keys}, text, present)
			if wrong != nil {
				v.add(wrong.Kind, name(i), "%s", wrong.Detail)
				return nil
			}
			if !present {
				return nil
			}
			left, err := expiries[i].Result()
			if err != nil {
				return v.odd(name(i), err)
			}
			v.expiry(kind, name(i), m, left, asked[i], answered)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expiry checks the time that a key has left. It was read between asked and
// answered, and set between m.sent and m.done.
func (v *verifier) expiry(kind Kind, key string, m mark, left time.Duration, asked, answered time.Time) {
	if left < 0 {
		if kind == SetEx {
			v.add(Lost, key, "has no expiry; write %d set one of %v", m.seq, v.h.cfg.TTL)
		}
		return
	}
	if kind != SetEx {
		v.add(Stale, key, "has an expiry, which write %d took away", m.seq)
		return
	}
	ttl, slack := v.h.cfg.TTL, v.h.cfg.TTLTolerance
	if early := m.sent.Add(ttl).Sub(answered.Add(left)); early > slack {
		v.add(Stale, key, "expires %v too early", early)
	}
	if late := asked.Add(left).Sub(m.done.Add(ttl)); late > slack {
		v.add(Stale, key, "expires %v too late", late)
	}
}

// odd reports a key of another type than it should have, and returns any other
// error.
func (v *verifier) odd(key string, err error) error {
	if isReply(err) && len(err.Error()) > 9 && err.Error()[:9] == "WRONGTYPE" {
		v.add(Lost, key, "holds another type")
		return nil
	}
	return fmt.Errorf("key %s: %w", key, err)
}
