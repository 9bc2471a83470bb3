package history

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

func (w *writer) violate(s *space, kind ViolationKind, key, format string, args ...any) {
	w.h.violate(Violation{Kind: kind, Database: s.db, Key: key, Detail: fmt.Sprintf(format, args...)})
}

// incr adds one to a counter or to a field of a hash.
func (w *writer) incr(ctx context.Context, s *space, c *counter) {
	start := time.Now()
	var cmd *redis.IntCmd
	if c.field == "" {
		cmd = w.client(s.db).Incr(ctx, c.key)
	} else {
		cmd = w.client(s.db).HIncrBy(ctx, c.key, c.field, 1)
	}
	o := w.done(s, start, cmd.Err())
	w.h.stats.outcome(o)
	w.noteCount(s, c, o, cmd.Val())
}

// noteCount records an increment and checks its reply against all others.
func (w *writer) noteCount(s *space, c *counter, o outcome, reply int64) {
	fresh := c.note(o, reply)
	if o != acked {
		return
	}
	if !fresh {
		w.violate(s, Doubled, c.name(), "INCR answered %d twice (here writer %d): the counter went back", reply, w.n)
	}
	if reply <= w.last[c] {
		w.violate(s, Stale, c.name(), "INCR answered %d to writer %d after %d", reply, w.n, w.last[c])
	}
	w.last[c] = reply
}

func (c *counter) name() string {
	if c.field == "" {
		return c.key
	}
	return c.key + " field " + c.field
}

// register writes, deletes or reads a key of the writer's own.
func (w *writer) register(ctx context.Context, s *space, kind Kind, k int) {
	r := &s.regs[kind][w.n*w.h.cfg.Keys+k]
	key := registerKey(w.h.cfg.Prefix, kind, w.n, k)
	dice := w.rng.IntN(10)
	if dice < 3 || r.full() {
		w.read(ctx, s, r, key)
		return
	}
	r.issued++
	m := mark{seq: r.issued, del: dice == 3, sent: time.Now()}
	value := id{s.db, w.n, m.seq}.String()
	c := w.client(s.db)
	var err error
	switch {
	case m.del:
		err = c.Del(ctx, key).Err()
	case kind == SetEx:
		err = c.Do(ctx, "SETEX", key, int64(w.h.cfg.TTL/time.Second), value).Err()
	default:
		err = c.Set(ctx, key, value, 0).Err()
	}
	o := w.done(s, m.sent, err)
	m.done = time.Now()
	w.h.stats.outcome(o)
	r.note(m, o)
}

func registerKey(prefix string, kind Kind, writer, k int) string {
	return fmt.Sprintf("%s:%s:%d:%d", prefix, kind, writer, k)
}

// read checks that the writer sees its own last write, or a later one.
func (w *writer) read(ctx context.Context, s *space, r *register, key string) {
	start := time.Now()
	text, err := w.client(s.db).Get(ctx, key).Result()
	if w.done(s, start, err) != acked {
		return
	}
	w.h.stats.reads.Add(1)
	m, wrong := r.judge(id{db: s.db, writer: w.n}, text, err == nil)
	if wrong != nil {
		w.violate(s, wrong.Kind, key, "GET by writer %d: %s", w.n, wrong.Detail)
		return
	}
	r.saw(m)
}

// item adds a unique id to a list, a sorted set or a stream, alone or as part
// of a transaction or script.
func (w *writer) item(ctx context.Context, s *space, row *series) {
	it, n := row.reserve(w.n)
	value := id{s.db, w.n, n}
	start := time.Now()
	c := w.client(s.db)
	var (
		err error
		at  place
		o   outcome
	)
	switch row.kind {
	case RPush:
		at.lo, err = unsigned(c.RPush(ctx, it.name, value.String()))
	case ZAdd:
		var added int64
		added, err = c.ZAdd(ctx, it.name, redis.Z{Score: float64(n), Member: value.String()}).Result()
		if err == nil && added != 1 {
			w.violate(s, Doubled, it.name, "ZADD of %v answered %d: it was there before", value, added)
		}
	case XAdd:
		var entry string
		entry, err = c.XAdd(ctx, &redis.XAddArgs{Stream: it.name, Values: []any{"id", value.String()}}).Result()
		at = parseEntry(entry)
	case Transfer:
		at.lo, o, err = w.transfer(ctx, s, row, it, value)
	case Script:
		at.lo, err = unsigned(c.Eval(ctx, scriptText, []string{scriptCounter(it.name), it.name}, value.String()))
	}
	if row.kind == Transfer {
		o = w.settle(s, start, err, o)
	} else {
		o = w.done(s, start, err)
	}
	w.h.stats.outcome(o)
	w.noteItem(s, row, it, n, o, at)
}

// scriptText increments and appends in one.
const scriptText = `local n = redis.call('INCR', KEYS[1]) redis.call('RPUSH', KEYS[2], ARGV[1]) return n`

// unsigned reads a reply that is a length or a count.
func unsigned(cmd interface{ Err() error }) (uint64, error) {
	switch c := cmd.(type) {
	case *redis.IntCmd:
		return uint64(max(c.Val(), 0)), c.Err()
	case *redis.Cmd:
		if c.Err() != nil {
			return 0, c.Err()
		}
		v, err := c.Int64()
		return uint64(max(v, 0)), err
	}
	return 0, errors.New("not a number")
}

// noteItem records the outcome of id n. The reply's place must lie behind that
// of the writer's one before, and is compared with the true one by Verify.
func (w *writer) noteItem(s *space, row *series, it *items, n int, o outcome, at place) {
	it.outcomes[w.n][n] = o
	if row.kind == Script {
		fresh := it.counter.note(o, int64(at.lo))
		if o == acked && !fresh {
			w.violate(s, Doubled, scriptCounter(it.name), "EVAL answered %d twice: the counter went back", at.lo)
		}
	}
	if o != acked || row.kind == ZAdd {
		return
	}
	if !at.after(it.last[w.n]) {
		w.violate(s, Stale, it.name, "%s answered %v to writer %d after %v", row.kind, at, w.n, it.last[w.n])
	}
	it.last[w.n] = at
	it.places[w.n][n] = at.code()
}

// code shortens a place to what is kept of it: the index itself, or a hash of
// a stream's entry id. It is never 0.
func (p place) code() uint32 {
	if p.hi == 0 {
		return uint32(p.lo)
	}
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%d-%d", p.hi, p.lo)
	return max(h.Sum32(), 1)
}

// parseEntry reads a stream's entry id.
func parseEntry(text string) place {
	left, right, _ := strings.Cut(text, "-")
	hi, _ := strconv.ParseUint(left, 10, 64)
	lo, _ := strconv.ParseUint(right, 10, 64)
	return place{hi, lo}
}
