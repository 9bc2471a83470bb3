package slot

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

func TestSlotsAreTheServers(t *testing.T) {
	s := redistest.Start(t, redistest.WithConfig("cluster-enabled", "yes"))
	c := s.Client(0)
	keys := []string{
		"", "a", "123456789", "{}", "{}a", "a{}", "{a}", "{a}b", "b{a}", "{a", "a}", "}a{", "{{a}}", "{a}{b}", "}{a}", "{}{a}", "\x00{\xff}\x00",
	}
	// Few letters, so that braces meet.
	letters := []byte("{}ab\x00\xff")
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		key := make([]byte, r.IntN(12))
		for i := range key {
			key[i] = letters[r.IntN(len(letters))]
		}
		keys = append(keys, string(key))
	}
	ctx := context.Background()
	pipe := c.Pipeline()
	for _, k := range keys {
		pipe.ClusterKeySlot(ctx, k)
	}
	cmds, err := pipe.Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range keys {
		want := cmds[i].(interface{ Val() int64 }).Val()
		if got := Of(k); int64(got) != want {
			t.Errorf("%q: slot %d, the server says %d", k, got, want)
		}
		if got := Of([]byte(k)); int64(got) != want {
			t.Errorf("%q as bytes: slot %d, the server says %d", k, got, want)
		}
		if got := Of("ours:{" + Tag(uint16(want)) + "}" + k); int64(got) != want {
			t.Errorf("%q with the tag of slot %d is in slot %d", k, want, got)
		}
	}
}

func TestEverySlotHasATag(t *testing.T) {
	for n := range uint16(Count) {
		if tag := Tag(n); Of(tag) != n || len(tag) > 5 {
			t.Errorf("slot %d: tag %q is in slot %d", n, tag, Of(tag))
		}
	}
}

func BenchmarkOf(b *testing.B) {
	key := []byte("user:1234567:session")
	for b.Loop() {
		Of(key)
	}
}
