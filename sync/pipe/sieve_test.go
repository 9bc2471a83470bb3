package pipe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/conn"
)

// sift takes all keys through a sieve between database 0 and 3, some in each lot.
func sift(t *testing.T, s *Sieve, keys []string, each int) map[string]Verdict {
	t.Helper()
	got := make(map[string]Verdict)
	for len(keys) > 0 || !s.Idle() {
		var next *Lot
		if n := min(each, len(keys)); n > 0 {
			next = NewLot(keys[:n], n)
			keys = keys[n:]
		}
		out, err := s.Step(t.Context(), next)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range out {
			if l.Note != len(l.Keys) {
				t.Errorf("a lot's note is %v", l.Note)
			}
			for i, k := range l.Keys {
				got[k] = l.Verdicts[i]
			}
		}
	}
	return got
}

func TestSieve(t *testing.T) {
	for _, s := range []struct {
		name     string
		src, dst []redistest.Option
	}{
		{"new", nil, nil},
		{"old source", []redistest.Option{redistest.WithRenamed("PEXPIRETIME", "")}, nil},
		{"old target", nil, []redistest.Option{redistest.WithRenamed("PEXPIRETIME", "")}},
	} {
		t.Run(s.name, func(t *testing.T) {
			from, to := redistest.Start(t, s.src...), redistest.Start(t, s.dst...)
			a, b := from.Client(0), to.Client(3)
			want := make(map[string]Verdict)
			for _, c := range []struct {
				key, both, source, target string
				want                      Verdict
			}{
				{"string", "SET % v", "", "", Alike},
				{"number", "SET % 42", "", "", Alike},
				{"list", "RPUSH % a b c", "", "", Alike},
				{"set", "SADD % 1 2 3", "", "", Alike},
				{"zset", "ZADD % 1.5 a -inf b", "", "", Alike},
				{"hash", "HSET % f v", "", "", Alike},
				{"stream", "XADD % 5-1 f v", "", "", Alike},
				{"long", "SETRANGE % 60000 x", "", "", Alike},
				{"mortal", "SET % v PXAT 99999999999999", "", "", Alike},
				{"nowhere", "", "", "", Alike},
				{"w:1", "SET % v", "", "", Alike},
				{"w:2", "", "", "", Alike}, // of a name that is known
				{"w:3", "SET % v", "", "APPEND % w", Unlike},
				{"w:4", "", "SET % v", "", Unlike},
				{"w:5", "", "", "SET % v", Unlike},
				{"x:1", "SET % v", "", "", Alike},
				{"x:2", "RPUSH % v", "", "", Alike},
				{"y:1", "SET % v", "", "", Alike},
				{"y:2", "SET % v", "", "RPUSH y:22 v", Alike},
				{"otherwise", "", "SET % v", "SET % w", Unlike},
				{"longer", "RPUSH % a b c", "", "RPUSH % d", Unlike},
				{"kind", "", "SET % v", "RPUSH % v", Unlike},
				{"missing", "", "SET % v", "", Unlike},
				{"extra", "", "", "SET % v", Unlike},
				{"later", "SET % v", "PEXPIREAT % 99999999999999", "PEXPIREAT % 99999999999899", Unlike},
				{"immortal there", "SET % v", "PEXPIREAT % 99999999999999", "", Unlike},
				{"immortal here", "SET % v", "", "PEXPIREAT % 99999999999999", Unlike},
				{"group", "XADD % 5-1 f v", "XGROUP CREATE % g 0", "", Unlike},
				{"encoding", "SET % 12345", "", "APPEND % 6", Unlike},
				{"table", "SADD % a b 300 70000 1 " + strings.Repeat("z", 100), "", "", Alike},
				{"other table", "SADD % a b", "SADD % c", "SADD % d", Unlike},
				{"heavy here", "SET % v", "SETRANGE % 200000 x", "", Heavy},
				{"heavy there", "SET % v", "", "SETRANGE % 200000 x", Heavy},
				{"heavy", "SETRANGE % 200000 x", "", "", Heavy},
			} {
				key := strings.ReplaceAll(c.key, " ", "_")
				want[key] = c.want
				for _, line := range []string{c.both, c.source} {
					if line != "" {
						do(t, a, strings.Replace(line, "%", key, 1))
					}
				}
				for _, line := range []string{c.both, c.target} {
					if line != "" {
						do(t, b, strings.Replace(line, "%", key, 1))
					}
				}
			}
			// Many that together are too much for one round.
			for i := range 300 {
				key := fmt.Sprint("many", i)
				do(t, a, "SETRANGE "+key+" 50000 x")
				do(t, b, "SETRANGE "+key+" 50000 x")
				want[key] = Alike
			}
			for _, c := range []struct {
				key, command string
				step         int
			}{{"members", "SADD", 1}, {"fields", "HSET", 2}} {
				for i := 0; i < 2000; i += c.step {
					for _, end := range []*redis.Client{a, b} {
						line := fmt.Sprintf("%s %s m%d", c.command, c.key, i)
						if c.step == 2 {
							line += fmt.Sprint(" ", 3*i)
						}
						do(t, end, line)
					}
				}
				want[c.key] = Alike
			}
			do(t, a, "COPY fields others")
			do(t, b, "COPY fields others")
			do(t, b, "HSET others m100 301")
			want["others"] = Unlike
			keys := make([]string, 0, len(want))
			for k := range want {
				keys = append(keys, k)
			}
			w := &Ways{Source: dial(t, from.URL(0), 0), Big: 100 << 10}
			sieve := NewSieve(w, dial(t, to.URL(0), 3), nil)
			defer sieve.Close()
			check := func(how string, each int) {
				t.Helper()
				got := sift(t, sieve, slices.Clone(keys), each)
				for k, v := range want {
					if got[k] != v {
						t.Errorf("%s, %d keys in a lot: %s has verdict %d, want %d", how, each, k, got[k], v)
					}
				}
			}
			check("nothing known", len(keys))
			check("names known", len(keys))
			check("names known", 7)
			// No key has an expiry any more on one of them, then on none.
			for _, end := range []*redis.Client{b, a} {
				for _, k := range []string{"mortal", "later", "immortal_there", "immortal_here"} {
					do(t, end, "PERSIST "+k)
				}
				if end == a {
					want["mortal"], want["later"], want["immortal_there"], want["immortal_here"] = Alike, Alike, Alike, Alike
				} else {
					want["mortal"], want["later"], want["immortal_there"], want["immortal_here"] = Unlike, Unlike, Unlike, Alike
				}
				check("without expiries, asked", 7)
				want["w:2"] = Unlike // nothing tells an empty string from none: more is copied than must be
				check("without expiries", len(keys))
				want["w:2"] = Alike
			}
		})
	}
}

// What cannot be told is never the same.
func TestSieveIsBlind(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t, redistest.WithRenamed("MEMORY", ""))
	do(t, from.Client(0), "SET k v")
	do(t, to.Client(3), "SET k v")
	s := NewSieve(&Ways{Source: dial(t, from.URL(0), 0), Big: 1 << 20}, dial(t, to.URL(0), 3), nil)
	defer s.Close()
	out, err := s.Step(t.Context(), NewLot([]string{"k", "none"}, nil))
	if !errors.Is(err, ErrBlind) || len(out) != 1 || !slices.Equal(out[0].Verdicts, []Verdict{Unlike, Unlike}) || !s.Idle() {
		t.Errorf("%v, %+v", err, out)
	}
}

func TestSieveLosesAServer(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	do(t, from.Client(0), "SET k v")
	do(t, to.Client(3), "SET k v")
	link := redistest.NewLink(t, to.Addr())
	s := NewSieve(&Ways{Source: dial(t, from.URL(0), 0), Big: 1 << 20}, dial(t, "redis://"+link.Addr(), 3), nil)
	defer s.Close()
	if out, err := s.Step(t.Context(), NewLot([]string{"k"}, 1)); err != nil || len(out) != 0 {
		t.Fatalf("%v, %+v", err, out)
	}
	link.Cut()
	out, err := s.Step(t.Context(), NewLot([]string{"other"}, 2))
	if err == nil || len(out) != 2 || out[0].Verdicts[0] != Unlike || out[1].Verdicts[0] != Unlike || !s.Idle() {
		t.Errorf("%v, %+v", err, out)
	}
	if got := sift(t, s, []string{"k"}, 1); got["k"] != Alike {
		t.Errorf("connected anew: %v", got)
	}
	s.Close()
	s.ends[1].dial = func(context.Context) (*conn.Bundle, error) { return nil, errors.New("no") }
	if out, err := s.Step(t.Context(), NewLot([]string{"k"}, 1)); err == nil || len(out) != 1 || out[0].Verdicts[0] != Unlike {
		t.Errorf("%v, %+v", err, out)
	}
}

// TestSieveForgetsWithALot loses a server while one lot is compared and the servers have
// said of the next one that no key expires.
func TestSieveForgetsWithALot(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	for _, c := range []*redis.Client{from.Client(0), to.Client(3)} {
		do(t, c, "CONFIG SET rdbcompression no") // or the values would be small
	}
	keys := make([]string, askFrom)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
		for _, c := range []*redis.Client{from.Client(0), to.Client(3)} {
			do(t, c, "SETRANGE "+keys[i]+" 2000 x")
		}
	}
	link := redistest.NewLink(t, to.Addr())
	s := NewSieve(&Ways{Source: dial(t, from.URL(0), 0), Big: 1 << 20}, dial(t, "redis://"+link.Addr(), 3), nil)
	defer s.Close()
	if out, err := s.Step(t.Context(), NewLot(slices.Clone(keys), len(keys))); err != nil || len(out) != 0 {
		t.Fatalf("%v, %+v", err, out)
	}
	link.CutAfter(int64(len(keys)) * 1000) // behind the sizes, and in the midst of the values
	if out, err := s.Step(t.Context(), NewLot(slices.Clone(keys), len(keys))); err == nil || len(out) != 2 {
		t.Fatalf("%v, %+v", err, out)
	}
	do(t, from.Client(0), "PEXPIREAT k0 99999999999999")
	if got := sift(t, s, []string{"k0"}, 1); got["k0"] != Unlike {
		t.Errorf("a key that expires on one side only has verdict %d", got["k0"])
	}
}

func TestSamePayload(t *testing.T) {
	footer := func(version, checksum byte) string {
		return string([]byte{version, 0}) + strings.Repeat(string([]byte{checksum}), 8)
	}
	for _, c := range []struct {
		name, a, b string
		want       bool
	}{
		{"equal", "\x00\x01v" + footer(11, 1), "\x00\x01v" + footer(11, 1), true},
		{"other version", "\x00\x01v" + footer(9, 1), "\x00\x01v" + footer(11, 2), true},
		{"other version of a disputed kind", "\x16\x01v" + footer(12, 1), "\x16\x01v" + footer(80, 2), false},
		{"disputed kind", "\x16\x01v" + footer(12, 1), "\x16\x01v" + footer(12, 1), true},
		{"other value", "\x00\x01v" + footer(11, 1), "\x00\x01w" + footer(11, 1), false},
		{"other kind", "\x00\x01v" + footer(11, 1), "\x01\x01v" + footer(11, 1), false},
		{"longer", "\x00\x01v" + footer(11, 1), "\x00\x01vv" + footer(11, 1), false},
		{"no payload", "", "", false},
		{"a footer alone", footer(11, 1), footer(11, 1), false},
	} {
		if got := samePayload([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestSameElements(t *testing.T) {
	lzf := "\xc3\x03\x40\x64abc"
	for _, c := range []struct {
		name, a, b string
		want       bool
	}{
		{"a set", "\x02\x03\x01a\x01b\x02cc", "\x02\x03\x02cc\x01a\x01b", true},
		{"numbers", "\x02\x03\xc0\x01\xc1\x01\x02\xc2\x01\x02\x03\x04", "\x02\x03\xc2\x01\x02\x03\x04\xc0\x01\xc1\x01\x02", true},
		{"compressed", "\x02\x02" + lzf + "\x01a", "\x02\x02\x01a" + lzf, true},
		{"a hash", "\x04\x02\x01a\x01x\x01b\x01y", "\x04\x02\x01b\x01y\x01a\x01x", true},
		{"values exchanged", "\x04\x02\x01a\x01x\x01b\x01y", "\x04\x02\x01b\x01x\x01a\x01y", false},
		{"another member", "\x02\x02\x01a\x01b", "\x02\x02\x01c\x01a", false},
		{"twice the same", "\x02\x02\x01a\x01b", "\x02\x02\x01a\x01a", false},
		{"a list", "\x01\x02\x01a\x01b", "\x01\x02\x01b\x01a", false},
		{"set and hash", "\x02\x02\x01a\x01b", "\x04\x02\x01b\x01a", false},
		{"too short", "\x02\x03\x01a\x01b", "\x02\x03\x01b\x01a", false},
		{"too long", "\x02\x01\x01a\x01b", "\x02\x01\x01b\x01a", false},
		{"cut", "\x02\x02\x01a\x05b", "\x02\x02\x05b\x01a", false},
		{"unknown", "\x02\x02\x01a\xc4b", "\x02\x02\xc4b\x01a", false},
		{"nothing", "\x02\x00", "\x02\x00", false},
	} {
		if got := sameElements([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// FuzzSameElements: whatever the bytes are, they are read without a fault, and what
// counts as the same has the same bytes in it.
func FuzzSameElements(f *testing.F) {
	f.Add([]byte("\x02\x03\x01a\x01b\x02cc"), []byte("\x02\x03\x02cc\x01a\x01b"))
	f.Add([]byte("\x04\x02\x01a\x01x\xc0\x01\x01y"), []byte("\x04\x02\xc0\x01\x01y\x01a\x01x"))
	f.Add([]byte("\x02\x02\xc3\x03\x40\x64abc\x01a"), []byte("\x02\x81\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if sameElements(a, b) {
			x, y := slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
			if !slices.Equal(x, y) {
				t.Errorf("%q and %q", a, b)
			}
		}
	})
}
