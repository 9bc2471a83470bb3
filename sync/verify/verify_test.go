package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/value"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// sides are two servers with clients by database.
type sides struct{ src, dst map[int]*redis.Client }

func start(t *testing.T, opts ...redistest.Option) sides {
	t.Helper()
	a, b := redistest.Start(t, opts...), redistest.Start(t, opts...)
	s := sides{map[int]*redis.Client{}, map[int]*redis.Client{}}
	for db := range 8 {
		s.src[db], s.dst[db] = a.Client(db), b.Client(db)
	}
	return s
}

func (s sides) config(databases map[int]int) Config {
	places := make(map[int]router.Place)
	for source, db := range databases {
		places[source] = router.Place{DB: db}
	}
	return Config{
		Source:    func(p router.Place) *redis.Client { return s.src[p.DB] },
		Target:    func(p router.Place) *redis.Client { return s.dst[p.DB] },
		Databases: places, Settle: 10 * time.Millisecond, Rounds: 3, Batch: 50,
	}
}

func run(t *testing.T, c *redis.Client, args ...any) {
	t.Helper()
	if err := c.Do(context.Background(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

const far = 4_000_000_000_000

// fill writes keys of every type; the same on both sides.
func fill(t *testing.T, n int, cs ...*redis.Client) {
	t.Helper()
	for _, c := range cs {
		p := c.Pipeline()
		ctx := t.Context()
		for i := range n {
			p.Do(ctx, "SET", fmt.Sprintf("str:%d", i), i, "PXAT", far+i)
			p.Do(ctx, "RPUSH", fmt.Sprintf("list:%d", i), "a", "b", i)
			p.Do(ctx, "HSET", fmt.Sprintf("hash:%d", i), "f", i)
			p.Do(ctx, "SADD", fmt.Sprintf("set:%d", i), "a", i)
			p.Do(ctx, "ZADD", fmt.Sprintf("zset:%d", i), "0.1", "a")
			p.Do(ctx, "XADD", fmt.Sprintf("stream:%d", i), "1-1", "f", i)
			p.Do(ctx, "XGROUP", "CREATE", fmt.Sprintf("stream:%d", i), "g", "0")
		}
		if _, err := p.Exec(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindsEachKindOfDifference(t *testing.T) {
	findsEachKind(t, start(t))
}

// TestFindsEachKindWithoutDump lets the servers forbid what payloads and sizes are read
// by.
func TestFindsEachKindWithoutDump(t *testing.T) {
	findsEachKind(t, start(t, redistest.WithRenamed("DUMP", ""), redistest.WithRenamed("MEMORY", ""), redistest.WithRenamed("PEXPIRETIME", "")))
}

func findsEachKind(t *testing.T, s sides) {
	fill(t, 200, s.src[0], s.dst[5])
	fill(t, 10, s.src[3], s.dst[0])
	dst := s.dst[5]
	run(t, dst, "DEL", "str:1")
	run(t, dst, "SET", "extra:1", 1)
	run(t, dst, "DEL", "list:1")
	run(t, dst, "SET", "list:1", 1)
	run(t, dst, "HSET", "hash:1", "f", "x")
	run(t, dst, "ZADD", "zset:1", "0.10000000000000002", "a")
	run(t, dst, "PEXPIREAT", "str:2", far+2+50)
	run(t, dst, "XGROUP", "DESTROY", "stream:1", "g")
	run(t, dst, "XGROUP", "CREATECONSUMER", "stream:2", "g", "c")
	run(t, dst, "SET", "crossfade:tmp:x", 1)
	run(t, s.src[0], "SET", "crossfade:fence", 1)
	want := map[string]value.Kind{
		"str:1": value.Missing, "extra:1": value.Extra, "list:1": value.Type, "hash:1": value.Value,
		"zset:1": value.Value, "str:2": value.Expiry, "stream:1": value.Group, "stream:2": value.Group,
	}
	cfg := s.config(map[int]int{0: 5, 3: 0})
	told := make(map[string]int)
	cfg.OnDiffer = func(db int, key string, _ value.Diff) {
		if db != 0 {
			t.Errorf("told of database %d", db)
		}
		told[key]++
	}
	steps := make(map[string]bool)
	cfg.Progress = func(p Progress) { steps[p.Step] = true }
	r, err := Run(t.Context(), cfg)
	if err != nil || r.OK() || !r.Complete {
		t.Fatal(r, err)
	}
	got := make(map[string]value.Kind)
	for _, e := range r.Databases[0].Examples {
		got[string(e.Key)] = e.Kind
		if told[string(e.Key)] != 1 || e.Words == "" {
			t.Errorf("%+v, told %d times", e, told[string(e.Key)])
		}
	}
	if !maps.Equal(got, want) || r.Differing != int64(len(want)) || len(told) != len(want) {
		t.Errorf("found %v, not %v", got, want)
	}
	if d := r.Databases[1]; d.Source != 3 || d.Target != 0 || d.Differing != 0 || d.Keys < 60 {
		t.Errorf("%+v", d)
	}
	if r.Databases[0].Keys < 1200 || r.Bytes == 0 || len(steps) != 3 {
		t.Errorf("%+v, %v", r, steps)
	}
	checkWords(t, r)
}

func checkWords(t *testing.T, r Report) {
	t.Helper()
	t.Logf("\n%s", r)
	for line := range strings.Lines(r.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(text), `"target_keys":`) || !strings.Contains(string(text), `"kind":"expiry"`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestManyDifferencesStayBounded(t *testing.T) {
	s := start(t)
	fill(t, 200, s.src[0])
	cfg := s.config(map[int]int{0: 0})
	cfg.Pending, cfg.Settle = 60, time.Millisecond
	most := 0
	cfg.Progress = func(p Progress) { most = max(most, p.Unsettled) }
	r, err := Run(t.Context(), cfg)
	if err != nil || r.Differing != 1200 || len(r.Databases[0].Examples) != MaxExamples || r.Databases[0].Kinds[value.Missing] != 1200 {
		t.Error(r, err)
	}
	if most > 60 {
		t.Errorf("%d keys remembered", most)
	}
}

func TestSampleSeesTheSameKeysBothWays(t *testing.T) {
	s := start(t)
	fill(t, 300, s.src[0], s.dst[0])
	cfg := s.config(map[int]int{0: 0})
	cfg.Sample = 0.2
	r, err := Run(t.Context(), cfg)
	d := r.Databases[0]
	if err != nil || !r.OK() || d.Keys < 200 || d.Keys > 540 || d.TargetKeys < d.Keys-20 || d.TargetKeys > d.Keys+20 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestExpiredOnBothIsNone(t *testing.T) {
	s := start(t)
	run(t, s.src[0], "SET", "k", 1, "PX", 100)
	cfg := s.config(map[int]int{0: 0})
	cfg.Rounds, cfg.Settle = 20, 50*time.Millisecond
	r, err := Run(t.Context(), cfg)
	if err != nil || !r.OK() || r.Databases[0].Again == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestErrorsAndCancellation(t *testing.T) {
	if _, err := Run(t.Context(), Config{Sample: 2}); err == nil {
		t.Error("a configuration without servers is taken")
	}
	s := start(t)
	fill(t, 5, s.src[0])
	ctx, cancel := context.WithCancel(t.Context())
	cfg := s.config(map[int]int{0: 0})
	cfg.Settle = time.Minute
	cfg.Progress = func(Progress) { cancel() }
	if r, err := Run(ctx, cfg); err == nil || r.OK() || r.Complete || len(r.Databases) != 1 {
		t.Error(r, err)
	}
}
