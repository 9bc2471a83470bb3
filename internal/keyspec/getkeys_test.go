package keyspec

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/redis/go-redis/v9"
)

// find returns the command that a server would take the words for.
func find(args [][]byte) *Command {
	name := []byte(nil)
	for _, c := range args[0] {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		name = append(name, c)
	}
	return Named(string(name))
}

// named says which keys a command names and what becomes of them.
func named(args [][]byte) string {
	c := find(args)
	if c == nil {
		return ""
	}
	var keys []string
	for _, k := range c.Keys(nil, args) {
		if k.Use&NotKey == 0 {
			keys = append(keys, fmt.Sprintf("%q %s", args[k.At], k.Use))
		}
	}
	return strings.Join(keys, ", ")
}

// words splits a command line.
func words(line string) [][]byte {
	args, _ := resp.SplitArgs([]byte(line))
	return args
}

func asked(command []string, args [][]byte) []any {
	out := make([]any, 0, len(command)+len(args))
	for _, w := range command {
		out = append(out, w)
	}
	for _, a := range args {
		out = append(out, a)
	}
	return out
}

// server is one that is asked where the keys of commands are.
type server struct {
	c *redis.Client
}

func newServer(t testing.TB) server {
	c := redistest.Start(t).Client(0)
	if err := c.FunctionLoad(context.Background(), "#!lua name=f\nredis.register_function('f', function() return 0 end)").Err(); err != nil {
		t.Fatal(err)
	}
	return server{c}
}

// named asks for many commands at once. What it refuses has no keys.
func (s server) named(t testing.TB, list [][][]byte) []string {
	t.Helper()
	pipe := s.c.Pipeline()
	var replies []*redis.Cmd
	for _, args := range list {
		replies = append(replies, pipe.Do(context.Background(), asked([]string{"COMMAND", "GETKEYSANDFLAGS"}, args)...))
	}
	_, _ = pipe.Exec(context.Background()) // many are refused
	out := make([]string, len(list))
	for i, r := range replies {
		found, err := r.Slice()
		if err != nil {
			if !strings.HasPrefix(err.Error(), "ERR ") {
				t.Fatalf("%q: %v", list[i], err)
			}
			continue
		}
		var keys []string
		for _, el := range found {
			pair, _ := el.([]any)
			if len(pair) != 2 {
				t.Fatalf("%q: the server has said %v", list[i], found)
			}
			var use Use
			for flag := range strings.FieldsSeq(sorted(pair[1])) {
				use |= 1 << slices.Index(useNames[:], flag)
			}
			keys = append(keys, fmt.Sprintf("%q %s", pair[0], use))
		}
		out[i] = strings.Join(keys, ", ")
	}
	return out
}

// complains matches what servers say of a command whose words are not as they must be.
var complains = regexp.MustCompile(`(?i)syntax error|wrong number of arguments|not an integer|can't be negative|greater than number of args|should be greater than 0|` +
	`at least 1 input key|bad number of keys|unbalanced|unknown (sub)?command|not a valid float|out of range|must be|cannot be used|EXECABORT|invalid|unsupported|only supported`)

// runs reports whether a server obeys a command: whether it has no complaint about its words.
func (s server) runs(t testing.TB, args [][]byte) bool {
	t.Helper()
	ctx := context.Background()
	if err := s.c.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	// What is there to be run, so that the number of keys is looked at.
	what, _, _ := strings.Cut(find(args).Name, "_")
	if body := map[string]string{"eval": "return 0", "evalsha": strings.Repeat("0", 40), "fcall": "f"}[what]; body != "" {
		args = slices.Clone(args)
		args[1] = []byte(body)
	}
	pipe := s.c.TxPipeline() // nothing blocks in a transaction
	reply := pipe.Do(ctx, asked(nil, args)...)
	_, _ = pipe.Exec(ctx)
	err := reply.Err()
	return err == nil || !complains.MatchString(err.Error())
}

// differ are commands of which the server lists other keys than it uses. Of PFMERGE with
// nothing to merge it lists none. Of XREAD and
// XREADGROUP it takes the first STREAMS, whatever it is; of two STOREs of GEORADIUS the
// first one, and of STORE and STOREDIST both; of MIGRATE with nothing behind KEYS the one
// whose name is empty. TestKeysThatAreUsed has the proof.
func differ(args [][]byte) bool {
	c := find(args)
	if c == nil {
		return false
	}
	if c.Name == "pfmerge" {
		return len(args) == 2
	}
	switch c.odd {
	case oddStreams:
		from := c.Specs[0].Begin
		return from.behind(args) != Streams(args)+1
	case oddGeo, oddGeoMember:
		n := 0
		for _, a := range args[5:] {
			if is(a, "store") || is(a, "storedist") {
				n++
			}
		}
		return n > 1
	case oddMigrate:
		return is(args[len(args)-1], "keys")
	}
	return false
}

// agree fails where the server finds other keys in a command that it would run.
func (s server) agree(t *testing.T, args [][]byte, want string) {
	t.Helper()
	got := named(args)
	if got == want || differ(args) {
		return
	}
	if find(args).odd != oddMigrate && !s.runs(t, args) {
		return
	}
	t.Errorf("%q has the keys %s, to the server %s", args, got, want)
}

// pool are words that mean something to some command.
var pool = strings.Fields(`0 1 2 3 -1 x streams STREAMS keys KEYS store STOREDIST limit by get GET count block group auth AUTH2 copy replace
	set incrby overflow u8 km m asc left LEFT right min max db match noack > $ 0-0 weights aggregate sum nx ex`)

// TestKeysAreThoseOfTheServer compares, for all commands, keys of random words with
// what the server says.
func TestKeysAreThoseOfTheServer(t *testing.T) {
	s := newServer(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	each := 60
	if testing.Short() {
		each = 15
	}
	found := 0
	for _, c := range slices.SortedFunc(All(), func(a, b *Command) int { return strings.Compare(a.Name, b.Name) }) {
		var list [][][]byte
		forms := []Command{*c}
		forms = append(forms, c.Subs...)
		for _, form := range forms {
			name := strings.Split(form.Name, "|")
			least := max(form.Arity, -form.Arity)
			for range each {
				var args [][]byte
				for _, w := range name {
					args = append(args, []byte(w))
				}
				n := least + r.IntN(3) - 1
				if form.Arity < 0 {
					n = least + r.IntN(9) - 1
				}
				for i := len(args); i < n; i++ {
					w := fmt.Sprintf("k%d", i)
					if r.IntN(3) == 0 {
						w = pool[r.IntN(len(pool))]
					} else if r.IntN(40) == 0 {
						w = ""
					}
					args = append(args, []byte(w))
				}
				list = append(list, args)
			}
		}
		for i, want := range s.named(t, list) {
			s.agree(t, list[i], want)
			if want != "" {
				found++
			}
		}
	}
	t.Logf("%d commands had keys", found)
	if found < 100*each {
		t.Errorf("%d commands had keys: too few to say anything", found)
	}
}

// someKeys are commands with keys in places of all kinds, and what stands there.
var someKeys = map[string]string{
	"GET a": "a", "MGET a b a": "a b a", "MSET a 1 b 2": "a b", "DEL a b": "a b", "PING": "", "PUBLISH c m": "", "KEYS *": "", "SCAN 0": "", "GET": "", "GET a b": "",
	"EVAL s 2 a b c": "a b", "EVALSHA s 0 c": "", "EVAL_RO s 1 a": "a", "FCALL f 1 a b": "a", "EVAL s 3 a b": "", "EVAL s x a": "", "EVAL s -1 a": "", "EVAL s 18446744073709551616 a": "",
	"XREAD STREAMS a b 0 0": "a b", "XREAD COUNT 1 BLOCK 0 STREAMS a 0": "a", "XREAD STREAMS a b 0": "", "XREAD STREAMS streams 0": "streams", "XREADGROUP GROUP streams streams STREAMS a >": "a",
	"XREADGROUP COUNT 1 GROUP streams c NOACK STREAMS a >": "a", "XREADGROUP GROUP g c CLAIM 5 STREAMS a >": "a",
	"SORT a": "a", "SORT a BY w_* GET # GET o_* STORE b": "a b", "SORT a STORE b STORE c": "a c", "SORT a BY store LIMIT 0 1": "a", "SORT_RO a BY w_*": "a",
	"GEORADIUS a 1 2 3 m STORE b": "a b", "GEORADIUS a 1 2 3 m STORE b STOREDIST c": "a c", "GEORADIUSBYMEMBER a store 3 m STOREDIST c": "a c", "GEORADIUS_RO a 1 2 3 m": "a",
	"MIGRATE h 1 a 0 9": "a", `MIGRATE h 1 "" 0 9 COPY AUTH keys KEYS a b`: "a b", "MIGRATE h 1 a 0 9 KEYS b": "", `MIGRATE h 1 "" 0 9 AUTH2 keys keys KEYS a`: "a",
	"ZUNIONSTORE d 2 a b WEIGHTS 1 2": "d a b", "ZINTER 2 a b": "a b", "ZUNION 3 a b": "", "ZINTERCARD 1 a LIMIT 1": "a", "SINTERCARD 2 a b LIMIT 1": "a b", "LMPOP 2 a b LEFT": "a b", "BZMPOP 0 1 a MIN": "a",
	"BITOP AND d a b": "d a b", "PFMERGE d a": "d a", "RENAME a b": "a b", "COPY a b DB 3": "a b", "LCS a b": "a b", "BLPOP a b 0": "a b", "LMOVE a b LEFT LEFT": "a b", "ZRANGESTORE d a 0 1": "d a", "GEOSEARCHSTORE d a": "",
	"OBJECT ENCODING a": "a", "object help": "", "MEMORY USAGE a SAMPLES 5": "a", "XINFO STREAM a": "a", "XGROUP CREATE a g $": "a", "XGROUP nothing a": "", "XGROUP": "", "CLUSTER KEYSLOT a": "",
	"SET a 1 GET": "a", "BITFIELD a GET u8 0": "a", "SPUBLISH c m": "c", "SSUBSCRIBE c d": "c d", "SUBSCRIBE c": "", "WATCH a b": "a b", "RESTORE a 0 x": "a", "OBJECT": "",
}

func TestKeysByHand(t *testing.T) {
	for line, want := range someKeys {
		args := words(line)
		var keys []string
		for _, k := range find(args).Keys(nil, args) {
			keys = append(keys, string(args[k.At]))
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%s has the keys %q, want %q", line, got, want)
		}
	}
}

// TestKeysThatAreUsed has the server run what it lists other keys of.
func TestKeysThatAreUsed(t *testing.T) {
	c := newServer(t).c
	do := func(line string) any {
		reply, err := c.Do(t.Context(), asked(nil, words(line))...).Result()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return reply
	}
	do("XADD used 1-1 f v")
	do("XGROUP CREATE used streams 0")
	for _, line := range []string{"XREADGROUP COUNT 9 GROUP streams streams STREAMS used 0", "XREADGROUP COUNT 9 GROUP streams c NOACK STREAMS used >"} {
		if got := fmt.Sprint(do(line)); !strings.Contains(got, "used") {
			t.Errorf("%s: %v", line, got)
		}
		if got := named(words(line)); got != `"used" RO access` || !differ(words(line)) {
			t.Errorf("%s has the keys %s", line, got)
		}
	}
	do(`SET "" value`)
	if line := `MIGRATE 127.0.0.1 1 "" 0 9 KEYS`; do(line) != "NOKEY" || named(words(line)) != "" || !differ(words(line)) {
		t.Errorf("%s has the keys %s", line, named(words(line)))
	}
	do("PFMERGE used:hll")
	if do("EXISTS used:hll") != int64(1) || named(words("PFMERGE used:hll")) != `"used:hll" RW access insert` {
		t.Errorf("PFMERGE with nothing to merge has the keys %s", named(words("PFMERGE used:hll")))
	}
	do("GEOADD used:geo 13 38 Palermo")
	for _, line := range []string{"GEORADIUS used:geo 13 38 9 km STORE no STORE yes", "GEORADIUS used:geo 13 38 9 km STOREDIST no STORE yes", "GEORADIUSBYMEMBER used:geo Palermo 9 km STORE no STOREDIST yes"} {
		do(line)
		if yes, no := do("EXISTS yes"), do("EXISTS no"); yes != int64(1) || no != int64(0) {
			t.Errorf("%s: yes is there %v times, no %v times", line, yes, no)
		}
		if got := named(words(line)); got != `"used:geo" RO access, "yes" OW update` || !differ(words(line)) {
			t.Errorf("%s has the keys %s", line, got)
		}
		do("DEL yes")
	}
}

// large matches numbers for which a server would reserve memory before it looks whether
// there are as many keys.
var large = regexp.MustCompile(`[0-9]{5}`)

// FuzzKeys compares the keys of any words with what the server says.
func FuzzKeys(f *testing.F) {
	for line := range someKeys {
		f.Add(bytes.Join(words(line), []byte{0}))
	}
	s := newServer(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		args := bytes.Split(text, []byte{0})
		if large.Match(text) || len(args) > 100 {
			return
		}
		if c := find(args); c != nil {
			for _, k := range c.Keys(nil, args) {
				if k.At < 1 || k.At >= len(args) {
					t.Fatalf("%q has a key at %d", args, k.At)
				}
			}
		}
		s.agree(t, args, s.named(t, [][][]byte{args})[0])
	})
}

func TestKeysDoNotAllocate(t *testing.T) {
	var dst []Key
	for line := range someKeys {
		args := words(line)
		c := find(args)
		dst = c.Keys(dst[:0], args)
		if n := testing.AllocsPerRun(100, func() { dst = c.Keys(dst[:0], args) }); n > 0 {
			t.Errorf("%s: %v allocations", line, n)
		}
	}
}

func BenchmarkKeys(b *testing.B) {
	for _, line := range []string{"SET a 1", "MSET a 1 b 2 c 3 d 4", "EVAL s 2 a b c", "XREADGROUP GROUP g c COUNT 1 STREAMS a b > >", "XGROUP CREATE a g $"} {
		args := words(line)
		c := find(args)
		b.Run(strings.Fields(line)[0], func(b *testing.B) {
			var dst []Key
			b.ReportAllocs()
			for b.Loop() {
				dst = c.Keys(dst[:0], args)
			}
		})
	}
}
