package verify

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestARestartLeavesNoKeyOut restarts the source, with all its keys and at the same
// address, while a page lies ready and nothing is asked there. Another process has its
// keys in another order: the walk must not go on as if it were the same one.
func TestARestartLeavesNoKeyOut(t *testing.T) {
	for name, rule := range map[string]string{"": "+@all", "and does not say which process it is": "+@all -info"} {
		t.Run("the source is restarted "+name, func(t *testing.T) {
			a, b := redistest.Start(t, redistest.WithACL("walker on nopass ~* &* "+rule)), redistest.Start(t)
			src, dst, watch := a.ClientAs("walker", "any", 0), b.Client(0), a.Client(0)
			const keys = 3000
			p := src.Pipeline()
			for i := range keys {
				p.Set(t.Context(), fmt.Sprint("k", i), i, 0)
			}
			if _, err := p.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			cfg := Config{
				Source: func(router.Place) *redis.Client { return src }, Target: func(router.Place) *redis.Client { return dst },
				Databases: map[int]router.Place{0: {}}, Settle: 10 * time.Millisecond, Parallel: 1, Batch: 50,
			}
			var scans scanned
			src.AddHook(&scans)
			restarted := false
			cfg.Progress = func(p Progress) { // meanwhile nobody takes the next page
				if restarted || p.Step != "compare" || p.Done < keys/2 {
					return
				}
				restarted = true
				err := redistest.Within(10*time.Second, func() bool { return !scans.asked.Load() && scans.keys.Load() > p.Done })
				if err := errors.Join(err, watch.Save(t.Context()).Err(), a.Restart(t.Context())); err != nil {
					t.Error(err)
				}
			}
			r, err := Run(t.Context(), cfg)
			if !restarted {
				t.Fatal("the source was not restarted")
			}
			if !errors.Is(err, errRestarted) && (err != nil || r.Differing != keys) {
				t.Errorf("%d of %d keys are not on the target, and it found %d, %v", keys, keys, r.Differing, err)
			}
			if r.OK() {
				t.Errorf("%s", r)
			}
		})
	}
}

// scanned counts what SCAN shows.
type scanned struct {
	keys  atomic.Int64
	asked atomic.Bool // it has not answered yet
}

func (s *scanned) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *scanned) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		page, is := cmd.(*redis.ScanCmd)
		if !is {
			return next(ctx, cmd)
		}
		s.asked.Store(true)
		err := next(ctx, cmd)
		keys, _ := page.Val()
		s.keys.Add(int64(len(keys)))
		s.asked.Store(false)
		return err
	}
}

func (s *scanned) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestALostConnectionIsNoRestart cuts the connections in the middle of a walk: the same
// process goes on where it was.
func TestALostConnectionIsNoRestart(t *testing.T) {
	s := start(t)
	fill(t, 200, s.src[0])
	cfg := s.config(map[int]int{0: 0})
	cut := 0
	cfg.Progress = func(p Progress) {
		if p.Step == "compare" && cut < 5 {
			cut++
			if err := s.src[7].ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
				t.Error(err)
			}
		}
	}
	r, err := Run(t.Context(), cfg)
	if err != nil || r.Differing != 1200 || cut < 5 {
		t.Errorf("cut %d times: %v, %v", cut, r, err)
	}
}
