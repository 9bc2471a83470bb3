package pipe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is two servers and a pipe between database 0 of one and database 3 of the other.
type rig struct {
	src, dst *redis.Client
	ways     *Ways
	pipe     *Pipe
}

func newRig(t *testing.T, big int64, opts ...redistest.Option) *rig {
	t.Helper()
	return between(t, big, redistest.Start(t, opts...), redistest.Start(t, opts...))
}

func between(t *testing.T, big int64, from, to *redistest.Server) *rig {
	t.Helper()
	r := &rig{src: from.Client(0), dst: to.Client(3)}
	r.ways = &Ways{Source: dial(t, from.URL(0), 0), Big: big}
	r.pipe = New(r.ways, dial(t, to.URL(0), 3))
	t.Cleanup(r.pipe.Close)
	return r
}

func dial(t *testing.T, url string, db int) Dial {
	t.Helper()
	e, err := config.Server{URL: config.Secret(url)}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	pool := conn.New(e, "test", 5*time.Second)
	t.Cleanup(func() { _ = pool.Close() })
	return func(ctx context.Context) (*conn.Bundle, error) { return pool.Bundle(ctx, router.Place{DB: db}, nil) }
}

// copy takes all keys through the pipe, some in each job, and returns the outcomes.
func (r *rig) copy(t *testing.T, keys []string, each int) map[string]value.Outcome {
	t.Helper()
	got := make(map[string]value.Outcome)
	for len(keys) > 0 || !r.pipe.Idle() {
		var next *Job
		if n := min(each, len(keys)); n > 0 {
			next = NewJob(keys[:n], nil)
			keys = keys[n:]
		}
		out, err := r.pipe.Step(t.Context(), next)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range out {
			for i, k := range j.Keys {
				got[k] = j.Outcomes[i]
			}
		}
	}
	return got
}

func do(t *testing.T, c *redis.Client, line string) any {
	t.Helper()
	var args []any
	for _, w := range strings.Fields(line) {
		args = append(args, w)
	}
	v, err := c.Do(t.Context(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("%s: %v", line, err)
	}
	return v
}

var servers = []struct {
	name string
	opts []redistest.Option
}{
	{"new", nil},
	{"old", []redistest.Option{
		redistest.WithRenamed("UNLINK", ""), redistest.WithRenamed("PEXPIRETIME", ""), redistest.WithRenamed("MEMORY", ""),
	}},
}

func TestCopies(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, 1<<20, s.opts...)
			lines := []string{
				"SET string v", "SET number 42", "SET soon v PX 600000", "RPUSH list a b c", "SADD set 1 2 3",
				"ZADD zset 1.5 a -inf b", "HSET hash f v", "XADD stream 5-1 f v", "XGROUP CREATE stream g 0", "PFADD hll a b",
				"SETRANGE long 100000 x",
			}
			keys := make([]string, 0, 300)
			seen := map[string]bool{}
			for _, l := range lines {
				do(t, r.src, l)
				if k := strings.Fields(l)[1]; !seen[k] && k != "CREATE" {
					seen[k] = true
					keys = append(keys, k)
				}
			}
			for i := range 200 {
				k := fmt.Sprint("gone", i)
				do(t, r.dst, "SET "+k+" old")
				keys = append(keys, k)
			}
			do(t, r.dst, "RPUSH string another type")
			// The first answers may only have taught the pipe what a server cannot do.
			for round := range 2 {
				var again []string
				for k, o := range r.copy(t, keys, 7) {
					switch {
					case errors.Is(o.Err, ErrChanged) && round == 0:
						again = append(again, k)
					case o.Err != nil:
						t.Errorf("%s: %v", k, o.Err)
					case strings.HasPrefix(k, "gone") != o.Removed, o.Removed == o.Copied, o.Copied != (o.Bytes > 0):
						t.Errorf("%s: %+v", k, o)
					}
				}
				keys = again
			}
			for k := range seen {
				if d, err := value.Equal(t.Context(), r.src, r.dst, k, k); err != nil || !d.Equal() || d.Gone {
					t.Errorf("%s: %+v, %v", k, d, err)
				}
			}
			if n := do(t, r.dst, "DBSIZE"); n != int64(len(seen)) {
				t.Errorf("%v keys on the target, not %d", n, len(seen))
			}
		})
	}
}

// TestAsksForExpiriesWhereThereAreSome counts the questions.
func TestAsksForExpiriesWhereThereAreSome(t *testing.T) {
	r := newRig(t, 1<<20)
	r.ways.Ours = []string{"ours:there", "ours:not", "ours:for ever"}
	do(t, r.src, "SET ours:there v PX 1000000")
	do(t, r.src, "SET ours:for v")
	asked := func() int {
		return strings.Count(fmt.Sprint(do(t, r.src, "INFO commandstats")), "cmdstat_pexpiretime:")
	}
	keys := make([]string, 2*askFrom)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
		do(t, r.src, "SET "+keys[i]+" v")
	}
	do(t, r.src, "CONFIG RESETSTAT")
	r.copy(t, keys, askFrom)
	if asked() > 0 {
		t.Error("keys were asked for their expiries where none has one")
	}
	do(t, r.src, "PEXPIRE k3 1000000")
	r.copy(t, keys, askFrom)
	if asked() == 0 || do(t, r.dst, "PEXPIRETIME k3") != do(t, r.src, "PEXPIRETIME k3") {
		t.Errorf("expires at %v, not at %v", do(t, r.dst, "PEXPIRETIME k3"), do(t, r.src, "PEXPIRETIME k3"))
	}
	do(t, r.src, "PERSIST k3")
	r.copy(t, keys, askFrom)
	if got := do(t, r.dst, "PTTL k3"); got != int64(-1) {
		t.Errorf("an expiry that was taken away is still there: %v", got)
	}
}

func TestRefusesTheBig(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, 100_000, s.opts...)
			do(t, r.src, "SET small v")
			do(t, r.src, "SETRANGE string 200000 x")
			for i := range 2000 {
				do(t, r.src, fmt.Sprintf("RPUSH list %d-%s", i, strings.Repeat("x", 200)))
			}
			got := r.copy(t, []string{"string", "small", "list"}, 3)
			for _, k := range []string{"string", "list"} {
				if !errors.Is(got[k].Err, value.ErrTooBig) {
					t.Errorf("%s: %+v", k, got[k])
				}
			}
			if o := got["small"]; o.Err != nil && !errors.Is(o.Err, ErrChanged) {
				t.Errorf("small: %+v", o)
			}
		})
	}
}

// TestLargeGoesThrough relays payloads that are many times larger than any buffer.
func TestLargeGoesThrough(t *testing.T) {
	r := newRig(t, 0)
	do(t, r.src, "SETRANGE a 20000000 x")
	if err := r.src.Set(t.Context(), "b", strings.Repeat("0123456789abcdef", 1<<17), 0).Err(); err != nil {
		t.Fatal(err)
	}
	for k, o := range r.copy(t, []string{"a", "absent", "b"}, 2) {
		if o.Err != nil || o.Copied == (k == "absent") {
			t.Errorf("%s: %+v", k, o)
		}
	}
	for _, k := range []string{"a", "b"} {
		if do(t, r.src, "GET "+k) != do(t, r.dst, "GET "+k) {
			t.Errorf("%s differs", k)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Run("dump", func(t *testing.T) { // by the source, of one command
		r := newRig(t, 1<<20, redistest.WithRenamed("DUMP", ""))
		do(t, r.src, "SET k v")
		for k, o := range r.copy(t, []string{"k", "absent"}, 2) {
			if !errors.Is(o.Err, value.ErrRestoreRefused) {
				t.Errorf("%s: %+v", k, o)
			}
		}
	})
	t.Run("restore", func(t *testing.T) { // by the target, as if it were older
		r := newRig(t, 1<<20, redistest.WithRenamed("RESTORE", ""))
		do(t, r.src, "SET k v")
		if o := r.copy(t, []string{"k"}, 1)["k"]; !errors.Is(o.Err, value.ErrRestoreRefused) {
			t.Errorf("%+v", o)
		}
	})
	t.Run("memory", func(t *testing.T) {
		r := newRig(t, 1<<20)
		do(t, r.src, "SET k v")
		do(t, r.dst, "CONFIG SET maxmemory 1")
		if o := r.copy(t, []string{"k"}, 1)["k"]; !errors.Is(o.Err, value.ErrOutOfMemory) {
			t.Errorf("%+v", o)
		}
		do(t, r.dst, "CONFIG SET maxmemory 0")
		if o := r.copy(t, []string{"k"}, 1)["k"]; !o.Copied {
			t.Errorf("%+v", o)
		}
	})
}

// TestServerDies has the outcomes unknown of what was sent to a target that has gone,
// and of nothing else; and the same pipe goes on when it is back.
func TestServerDies(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	r := between(t, 1<<20, from, to)
	do(t, r.src, "SET k v")
	step := func(j *Job) ([]*Job, error) { return r.pipe.Step(t.Context(), j) }
	first, second, third := NewJob([]string{"k"}, nil), NewJob([]string{"k2"}, nil), NewJob([]string{"k3"}, nil)
	for _, j := range []*Job{first, second} {
		if out, err := step(j); err != nil || len(out) > 0 {
			t.Fatal(out, err)
		}
	} // first is written, second has its sizes
	to.Kill()
	out, err := step(third)
	for err == nil && !r.pipe.Idle() { // the answer may have come before the end
		var more []*Job
		more, err = step(nil)
		out = append(out, more...)
	}
	if err == nil || len(out) != 3 {
		t.Fatalf("%d jobs, %v", len(out), err)
	}
	if first.Failed && !first.Unknown || third.Unknown || !third.Failed || !r.pipe.Idle() {
		t.Errorf("%+v %+v %+v", first, second, third)
	}
	if err := to.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := r.copy(t, []string{"k"}, 1)["k"]; !o.Copied {
		t.Errorf("%+v", o)
	}
}
