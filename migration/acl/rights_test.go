package acl

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/crossfade/crossfade/internal/redistest"
)

// someRules are random command rules of a catalog, as an operator might write them.
func someRules(t *rapid.T, c Catalog) []string {
	var names []string
	for name := range c.all {
		names = append(names, name)
	}
	slices.Sort(names)
	var categories []string
	for name := range c.in {
		categories = append(categories, "@"+name)
	}
	slices.Sort(categories)
	rules := []string{rapid.SampledFrom([]string{"+@all", "-@all"}).Draw(t, "base")}
	for range rapid.IntRange(0, 6).Draw(t, "rules") {
		from := names
		if rapid.Bool().Draw(t, "category") {
			from = categories
		}
		name := rapid.SampledFrom(from).Draw(t, "name")
		sign := rapid.SampledFrom([]string{"+", "-"}).Draw(t, "sign")
		if strings.Contains(name, "|") && len(c.subs[strings.Split(name, "|")[0]]) == 0 {
			sign = "+"
		}
		rules = append(rules, sign+name)
	}
	if rapid.Bool().Draw(t, "argument") {
		rules = append(rules, "+select|0")
	}
	return rules
}

// TestRightsAreTheServers asks a server for its opinion of every command.
func TestRightsAreTheServers(t *testing.T) {
	c := redistest.Start(t).Client(0)
	ctx := t.Context()
	catalog, err := ReadCatalog(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	arity := make(map[string]int)
	for _, name := range catalog.runnable() {
		info, err := c.Do(ctx, "COMMAND", "INFO", name).Slice()
		if err != nil || len(info) != 1 {
			t.Fatal(name, info, err)
		}
		entry, _ := info[0].([]any)
		if len(entry) < 2 {
			continue
		}
		if slices.Contains([]string{"auth", "hello", "quit", "reset"}, name) {
			continue // whoever may do nothing may say these
		}
		n, _ := entry[1].(int64)
		arity[name] = int(max(n, -n))
	}
	rapid.Check(t, func(rt *rapid.T) {
		words := someRules(rt, catalog)
		set := []any{"ACL", "SETUSER", "app", "reset", "on", "nopass", "~*", "&*"}
		for _, w := range words {
			set = append(set, w)
		}
		if err := c.Do(ctx, set...).Err(); err != nil {
			rt.Fatal(words, err)
		}
		users, _, err := Read(ctx, c)
		if err != nil {
			rt.Fatal(err)
		}
		at := slices.IndexFunc(users, func(u User) bool { return u.Name == "app" })
		if !catalog.same(words, users[at].Root.Commands) {
			rt.Fatalf("%q is said as %q, which looks different", words, users[at].Root.Commands)
		}
		may := catalog.rights(words).may
		pipe := c.Pipeline()
		answers := make(map[string]*redis.Cmd)
		for name, n := range arity {
			args := []any{"ACL", "DRYRUN", "app"}
			for part := range strings.SplitSeq(name, "|") {
				args = append(args, part)
			}
			for len(args) < 3+n {
				args = append(args, "x")
			}
			answers[name] = pipe.Do(ctx, args...)
		}
		_, _ = pipe.Exec(ctx)
		for name, a := range answers {
			text, err := a.Text()
			if err != nil && !strings.Contains(err.Error(), "permissions") {
				continue // not a command that can be tried
			}
			if denied := strings.Contains(text, "no permissions to run"); denied == may[name] {
				rt.Fatalf("%q: the server says %q of %s, we say %v", words, text, name, may[name])
			}
		}
	})
}

// TestNeverMore: rules of one version on another one allow the same commands, of those
// that both have.
func TestNeverMore(t *testing.T) {
	versions := []string{"redis-6.0", "redis-7.0", "redis-8.0"}
	for _, a := range versions {
		for _, b := range versions {
			t.Run(a+" to "+b, func(t *testing.T) {
				from, to := recorded(t, a), recorded(t, b)
				rapid.Check(t, func(rt *rapid.T) {
					words := someRules(rt, from)
					server := Server{Catalog: to, Refused: make(map[string]string)}
					for _, w := range words { // what the real one would refuse
						name := strings.TrimLeft(w, "+-@")
						parent, _, is := strings.Cut(name, "|")
						known := to.all[name] || is && w[0] == '+' && to.all[parent] && len(to.subs[parent]) == 0
						if w[1] == '@' {
							known = name == "all" || to.in[name] != nil
						}
						if !known {
							server.Refused[w] = "Unknown command or category name in ACL"
						}
					}
					var e expressed
					there := e.commands(words, from, server)
					if a == b && !slices.Equal(there, words) {
						rt.Fatalf("%q became %q on the same version", words, there)
					}
					for _, w := range there {
						if _, bad := server.Refused[w]; bad {
							rt.Fatalf("%q has become %q, and %s is refused there", words, there, w)
						}
					}
					home, then := from.rights(words), to.rights(there)
					for _, name := range to.runnable() {
						may, first, known := home.of(name, from)
						if known && (may != then.may[name] || !may && !sameSet(first, then.first[name])) {
							rt.Fatalf("%q became %q: %s was %v %q and is %v %q", words, there, name, may, first, then.may[name], then.first[name])
						}
					}
					// And what was put right once is so the next time.
					if again := e.commands(words, from, server); !slices.Equal(again, there) {
						rt.Fatalf("%q, then %q", there, again)
					}
				})
			})
		}
	}
}

// TestCommandRules: what becomes of single rules.
func TestCommandRules(t *testing.T) {
	six, seven := recorded(t, "redis-6.0"), recorded(t, "redis-7.0")
	odd := NewCatalog(map[string][]string{"read": {"get", "ft.search"}, "search": {"ft.search", "get"}, "write": {"set"}})
	for _, c := range []struct {
		words    string
		from, to Catalog
		refused  string
		want     string
		lost     string
	}{
		{"-@all +get", seven, six, "", "-@all +get", ""},
		{"-@all +get +fcall", seven, six, "+fcall", "-@all +get", "+fcall: the target has no command FCALL"},
		{"-@all +function|load", seven, six, "+function|load", "-@all", "+function|load: the target has no command FUNCTION LOAD"},
		{"+@all -fcall", seven, six, "-fcall", "+@all", ""},
		{"+@all -config|set", seven, six, "-config|set", "+@all -config +config|get +config|help +config|resetstat +config|rewrite", ""},
		{"+@all -config", seven, six, "", "+@all -config", ""},
		{"-@all +config|get", six, seven, "", "-@all +config|get", ""},
		{"-@all +config", six, seven, "", "-@all +config", ""},
		{"-@all +fcall -@all +get", seven, six, "+fcall", "-@all -@all +get", ""},
		{"-@all +@search", odd, six, "+@search", "-@all +get", "+@search: the target has no such category, nor its commands ft.search"},
		{"+@all -@search", odd, six, "-@search", "+@all -get", ""},
		{"-@all +custom.command", six, seven, "", "-@all +custom.command", ""},
		{"-@all +custom.command", six, seven, "+custom.command", "-@all", "+custom.command: the target has no command CUSTOM.COMMAND"},
		{"-@all +select|0", six, seven, "", "-@all +select|0", ""},
		{"-@all +select|0", six, seven, "+select|0", "-@all", "+select|0: the target does not take it: no"},
	} {
		server := Server{Catalog: c.to, Refused: make(map[string]string)}
		for w := range strings.FieldsSeq(c.refused) {
			server.Refused[w] = "no"
		}
		var e expressed
		got := strings.Join(e.commands(strings.Fields(c.words), c.from, server), " ")
		lost := ""
		for _, l := range e.lost {
			lost += fmt.Sprint(l.Rule, ": ", l.What)
		}
		if got != c.want || lost != c.lost {
			t.Errorf("%s: %s, lost %q", c.words, got, lost)
		}
	}
}
