package value

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// refuse has a server refuse one command of one pipeline, as it would one for which it has
// no room while it has some for those behind it. With lost its answers do not come either.
type refuse struct {
	command  string
	pipeline int // with so many of them: the second, say
	nth      int
	rest     bool // and all behind it
	lost     bool

	met int
}

func (r *refuse) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (r *refuse) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (r *refuse) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var those []redis.Cmder
		for _, c := range cmds {
			if strings.EqualFold(c.Name(), r.command) {
				those = append(those, c)
			}
		}
		if len(those) > 0 {
			r.met++
		}
		if r.met != r.pipeline || len(those) < r.nth {
			return next(ctx, cmds)
		}
		r.pipeline = 0
		bad := those[r.nth-1 : r.nth]
		if r.rest {
			bad = those[r.nth-1:]
		}
		for _, c := range bad {
			c.Args()[2] = "no id"
		}
		err := next(ctx, cmds)
		if r.lost {
			return net.ErrClosed
		}
		return err
	}
}

// An entry that was refused in the middle of a chunk is not passed over by the copy that
// goes on.
func TestRefusedEntryIsNotPassedOver(t *testing.T) {
	for name, r := range map[string]refuse{
		"of the first chunk":   {command: "xadd", pipeline: 1, nth: 10},
		"of a later one":       {command: "xadd", pipeline: 2, nth: 10},
		"answers did not come": {command: "xadd", pipeline: 2, nth: 10, lost: true},
		"stand-in":             {command: "xadd", pipeline: 1, nth: 3},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := two(t)
			for i := range 1000 {
				run(t, src, "XADD", "k", fmt.Sprintf("%d-1", i+1), "f", "v")
			}
			run(t, src, "XGROUP", "CREATE", "k", "g", "0")
			run(t, src, "XREADGROUP", "GROUP", "g", "c", "COUNT", 20, "STREAMS", "k", ">")
			if name == "stand-in" {
				run(t, src, "XDEL", "k", "3-1")
			}
			dst.AddHook(&r)
			b, w := NewBig("k", direct(dst)), new(told)
			_, err := b.Build(t.Context(), src, w)
			if err == nil || r.lost != errors.Is(err, net.ErrClosed) {
				t.Fatalf("nothing was refused: %v", err)
			}
			for try := 0; err != nil; try++ {
				if try == 3 {
					t.Fatal(err)
				}
				_, err = b.Build(t.Context(), src, w)
			}
			wantEqual(t, src, dst, "k", "k")
			noTemp(t, dst)
		})
	}
}

// A chunk of which the end was refused is no hole: what is there is not written again.
func TestRefusedEndOfAChunk(t *testing.T) {
	src, dst := two(t)
	for i := range 1000 {
		run(t, src, "XADD", "k", fmt.Sprintf("%d-1", i+1), "f", "v")
	}
	dst.AddHook(&refuse{command: "xadd", pipeline: 2, nth: 10, rest: true})
	b, w := NewBig("k", direct(dst)), new(told)
	if _, err := b.Build(t.Context(), src, w); err == nil {
		t.Fatal("nothing was refused")
	}
	temp := b.temp
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	if !temp.renamed {
		t.Error("the copy began anew")
	}
	wantEqual(t, src, dst, "k", "k")
}

// A stream that stood still while it was copied is not put into place with fewer entries.
func TestStreamThatLostAnEntryOnTheWay(t *testing.T) {
	src, dst := two(t)
	for i := range 1000 {
		run(t, src, "XADD", "k", fmt.Sprintf("%d-1", i+1), "f", "v")
	}
	var b *Big
	chunks := 0
	b = NewBig("k", func(ctx context.Context, write func(context.Context, *redis.Client) error) error {
		if chunks++; chunks == 6 {
			run(t, dst, "XDEL", b.temp.key, "500-1")
		}
		return write(ctx, dst)
	})
	w := new(told)
	_, err := b.Build(t.Context(), src, w)
	if !errors.Is(err, errChanged) || Unknown(err) {
		t.Fatalf("it was put into place: %v", err)
	}
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, src, dst, "k", "k")
}
