package prefix

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/redis/go-redis/v9"
)

const with = "c3:"

func words(line string) [][]byte {
	args, _ := resp.SplitArgs([]byte(line))
	return args
}

func named(args [][]byte) (Form, *keyspec.Command) {
	name := strings.ToLower(string(args[0]))
	return FormOf(name), keyspec.Named(name)
}

// said returns a command behind a prefix, as words.
func said(t testing.TB, args [][]byte, with string) ([][]byte, string) {
	t.Helper()
	var r Rewriter
	form, c := named(args)
	wire, refusal := r.Append([]byte("before"), form.Request, c, args, with)
	if !strings.HasPrefix(string(wire), "before") {
		t.Fatalf("%q: what was there has become %q", args, wire)
	}
	wire = wire[len("before"):]
	if refusal != "" {
		if len(wire) > 0 {
			t.Fatalf("%q is refused, and said as %q", args, wire)
		}
		return nil, refusal
	}
	return parse(t, wire), ""
}

// parse reads one command, which must be all there is.
func parse(t testing.TB, wire []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for _, el := range resp.Elements(wire) {
		text, rest, ok := resp.Text(el)
		if !ok || len(rest) > 0 {
			t.Fatalf("%q is no command", wire)
		}
		out = append(out, text)
	}
	var f resp.Framer
	if n, done, err := f.Feed(wire); n != len(wire) || !done || err != nil {
		t.Fatalf("%q is no command", wire)
	}
	return out
}

// behind are commands, and how they are said.
var behind = map[string]string{
	"GET a":                   "GET c3:a",
	"get \"\"":                "get c3:",
	"GET":                     "GET",
	"GET a b":                 "GET a b",
	"MSET a 1 b 2":            "MSET c3:a 1 c3:b 2",
	"EVAL s 2 a b c":          "EVAL s 2 c3:a c3:b c",
	"EVAL s 0 c":              "EVAL s 0 c",
	"ZUNIONSTORE d 2 a b":     "ZUNIONSTORE c3:d 2 c3:a c3:b",
	"KEYS *":                  "KEYS c3:*",
	"KEYS":                    "KEYS",
	"SCAN 0":                  "SCAN 0 MATCH c3:*",
	"SCAN 0 COUNT 5":          "SCAN 0 COUNT 5 MATCH c3:*",
	"SCAN 0 MATCH a* COUNT 5": "SCAN 0 MATCH c3:a* COUNT 5",
	"SCAN 0 MATCH a MATCH b":  "SCAN 0 MATCH c3:a MATCH c3:b",
	"SCAN 0 MATCH match":      "SCAN 0 MATCH c3:match",
	"SCAN 0 COUNT":            "SCAN 0 COUNT",
	"SCAN 0 TYPE match":       "SCAN 0 TYPE match MATCH c3:*",
	"HSCAN a 0 MATCH f*":      "HSCAN c3:a 0 MATCH f*",
	"SORT a BY w_* GET # GET o_* GET plain STORE d": "SORT c3:a BY c3:w_* GET # GET c3:o_* GET plain STORE c3:d",
	"SORT a BY nosort LIMIT 0 by GET x*->f":         "SORT c3:a BY nosort LIMIT 0 by GET c3:x*->f",
	"SORT_RO a BY w_*->f":                           "SORT_RO c3:a BY c3:w_*->f",
	"OBJECT ENCODING a":                             "OBJECT ENCODING c3:a",
	"MEMORY USAGE a":                                "MEMORY USAGE c3:a",
	"MEMORY DOCTOR":                                 "MEMORY DOCTOR",
	"DEBUG OBJECT a":                                "DEBUG OBJECT c3:a",
	"DEBUG DIGEST-VALUE a b":                        "DEBUG DIGEST-VALUE c3:a c3:b",
	"DEBUG POPULATE 5":                              "DEBUG POPULATE 5 c3:key",
	"DEBUG POPULATE 5 p 9":                          "DEBUG POPULATE 5 c3:p 9",
	"DEBUG SLEEP 0":                                 "DEBUG SLEEP 0",
	"COMMAND GETKEYS GET a":                         "COMMAND GETKEYS GET a",
	"SPUBLISH ch m":                                 "SPUBLISH ch m",
	"SSUBSCRIBE a b":                                "SSUBSCRIBE a b",
	"PUBLISH a b":                                   "PUBLISH a b",
	"XREADGROUP GROUP streams c STREAMS a b > >":    "XREADGROUP GROUP streams c STREAMS c3:a c3:b > >",
	"GEORADIUS a 1 2 3 m STORE b":                   "GEORADIUS c3:a 1 2 3 m STORE c3:b",
	"COPY a b":                                      "COPY c3:a c3:b",
	"PING":                                          "PING",
	"NOTHING a":                                     "NOTHING a",
}

func TestSaidBehindAPrefix(t *testing.T) {
	for line, want := range behind {
		got, refusal := said(t, words(line), with)
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", words(want)) || refusal != "" {
			t.Errorf("%s is said as %q %s, want %s", line, got, refusal, want)
		}
	}
	if _, refusal := said(t, words("MIGRATE h 1 a 0 9"), with); !strings.HasPrefix(refusal, "ERR Crossfade: MIGRATE would") {
		t.Errorf("MIGRATE: %q", refusal)
	}
	got, _ := said(t, words("KEYS a[bc]"), `w[e]i*r\d?:`)
	if string(got[1]) != `w\[e\]i\*r\\d\?:a[bc]` {
		t.Errorf("a pattern is %q", got[1])
	}
}

// TestHead compares what becomes of the beginning of a command with what becomes of the
// whole.
func TestHead(t *testing.T) {
	for line, ok := range map[string]bool{"SET a x": true, "HSET a f v": true, "APPEND abcdefghijk x": true, "RENAME a b": true, "XADD a * f v": true, "MSET a 1": false, "EVAL s 1 a x": false, "XGROUP CREATE a g $": false, "ECHO x": true} {
		var r Rewriter
		args := words(line)
		form, c := named(args)
		whole, _ := r.Append(nil, form.Request, c, args, with)
		plain := Words(nil, args, nil)
		head := args[:len(args)-1]
		if line == "RENAME a b" { // the last word is a key
			head = args
		}
		got, size, can := r.Head(nil, c, head, len(args), with)
		if can != ok {
			t.Errorf("%s: %v", line, can)
		} else if got := string(got) + string(plain[min(size, len(plain)):]); ok && got != string(whole) {
			t.Errorf("%s is said as %q, want %q", line, got, whole)
		}
	}
}

// asked is a command of ours before the words of another one.
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

// keysOf asks a server which keys many commands have; nil where it says none.
func keysOf(t testing.TB, c *redis.Client, list [][][]byte) [][]string {
	t.Helper()
	pipe := c.Pipeline()
	var replies []*redis.Cmd
	for _, args := range list {
		replies = append(replies, pipe.Do(context.Background(), asked([]string{"COMMAND", "GETKEYS"}, args)...))
	}
	_, _ = pipe.Exec(context.Background()) // many are refused
	out := make([][]string, len(list))
	for i, r := range replies {
		keys, err := r.StringSlice()
		if err != nil && !strings.HasPrefix(err.Error(), "ERR ") {
			t.Fatalf("%q: %v", list[i], err)
		}
		out[i] = keys
	}
	return out
}

// pool are words that mean something to some command.
var pool = strings.Fields(`0 1 2 3 streams STREAMS keys store limit by get GET count block group copy replace
	set incrby u8 km asc left max db match > $ 0-0 weights aggregate sum nx *`)

// some returns random words of a command.
func some(r *rand.Rand, form *keyspec.Command) [][]byte {
	var args [][]byte
	for w := range strings.SplitSeq(form.Name, "|") {
		args = append(args, []byte(w))
	}
	n := max(form.Arity, -form.Arity)
	if form.Arity < 0 {
		n += r.IntN(8)
	}
	for i := len(args); i < n; i++ {
		w := fmt.Sprintf("k%d", i)
		if r.IntN(3) == 0 {
			w = pool[r.IntN(len(pool))]
		}
		args = append(args, []byte(w))
	}
	return args
}

// elsewhere are commands of which servers list other keys than they use, and those whose
// keys get no prefix: see keyspec's tests, and forms.
var elsewhere = strings.Fields("xread xreadgroup georadius georadiusbymember migrate command cluster")

// TestTheServerFindsTheSameKeys has a server list the keys of commands as they are, and as
// they are said behind a prefix: each must have got it, and nothing else.
func TestTheServerFindsTheSameKeys(t *testing.T) {
	c := redistest.Start(t).Client(0)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	each := 60
	if testing.Short() {
		each = 15
	}
	found := 0
	for _, command := range slices.SortedFunc(keyspec.All(), func(a, b *keyspec.Command) int { return strings.Compare(a.Name, b.Name) }) {
		if slices.Contains(elsewhere, command.Name) {
			continue
		}
		var plain, prefixed [][][]byte
		for _, form := range append([]keyspec.Command{*command}, command.Subs...) {
			for range each {
				args := some(r, &form)
				got, refusal := said(t, args, with)
				if refusal != "" {
					t.Fatalf("%q: %s", args, refusal)
				}
				plain, prefixed = append(plain, args), append(prefixed, got)
			}
		}
		before, after := keysOf(t, c, plain), keysOf(t, c, prefixed)
		for i, keys := range before {
			if len(keys) > 0 {
				found++
			}
			want := make([]string, len(keys))
			for j, k := range keys {
				want[j] = with + k
			}
			if strings.HasPrefix(command.Name, "s") && (command.Name == "spublish" || strings.Contains(command.Name, "subscribe")) {
				want = keys // they are channels
			}
			if !slices.Equal(after[i], want) && !refusedAnyway(t, c, plain[i]) {
				t.Errorf("%q has the keys %q, behind a prefix %q", plain[i], keys, after[i])
			}
			for j := range plain[i] {
				a, b := string(plain[i][j]), string(prefixed[i][j])
				if a != b && b != with+a {
					t.Errorf("%q: word %d has become %q", plain[i], j, b)
				}
			}
		}
	}
	t.Logf("%d commands had keys", found)
	if found < 60*each {
		t.Errorf("%d commands had keys: too few to say anything", found)
	}
}

// refusedAnyway reports whether a server refuses a command for its words.
func refusedAnyway(t testing.TB, c *redis.Client, args [][]byte) bool {
	t.Helper()
	ctx := context.Background()
	if err := c.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	pipe := c.TxPipeline() // nothing blocks in a transaction
	reply := pipe.Do(ctx, asked(nil, args)...)
	_, _ = pipe.Exec(ctx)
	return reply.Err() != nil && !strings.HasPrefix(reply.Err().Error(), "WRONGTYPE")
}

func TestSayingDoesNotAllocate(t *testing.T) {
	var r Rewriter
	var dst []byte
	for _, line := range []string{"GET a", "MSET a 1 b 2 c 3", "EVAL s 2 a b c", "SCAN 0 COUNT 5", "KEYS *", "SORT a BY w_* GET o_* STORE d", "XREADGROUP GROUP g c STREAMS a b > >", "XGROUP CREATE a g $"} {
		args := words(line)
		form, c := named(args)
		say := func() { dst, _ = r.Append(dst[:0], form.Request, c, args, with) }
		say()
		if n := testing.AllocsPerRun(100, say); n > 0 {
			t.Errorf("%s: %v allocations", line, n)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, line := range []string{"GET key:000000000012", "SET key:000000000012 xxx", "MSET a 1 b 2 c 3 d 4", "EVAL s 2 a b c", "HSET key:000000000012 f1 v1 f2 v2 f3 v3"} {
		args := words(line)
		form, c := named(args)
		b.Run(strings.Fields(line)[0], func(b *testing.B) {
			var r Rewriter
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = r.Append(dst[:0], form.Request, c, args, with)
			}
		})
	}
}
