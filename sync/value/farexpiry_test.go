package value

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestFarthestExpiries are copied exactly in every way there is.
func TestFarthestExpiries(t *testing.T) {
	src, dst := two(t)
	var keys []string
	for i, at := range []int64{math.MaxInt64, 1e18} {
		for _, k := range []string{"string", "list", "set", "hash", "stream"} {
			k = fmt.Sprint(k, i)
			keys = append(keys, k)
			switch k[:len(k)-1] {
			case "string":
				run(t, src, "SET", k, "v")
			case "list":
				run(t, src, "RPUSH", k, "a")
			case "set":
				run(t, src, "SADD", k, "a")
			case "hash":
				run(t, src, "HSET", k, "f", "v")
			case "stream":
				run(t, src, "XADD", k, "1-1", "f", "v")
			}
			run(t, src, "PEXPIREAT", k, at)
		}
	}
	for name, copies := range map[string]func() ([]Outcome, error){
		"dump":    func() ([]Outcome, error) { return (&Batch{}).Copy(t.Context(), src, dst, keys) },
		"by type": func() ([]Outcome, error) { return (&ByType{}).Copy(t.Context(), src, dst, keys) },
		"logical": func() (out []Outcome, err error) {
			for _, k := range keys {
				o, err := Logical(t.Context(), src, dst, k)
				if err != nil {
					return nil, err
				}
				out = append(out, o)
			}
			return out, nil
		},
	} {
		run(t, dst, "FLUSHDB")
		out, err := copies()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, k := range keys {
			if name == "by type" && strings.HasPrefix(k, "stream") {
				continue // left to Logical
			}
			if !out[i].Copied {
				t.Errorf("%s: %q: %+v", name, k, out[i])
			}
			wantEqual(t, src, dst, k, k)
			if x, y := run(t, src, "PEXPIRETIME", k), run(t, dst, "PEXPIRETIME", k); x != y {
				t.Errorf("%s: %q expires at %v, not %v", name, k, y, x)
			}
		}
	}
	if got := ExpiryAfter(1, math.MaxInt64); got != math.MaxInt64 {
		t.Errorf("the latest expiry has become %d", got)
	}
	for _, c := range []struct {
		a, b int64
		same bool
	}{{-1, math.MaxInt64, false}, {math.MaxInt64, -1, false}, {-1, -2, true}, {5, 8, true}, {8, 5, true}, {5, 11, false}} {
		if near(c.a, c.b, 5) != c.same {
			t.Errorf("%d and %d are not %v", c.a, c.b, c.same)
		}
	}
	if got := lateness(math.MaxInt64); !strings.Contains(got, "later") || strings.Contains(got, "-") {
		t.Errorf("lateness is %q", got)
	}
}

// TestFarFieldExpiries are longer than some servers take: of such a key alone, by its
// name, it is told, and others are copied.
func TestFarFieldExpiries(t *testing.T) {
	list, err := redistest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	keeping, refusing := (*redis.Client)(nil), (*redis.Client)(nil)
	for _, p := range list {
		c := redistest.Start(t, redistest.WithBinary(p.Path)).Client(0)
		run(t, c, "HSET", "far", "f", "v")
		switch err := c.Do(t.Context(), "HPEXPIREAT", "far", int64(math.MaxInt64), "FIELDS", 1, "f").Err(); {
		case err == nil:
			keeping = c
		case !unknownCommand(err):
			refusing = c
		}
	}
	if keeping == nil || refusing == nil {
		t.Skip("CROSSFADE_SERVERS names no server that takes such an expiry and one that refuses it")
	}
	run(t, keeping, "HSET", "near", "f", "v")
	run(t, keeping, "HPEXPIREAT", "near", int64(4e12), "FIELDS", 1, "f")
	out, err := (&ByType{}).Copy(t.Context(), keeping, refusing, []string{"near", "far"})
	if err != nil {
		t.Fatal(err)
	}
	if !out[0].Copied || out[1].Err == nil || !strings.Contains(out[1].Err.Error(), `"far"`) {
		t.Errorf("by type: %+v", out)
	}
	wantEqual(t, keeping, refusing, "near", "near")
	if _, err := Logical(t.Context(), keeping, refusing, "far"); err == nil || !strings.Contains(err.Error(), `"far"`) {
		t.Errorf("logical: %v", err)
	}
	t.Log(out[1].Err)
}
