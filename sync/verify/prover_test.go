package verify

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/value"
)

// verdicts writes down what a prover tells.
type verdicts struct {
	mu    sync.Mutex
	found map[string]Found
	twice []string
}

func (v *verdicts) take(f Found) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, again := v.found[f.Key]; again {
		v.twice = append(v.twice, f.Key)
	}
	v.found[f.Key] = f
}

func (v *verdicts) kinds() map[string]value.Kind {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make(map[string]value.Kind)
	for key, f := range v.found {
		if f.Outcome == Differing {
			out[key] = f.Diff.Kind
		} else {
			out[key] = value.Same
		}
	}
	return out
}

func (v *verdicts) await(t *testing.T, n int) {
	t.Helper()
	redistest.Eventually(t, time.Minute, func() error {
		if got := v.kinds(); len(got) < n {
			return fmt.Errorf("%d of %d", len(got), n)
		}
		return nil
	}, "verdicts")
}

// startProver runs one until the test ends.
func startProver(t *testing.T, cfg Config, db int) (*Prover, *verdicts) {
	t.Helper()
	v := &verdicts{found: make(map[string]Found)}
	p, err := NewProver(cfg, db, v.take)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if p.Suspect("str:1") != Full {
			t.Error("one that has ended takes a suspicion")
		}
	})
	return p, v
}

// TestProver finds what differs among the keys that it is told of, takes what does not
// for level, and has what it finds mended.
func TestProver(t *testing.T) {
	s := start(t)
	fill(t, 20, s.src[3], s.dst[5])
	dst := s.dst[5]
	run(t, dst, "DEL", "str:1")
	run(t, dst, "SET", "extra:1", 1)
	run(t, dst, "HSET", "hash:1", "f", "x")
	run(t, dst, "PEXPIREAT", "str:2", far+2+50)
	cfg := s.config(map[int]int{3: 5})
	p, v := startProver(t, cfg, 3)
	want := map[string]value.Kind{"str:1": value.Missing, "extra:1": value.Extra, "hash:1": value.Value, "str:2": value.Expiry,
		"str:3": value.Same, "set:1": value.Same, "nowhere": value.Same}
	for key := range want {
		if got := p.Suspect(key); got != Queued {
			t.Fatalf("%s: %v", key, got)
		}
	}
	v.await(t, len(want))
	if got := v.kinds(); !maps.Equal(got, want) || len(v.twice) > 0 {
		t.Errorf("found %v, not %v; twice %v", got, want, v.twice)
	}
	if p.Suspect("crossfade:fence") != Full {
		t.Error("a key of ours is judged")
	}
	if _, err := NewProver(cfg, 0, v.take); err == nil {
		t.Error("a database that is not in the map is judged")
	}

	cfg.Repair = Mender(cfg)
	p, v = startProver(t, cfg, 3)
	p.Suspect("str:1")
	p.Suspect("hash:1")
	v.await(t, 2)
	redistest.Eventually(t, time.Minute, func() error {
		if got := p.Suspect("str:1"); got != Queued {
			return fmt.Errorf("%v", got)
		}
		return nil
	}, "the key is mended and forgotten")
	redistest.Eventually(t, time.Minute, func() error {
		if got := v.kinds()["str:1"]; got != value.Same {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	}, "the key is level")
	if got := s.dst[5].Exists(t.Context(), "str:1").Val(); got != 1 {
		t.Error("it was not mended")
	}
}

// TestProverIsBounded takes no more suspicions than it may have, and says so.
func TestProverIsBounded(t *testing.T) {
	s := start(t)
	cfg := s.config(map[int]int{0: 0})
	cfg.Pending = 3
	cfg.Settle = time.Hour
	v := &verdicts{found: make(map[string]Found)}
	p, err := NewProver(cfg, 0, v.take)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Taken{Queued, Queued, Queued, Full, Full} {
		if got := p.Suspect(fmt.Sprint(i)); got != want {
			t.Errorf("suspicion %d: %v", i, got)
		}
	}
	if got := p.Suspect("1"); got != Known {
		t.Errorf("the same again: %v", got)
	}
}
