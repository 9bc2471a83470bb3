package pipe

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/value"
)

func TestShapes(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"user:1", "user:23", true},
		{"user:1:name", "user:99:name", true},
		{"user:1:name", "user:1:mail", false},
		{"user:1", "item:1", false},
		{"user", "user:1", false},
		{"user1x", "user2y", true},
		{"a1-b2", "c3-d4", true},
		{"{a1}.x", "{b2}.x", true},
		{"550e8400-e29b-41d4-a716-446655440000", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", true},
		{"1", "22", true},
		{"", "1", false},
		{"a", "b", false},
		{"a:", "a", false},
		{"\xff1", "\xfe2", true},
		{"\xff", "\xfe", false},
	} {
		if got := shape(c.a) == shape(c.b); got != c.same {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
	}
}

func TestKindsAreNotTrustedTwice(t *testing.T) {
	var k kinds
	if k.short("a:1") {
		t.Error("knows what it has not seen")
	}
	k.learn("a:1", true)
	if !k.short("a:2") || k.short("b:2") {
		t.Error("did not learn, or too much")
	}
	k.learn("a:3", false)
	k.learn("a:4", true)
	if k.short("a:5") {
		t.Error("forgot that one of them was another")
	}
}

// calls returns how often a server has run a command.
func calls(t *testing.T, c *redis.Client, command string) (n int) {
	t.Helper()
	for line := range strings.Lines(fmt.Sprint(do(t, c, "INFO commandstats"))) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			if _, err := fmt.Sscanf(rest, "%d", &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// TestShortStringsNeedNoDump is what makes them fast.
func TestShortStringsNeedNoDump(t *testing.T) {
	r := newRig(t, 1<<20)
	keys := make([]string, 500)
	for i := range keys {
		keys[i] = fmt.Sprint("user:", i)
		do(t, r.src, fmt.Sprintf("SET user:%d value-of-%d PX %d", i, i, 1_000_000+i))
	}
	for k, o := range r.settled(t, keys, 10) {
		if !o.Copied {
			t.Errorf("%s: %+v", k, o)
		}
	}
	if r.ways.noShort.Load() {
		equal(t, r, keys)
		t.Skip("before Redis 6.2, without PXAT: by RESTORE after all")
	}
	if dumps, sets := calls(t, r.src, "dump"), calls(t, r.dst, "set"); dumps > 50 || sets != len(keys)-dumps {
		t.Errorf("%d keys were dumped, %d set", dumps, sets)
	}
	if n := calls(t, r.src, "memory|usage"); n > 50 {
		t.Errorf("%d were weighed", n)
	}
	equal(t, r, keys)
}

// TestWrongGuesses has names of one shape be of all kinds.
func TestWrongGuesses(t *testing.T) {
	for _, s := range append(servers, struct {
		name string
		opts []redistest.Option
	}{"forbidding", []redistest.Option{redistest.WithRenamed("GETRANGE", ""), redistest.WithRenamed("SET", "")}}) {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, 100_000, s.opts...)
			do(t, r.src, "SETEX k:0 10000 v")
			r.copy(t, []string{"k:0"}, 1)
			r.copy(t, []string{"k:0"}, 1) // the first may only have taught what the server cannot do
			if s.name != "forbidding" && !r.ways.Short("k:1") {
				t.Fatal("nothing was learned")
			}
			do(t, r.dst, "RPUSH k:1 old")
			do(t, r.dst, "RPUSH k:2 old")
			for _, line := range []string{
				"RPUSH k:3 a b", "HSET k:4 f v", "SETRANGE k:5 511 x", "SETRANGE k:6 510 x", "SETRANGE k:7 512 x",
				"SETRANGE k:8 200000 x", "APPEND k:9 x", "SETEX k:10 20000 w", "ZADD k:11 1 a", "SETEX k:12 7 7", "PFADD k:13 a b c",
				"XADD k:14 1-1 f v", "INCR k:15", "SETBIT k:16 77 1",
			} {
				do(t, r.src, line)
			}
			if err := r.src.Append(t.Context(), "k:2", "").Err(); err != nil { // an empty string is a value
				t.Fatal(err)
			}
			keys := make([]string, 18)
			for i := range keys {
				keys[i] = fmt.Sprint("k:", i) // 1 and 17 are not there
			}
			for k, o := range r.settled(t, keys, 9) {
				switch {
				case k == "k:8":
					if !errors.Is(o.Err, value.ErrTooBig) {
						t.Errorf("%s: %+v", k, o)
					}
				case o.Err != nil || o.Removed != (k == "k:1" || k == "k:17"):
					t.Errorf("%s: %+v", k, o)
				}
			}
			equal(t, r, append(keys[:8:8], keys[9:]...))
		})
	}
}

// settled copies until no key says that it is to be copied again.
func (r *rig) settled(t *testing.T, keys []string, each int) map[string]value.Outcome {
	t.Helper()
	all := make(map[string]value.Outcome)
	for range 3 {
		var again []string
		for k, o := range r.copy(t, keys, each) {
			all[k] = o
			if errors.Is(o.Err, ErrChanged) {
				again = append(again, k)
			}
		}
		keys = again
	}
	return all
}

func equal(t *testing.T, r *rig, keys []string) {
	t.Helper()
	for _, k := range keys {
		if d, err := value.Equal(t.Context(), r.src, r.dst, k, k); err != nil || !d.Equal() && !d.Gone {
			t.Errorf("%s: %+v, %v", k, d, err)
		}
	}
}

// TestAnyKindUnderAnyName changes keys at random between one copy and the next.
func TestAnyKindUnderAnyName(t *testing.T) {
	r := newRig(t, 1<<20)
	seed := rand.Uint64()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be repeated
	pick := func(all ...string) string { return all[rnd.IntN(len(all))] }
	for range 30 {
		var keys []string
		for range 200 {
			k := fmt.Sprint(pick("a:", "b:", "c:", "d", "e:x", "e:y", string(rune('f'+rnd.IntN(20)))), rnd.IntN(40))
			keys = append(keys, k)
			switch rnd.IntN(9) {
			case 0:
				do(t, r.src, "DEL "+k)
			case 1:
				do(t, r.src, "DEL "+k)
				do(t, r.src, "SADD "+k+" x y")
			case 2:
				do(t, r.src, fmt.Sprintf("SET %s %s EX %d", k, strings.Repeat("v", 1+rnd.IntN(600)), 1000+rnd.IntN(1000)))
			case 3:
				do(t, r.src, "PERSIST "+k)
			default:
				do(t, r.src, "SET "+k+" "+strings.Repeat(pick("a", "b"), 1+rnd.IntN(20)))
			}
		}
		unique := make(map[string]bool)
		list := keys[:0]
		for _, k := range keys {
			if !unique[k] {
				unique[k] = true
				list = append(list, k)
			}
		}
		for k, o := range r.settled(t, list, 1+rnd.IntN(100)) {
			if o.Err != nil {
				t.Fatalf("%s: %v", k, o.Err)
			}
		}
		equal(t, r, list)
		if t.Failed() {
			return
		}
	}
}

// TestPastExpiries are as good as no key.
func TestPastExpiries(t *testing.T) {
	r := newRig(t, 0)
	do(t, r.src, "SET k:0 v PX 100000")
	r.copy(t, []string{"k:0"}, 1)
	do(t, r.dst, "SET k:1 old")
	do(t, r.src, "SET k:1 v PX 1")
	redistest.Eventually(t, 5*time.Second, func() error {
		if got := do(t, r.src, "EXISTS k:1"); got != int64(0) {
			return errors.New("not expired yet")
		}
		return nil
	}, "expired")
	r.copy(t, []string{"k:1"}, 1)
	if got := do(t, r.dst, "EXISTS k:1"); got != int64(0) {
		t.Error("an expired key is there")
	}
}

// TestFarthestExpiries are copied as they are, and disturb no other key.
func TestFarthestExpiries(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, 0, s.opts...)
			far := map[string]int64{}
			var keys []string
			for i, at := range []int64{math.MaxInt64, math.MaxInt64 - 1, 1e18} {
				for _, l := range []string{"SET s:%d v", "RPUSH l:%d a", "HSET h:%d f v", "SET near:%d v"} {
					l = fmt.Sprintf(l, i)
					k := strings.Fields(l)[1]
					do(t, r.src, l)
					keys = append(keys, k)
					if !strings.HasPrefix(k, "near") {
						far[k] = at
						do(t, r.src, fmt.Sprintf("PEXPIREAT %s %d", k, at))
					}
				}
			}
			again := keys
			for range 3 { // what a server cannot do, and which are short strings, is learnt
				var next []string
				for k, o := range r.copy(t, again, 5) {
					if errors.Is(o.Err, ErrChanged) {
						next = append(next, k)
					} else if o.Err != nil || !o.Copied {
						t.Fatalf("%s: %+v", k, o)
					}
				}
				if again = next; len(next) == 0 {
					again = keys
				}
			}
			for _, k := range keys {
				if d, err := value.Equal(t.Context(), r.src, r.dst, k, k); err != nil || !d.Equal() || d.Gone {
					t.Errorf("%s: %+v, %v", k, d, err)
				}
			}
			for k, at := range far {
				// Where a server tells only what is left, what is added to it may be a moment more.
				if left := do(t, r.dst, "PTTL "+k).(int64); left < at-time.Now().UnixMilli()-1000 {
					t.Errorf("%s has %d ms left, of an expiry at %d", k, left, at)
				}
			}
			if s.name == "old" {
				return // a sieve asks for sizes
			}
			sieve := NewSieve(r.ways, dial(t, "redis://"+r.dst.Options().Addr, 3), nil)
			defer sieve.Close()
			for k, v := range sift(t, sieve, keys, 5) {
				if v != Alike {
					t.Errorf("%s: verdict %v", k, v)
				}
			}
		})
	}
}
