package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// Writers change the source, and what they wrote is copied, in order: nothing must
// be reported, and what is planted must be.
func TestNothingToReportUnderLoad(t *testing.T) {
	s := start(t)
	fill(t, 300, s.src[0], s.dst[0])
	m := startMirror(t, s.src[0], s.dst[0], 2)
	cfg := s.config(map[int]int{0: 0})
	cfg.Settle, cfg.Settled = 20*time.Millisecond, m.settled
	var again int64
	for i := 0; i < 3 || again == 0 && i < 100; i++ { // a walk may by chance meet no key that differs just then
		r, err := Run(t.Context(), cfg)
		if err != nil || !r.OK() || r.Differing != 0 {
			t.Errorf("%v, %v", r, err)
		}
		d := r.Databases[0]
		again += d.Again
		t.Logf("%d keys, %d looks again, %d watched, %d followed, %d moving", d.Keys, d.Again, d.Watched, d.Followed, d.Moving)
	}
	if again == 0 {
		t.Error("nothing was looked at again: there was no load")
	}
	// What is wrong in the middle of the same load is found, and nothing else.
	run(t, s.dst[0], "SET", "planted", 1)
	run(t, s.dst[0], "PEXPIREAT", "fixed:3", far+3+1000)
	run(t, s.dst[0], "DEL", "fixed:4")
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	wantFound(t, r, map[string]value.Kind{"planted": value.Extra, "fixed:3": value.Expiry, "fixed:4": value.Missing})
}

// A key that is written all the time and does not follow is a difference too.
func TestOneThatDoesNotFollow(t *testing.T) {
	s := start(t)
	run(t, s.src[0], "SET", "dead", 0)
	run(t, s.dst[0], "SET", "dead", 0)
	m := startMirror(t, s.src[0], s.dst[0], 1)
	m.skip("dead")
	stop := make(chan struct{})
	var w sync.WaitGroup
	w.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				m.write(t, "INCR", "dead")
			}
		}
	})
	defer w.Wait()
	defer close(stop)
	cfg := s.config(map[int]int{0: 0})
	cfg.Settle, cfg.Settled = 20*time.Millisecond, m.settled
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	wantFound(t, r, map[string]value.Kind{"dead": value.Value})
}

// TestTheLagIsNoDifference stops the copying: what has not arrived is not reported,
// but that nobody can say is.
func TestTheLagIsNoDifference(t *testing.T) {
	s := start(t)
	run(t, s.src[0], "SET", "k", 1)
	cfg := s.config(map[int]int{0: 0})
	cfg.Settle = 2 * time.Millisecond
	cfg.Settled = func(context.Context, int, []string) ([]bool, error) { return nil, fmt.Errorf("no feed") }
	r, err := Run(t.Context(), cfg)
	if err != nil || r.Differing != 0 || r.Undecided != 1 || r.Verdict != Unknown || r.OK() {
		t.Errorf("%+v, %v", r, err)
	}
}

// mirror copies what its writers write, in order.
type mirror struct {
	src, dst *redis.Client
	marks    chan mark
	writing  sync.RWMutex // read-held from a write to its mark
	mu       sync.Mutex
	skipped  map[string]bool
}

// mark is a key, or a question that is answered when all before it is copied.
type mark struct {
	key  string
	done chan struct{}
}

func startMirror(t *testing.T, src, dst *redis.Client, writers int) *mirror {
	m := &mirror{src: src, dst: dst, marks: make(chan mark, 100_000), skipped: make(map[string]bool)}
	for _, c := range []*redis.Client{src, dst} {
		for i := range 100 {
			run(t, c, "SET", fmt.Sprintf("fixed:%d", i), i, "PXAT", far+i)
		}
	}
	stop := make(chan struct{})
	var load, copier sync.WaitGroup
	copier.Go(func() { m.copy(t) })
	for w := range writers {
		load.Go(func() { m.load(t, stop, w) })
	}
	t.Cleanup(func() {
		close(stop)
		load.Wait()
		close(m.marks)
		copier.Wait()
	})
	return m
}

func (m *mirror) skip(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skipped[key] = true
}

func (m *mirror) settled(ctx context.Context, _ int, keys []string) ([]bool, error) {
	m.writing.Lock()
	done := make(chan struct{})
	m.marks <- mark{done: done}
	m.writing.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out := make([]bool, len(keys))
	for i := range out {
		out[i] = true
	}
	return out, nil
}

func (m *mirror) copy(t *testing.T) {
	var b value.Batch
	for next := range m.marks {
		keys := map[string]bool{}
		for next.done == nil {
			m.mu.Lock()
			if !m.skipped[next.key] {
				keys[next.key] = true
			}
			m.mu.Unlock()
			if len(keys) >= 100 || len(m.marks) == 0 {
				break
			}
			next = <-m.marks
		}
		list := make([]string, 0, len(keys))
		for k := range keys {
			list = append(list, k)
		}
		if _, err := b.Copy(context.Background(), m.src, m.dst, list); err != nil {
			t.Error(err)
		}
		if next.done != nil {
			close(next.done)
		}
	}
}

func (m *mirror) write(t *testing.T, args ...any) {
	m.writing.RLock()
	defer m.writing.RUnlock()
	if err := m.src.Do(context.Background(), args...).Err(); err != nil {
		t.Error(err)
	}
	m.marks <- mark{key: args[1].(string)}
}

func (m *mirror) load(t *testing.T, stop <-chan struct{}, w int) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		i := rand.IntN(300)
		cmds := [][]any{
			{"SET", fmt.Sprintf("str:%d", i), n},
			{"SET", fmt.Sprintf("ttl:%d", i), n, "PX", 1 + rand.IntN(60)},
			{"RPUSH", fmt.Sprintf("list:%d", i), n},
			{"DEL", fmt.Sprintf("list:%d", rand.IntN(300))},
			{"ZINCRBY", fmt.Sprintf("zset:%d", i), "0.3", "a"},
			{"XADD", fmt.Sprintf("stream:%d", i), "*", "w", w},
			{"INCR", "hot"},
			{"INCR", "hot"},
			{"INCR", "hot"},
		}
		m.write(t, cmds[n%len(cmds)]...)
	}
}
