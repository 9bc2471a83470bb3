package pipe

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/value"
)

// pushWide makes a list of few elements, each of 100 kB that do not become less by compression.
func pushWide(t *testing.T, c *redis.Client, key string, n int) {
	t.Helper()
	rnd := rand.NewChaCha8([32]byte{})
	for range n {
		elem := make([]byte, 100_000)
		_, _ = rnd.Read(elem)
		if err := c.RPush(t.Context(), key, elem).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLargerThanItWasTakenFor has a source that does not tell sizes have a key of few
// elements and many bytes: a payload that may be more than a server takes is not sent to one.
func TestLargerThanItWasTakenFor(t *testing.T) {
	for name, takes := range map[string]func(string, string) bool{
		"all": nil, "by type": func(string, string) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 512<<10, redistest.WithRenamed("MEMORY", ""))
			r.ways.Takes, r.ways.bound = takes, 1<<20
			pushWide(t, r.src, "list", 12)
			do(t, r.src, "RPUSH small 1")
			got := r.copy(t, []string{"list", "small"}, 2)
			if !errors.Is(got["list"].Err, value.ErrTooBig) || got["list"].Copied {
				t.Errorf("list: %+v", got["list"])
			}
			if !got["small"].Copied {
				t.Errorf("small: %+v", got["small"])
			}
			equal(t, r, []string{"small"})
		})
	}
}

// TestBusyForAMoment: a source that does not tell sizes while it is busy with a script is
// asked again when it is not.
func TestBusyForAMoment(t *testing.T) {
	r := newRig(t, 512<<10)
	pushWide(t, r.src, "list", 10)
	do(t, r.src, "RPUSH small 1")
	r.copy(t, []string{"absent"}, 1) // it is connected now
	free := busy(t, r.src)
	if o := r.copy(t, []string{"list"}, 1)["list"]; o.Err == nil || !strings.Contains(o.Err.Error(), "BUSY") || value.Unknown(o.Err) {
		t.Errorf("while it is busy: %+v", o)
	}
	free()
	if o := r.copy(t, []string{"list"}, 1)["list"]; !errors.Is(o.Err, value.ErrTooBig) {
		t.Errorf("list: %+v", o)
	}
	if o := r.copy(t, []string{"small"}, 1)["small"]; !o.Copied {
		t.Errorf("small: %+v", o)
	}
}

// busy has a server busy with a script until free is called.
func busy(t *testing.T, c *redis.Client) (free func()) {
	t.Helper()
	do(t, c, "CONFIG SET lua-time-limit 100")
	o := *c.Options()
	o.ReadTimeout = time.Minute
	runner := redis.NewClient(&o)
	ended := make(chan error, 1)
	go func() { ended <- runner.Eval(context.WithoutCancel(t.Context()), "while true do end", nil).Err() }()
	redistest.Eventually(t, 10*time.Second, func() bool {
		err := c.Ping(t.Context()).Err()
		return err != nil && strings.HasPrefix(err.Error(), "BUSY")
	}, "busy")
	return func() {
		t.Helper()
		do(t, c, "SCRIPT KILL")
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("the script ended with %v", err)
		}
		_ = runner.Close()
		redistest.Eventually(t, 10*time.Second, func() bool { return c.Ping(t.Context()).Err() == nil }, "free again")
	}
}
