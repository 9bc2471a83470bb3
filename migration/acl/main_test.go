package acl

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	goleak.VerifyTestMain(m)
}

// recorded is the catalog of a version, as its ACL CAT has it.
func recorded(t testing.TB, version string) Catalog {
	t.Helper()
	text, err := os.ReadFile("testdata/" + version + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	categories := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		categories[words[0]] = words[1:]
	}
	return NewCatalog(categories)
}

// old is a server of another version, as it has described itself.
func old(t testing.TB, version string, users map[string][]any) *redis.Client {
	t.Helper()
	r := redistest.Recorded{"acl whoami": "default", "get crossfade:record": nil, "get crossfade:journal": nil}
	var names, categories []string
	for name, reply := range users {
		names = append(names, name)
		r["acl getuser "+name] = reply
	}
	for category, commands := range recorded(t, version).in {
		categories = append(categories, category)
		r["acl cat "+category] = commands
	}
	r["acl users"], r["acl cat"] = names, categories
	c := redis.NewClient(redistest.Options(r.Listen(t), 0))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// planOf plans a copy from one server to another.
func planOf(t testing.TB, from, to *redis.Client, o Options) Plan {
	t.Helper()
	ctx := context.Background()
	var sides [2]Side
	for i, c := range []*redis.Client{from, to} {
		users, self, err := Read(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		sides[i] = Side{users, self}
	}
	catalog, err := ReadCatalog(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	server, err := Look(ctx, to, CommandRules(sides[0].Users))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Make(sides[0], sides[1], catalog, server, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func apply(t testing.TB, to *redis.Client, p Plan) {
	t.Helper()
	if err := (Writer{Client: to}).Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
}

// list returns ACL LIST, each user's words in order, without what 7.0 says only of users
// that were reset.
func list(t testing.TB, c *redis.Client) []string {
	t.Helper()
	lines, err := c.Do(context.Background(), "ACL", "LIST").StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range lines {
		words := strings.Fields(strings.ReplaceAll(l, " sanitize-payload", ""))
		for at := range words {
			words[at] = strings.Trim(words[at], "()")
		}
		slices.Sort(words[3:]) // servers list them in another order each time
		lines[i] = strings.Join(words, " ")
	}
	slices.Sort(lines)
	return lines
}

// actions are a plan in short.
func actions(p Plan) string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, fmt.Sprint(s.Action, " ", s.Name))
	}
	return strings.Join(out, ", ")
}

func stepOf(t testing.TB, p Plan, name string) Step {
	t.Helper()
	for _, s := range p.Steps {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no user %q in %s", name, actions(p))
	return Step{}
}
