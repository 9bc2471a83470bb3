package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// known is what a server says of one of its commands.
type known struct {
	name     string // "get", or "acl|cat"
	arity    int
	firstKey int
}

func (k known) words() []string { return strings.Split(k.name, "|") }

// commandsOf asks a server what it knows.
func commandsOf(t testing.TB, s *redistest.Server) (all []known) {
	t.Helper()
	c := s.Client(0)
	var add func(list []any)
	add = func(list []any) {
		for _, el := range list {
			row, ok := el.([]any)
			if !ok || len(row) < 6 {
				continue
			}
			k := known{name: strings.ToLower(fmt.Sprint(row[0]))}
			arity, _ := row[1].(int64)
			first, _ := row[3].(int64)
			k.arity, k.firstKey = int(arity), int(first)
			all = append(all, k)
			if len(row) > 9 {
				if subs, ok := row[9].([]any); ok {
					add(subs)
				}
			}
		}
	}
	list, err := c.Do(context.Background(), "COMMAND").Slice()
	if err != nil {
		t.Fatal(err)
	}
	add(list)
	slices.SortFunc(all, func(a, b known) int { return strings.Compare(a.name, b.name) })
	return all
}

// version returns the server's, as "7.0.15".
func version(t testing.TB, s *redistest.Server) string {
	t.Helper()
	info, err := s.Client(0).Info(context.Background(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, v, _ := strings.Cut(info, "redis_version:")
	v, _, _ = strings.Cut(v, "\r\n")
	return v
}

// TestCorpusIsWhole asks the server for its commands and finds each in the corpus.
func TestCorpusIsWhole(t *testing.T) {
	have := make(map[string]bool)
	for _, scenes := range readCorpus(t) {
		for _, sc := range scenes {
			for _, st := range sc.steps {
				if st.text == "" {
					continue
				}
				args := st.args()
				name := strings.ToLower(string(args[0]))
				have[name] = true
				if len(args) > 1 {
					have[name+"|"+strings.ToLower(string(args[1]))] = true
				}
			}
		}
	}
	left := readTable(t, "left-out.txt")
	s := redistest.Start(t)
	var missing []string
	for _, k := range commandsOf(t, s) {
		if !have[k.name] && left[k.name] == "" {
			missing = append(missing, k.name)
		}
	}
	if len(missing) == 0 {
		return
	}
	if v := version(t, s); !strings.HasPrefix(v, "7.0.") {
		t.Logf("server %s has commands that the corpus has not: %s", v, strings.Join(missing, " "))
		return
	}
	t.Errorf("the corpus has neither an entry nor a reason for %s", strings.Join(missing, " "))
}

// seeds are keys of every type.
var seeds = []string{"SET kstr 5", "RPUSH klist 1 2", "SADD kset 1", "ZADD kzset 1 1", "HSET khash 1 1", "XADD kstream 1-1 1 1", "PFADD khll 1"}

// errorsOf makes a command's errors, and what else comes of guessing.
func errorsOf(k known) (out [][]string) {
	name := k.words()
	least := max(k.arity, -k.arity)
	fill := func(args []string, n int, with string) []string {
		args = slices.Clone(args)
		for len(args) < n {
			args = append(args, with)
		}
		return args
	}
	out = append(out, name)
	for _, with := range []string{"1", "x", "-1", ""} {
		out = append(out, fill(name, least, with), fill(name, least+1, with), fill(name, least+9, with))
	}
	if k.firstKey > 0 {
		for _, seed := range seeds {
			for _, with := range []string{"1", "x"} {
				args := append(fill(name, k.firstKey, with), strings.Fields(seed)[1])
				out = append(out, args, fill(args, least, with), fill(args, least+3, with))
			}
		}
	}
	return out
}

// TestCorpusErrors makes every command's errors.
func TestCorpusErrors(t *testing.T) {
	rules, left := readTable(t, "rules.txt"), readTable(t, "left-out.txt")
	// These have states or ends of their own, and are in the corpus.
	for _, name := range strings.Fields("subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe quit reset multi exec discard hello client|reply client|tracking bgsave") {
		left[name] = "has more than one reply"
	}
	left["host:"], left["post"] = "end the connection", "end the connection" // before 7.0
	rules["scan"] = "type"                                                   // cursors that are guessed lead anywhere
	eachStage(t, func(t *testing.T, direct, proxied stage, proto int) {
		for _, k := range commandsOf(t, direct.server) {
			if left[k.name] != "" {
				continue
			}
			sc := scene{}
			for _, seed := range seeds {
				sc.steps = append(sc.steps, step{at: seed, replies: 1, text: seed})
			}
			for _, words := range errorsOf(k) {
				if blocksForLong(k.name, words) {
					continue
				}
				text := strings.Builder{}
				for _, w := range words {
					fmt.Fprintf(&text, "%q ", w)
				}
				st := step{at: text.String(), replies: 1, text: text.String()}
				st.rule = ruleOf(rules, st.args())
				sc.steps = append(sc.steps, st)
			}
			direct.clear(t)
			proxied.clear(t)
			way := pipelined
			if k.name == "auth" {
				way = oneByOne // since 7.2 there are answers only to who has had the others
			}
			want := play(t, direct.addr, sc, proto, way, func() {})
			got := play(t, proxied.addr, sc, proto, way, func() {})
			sameLines(t, got, want)
		}
	})
}

// blocksForLong reports whether a guess waits for a key that nobody makes.
func blocksForLong(name string, args []string) bool {
	switch name {
	case "blpop", "brpop", "bzpopmin", "bzpopmax", "brpoplpush", "blmove":
		return !strings.HasPrefix(args[min(1, len(args)-1)], "k") && len(args) > 2 && args[len(args)-1] == "1"
	}
	return false
}
