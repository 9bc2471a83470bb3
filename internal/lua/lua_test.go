package lua

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

func TestNamesDatabase(t *testing.T) {
	for text, want := range map[string]bool{
		`redis.call('select', 5)`:                            true,
		`server.pcall("SELECT", ARGV[1])`:                    true,
		`redis.call([[Move]], KEYS[1], 5)`:                   true,
		`redis.call([==[swapdb]==], 0, 1)`:                   true,
		`local call = redis.call; call('FLUSHALL')`:          true,
		`redis.call('COPY', KEYS[1], KEYS[2], 'DB', 5)`:      true,
		`redis.call('copy', KEYS[1], KEYS[2])`:               false,
		`redis.call('flushdb')`:                              false,
		`-- select what to move: redis.call('GET', KEYS[1])`: false,
		`return {'db', 'selected', "moved"}`:                 false,
	} {
		if got := NamesDatabase([]byte(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// The server's own dumps are read: short and long texts, compressible and not, several.
func TestLibraries(t *testing.T) {
	c := redistest.Start(t).Client(0)
	ctx := t.Context()
	var want []string
	for i, filler := range []string{"", strings.Repeat("-- the same again\n", 5000), noise(300), noise(20_000)} {
		text := fmt.Sprintf("#!lua name=lib%d\nredis.register_function('f%d', function() return 1 end)\n--[[%s]]", i, i, filler)
		if err := c.FunctionLoad(ctx, text).Err(); err != nil {
			t.Fatal(err)
		}
		want = append(want, text)
	}
	dump, err := c.FunctionDump(ctx).Result()
	if err != nil {
		t.Fatal(err)
	}
	texts, err := Libraries([]byte(dump))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, text := range texts {
		got = append(got, string(text))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%d libraries are read, %d were dumped, or their texts differ", len(got), len(want))
	}
	for i := range len(dump) - 1 {
		_, _ = Libraries([]byte(dump[:i])) // whatever it says, it says something
	}
	if _, err := Libraries([]byte("nonsense that is long enough")); err == nil {
		t.Error("nonsense is read")
	}
	if err := c.FunctionFlush(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if empty := c.FunctionDump(ctx).Val(); empty != "" {
		if texts, err := Libraries([]byte(empty)); err != nil || len(texts) != 0 {
			t.Errorf("an empty dump: %d libraries, %v", len(texts), err)
		}
	}
}

// noise is a comment that hardly can be compressed.
func noise(n int) string {
	var b strings.Builder
	x := uint32(1)
	for range n {
		x = x*1664525 + 1013904223
		b.WriteByte('a' + byte(x>>24)%26)
	}
	return b.String()
}

// A few bytes do not make gigabytes.
func TestLibrariesAreBounded(t *testing.T) {
	dump := append([]byte{library, 0xc3, 0x04, 0x80, 0x7f, 0xff, 0xff, 0xff, 0xe0, 0xff, 0x00, 0x00}, make([]byte, footer)...)
	if _, err := Libraries(dump); err == nil {
		t.Error("a dump that says it has two gigabytes is read")
	}
}

func FuzzLibraries(f *testing.F) {
	f.Add([]byte("\xf5\xc3\x05\x0a\x01ab\xe0\x00\x01" + strings.Repeat("\x00", footer)))
	f.Fuzz(func(t *testing.T, dump []byte) {
		texts, err := Libraries(dump)
		n := 0
		for _, text := range texts {
			n += len(text)
		}
		if err == nil && n > dumpMost {
			t.Errorf("%d bytes of text", n)
		}
	})
}
