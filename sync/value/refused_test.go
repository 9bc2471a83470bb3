package value

import (
	"context"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestRefusedConnection: a server that lets nobody in has taken nothing, though go-redis leaves
// the commands of a pipeline without errors then. No key counts as copied or removed.
func TestRefusedConnection(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	src, dst := source.Client(0), target.ClientAs("nobody", "x", 0)
	run(t, src, "SET", "k", "v")
	run(t, src, "RPUSH", "list", "a", "b")
	run(t, target.Client(0), "SET", "gone", "old")
	keys := []string{"k", "list", "gone"}

	b := &ByType{}
	out, err := b.Copy(t.Context(), src, dst, keys)
	if err == nil {
		t.Errorf("all went well: %+v", out)
	}
	for i, o := range out {
		if o.Err == nil || o.Copied || o.Removed {
			t.Errorf("%s: %+v", keys[i], o)
		}
	}
	for _, k := range keys {
		_, err := Logical(t.Context(), src, dst, k)
		if err == nil {
			t.Errorf("%s by itself went well", k)
		}
		if Unknown(err) {
			t.Errorf("%s: it is not known whether it was sent: %v", k, err)
		}
	}
	for name, f := range map[string]func(context.Context, redis.Pipeliner) error{"exec": exec, "must": must} {
		for _, p := range []redis.Pipeliner{dst.Pipeline(), dst.TxPipeline()} {
			p.Set(t.Context(), "a", 1, 0)
			if err := f(t.Context(), p); err == nil || !strings.HasPrefix(err.Error(), "WRONGPASS") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// What a command is answered is for the caller to look at.
	p := src.Pipeline()
	bad := p.Incr(t.Context(), "list")
	if err := exec(t.Context(), p); err != nil || bad.Err() == nil {
		t.Errorf("an answer: %v, %v", err, bad.Err())
	}
}
