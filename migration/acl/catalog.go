package acl

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Catalog is which commands a server knows, and in which categories: the same rule allows
// other commands on another version. Commands of modules are in none before Redis 7.4.
type Catalog struct {
	all  map[string]bool // "get", "config", "config|get"
	subs map[string][]string
	in   map[string][]string // by category
}

// NewCatalog makes a catalog of the answers to ACL CAT, by category.
func NewCatalog(categories map[string][]string) Catalog {
	c := Catalog{all: make(map[string]bool), subs: make(map[string][]string), in: make(map[string][]string)}
	for category, names := range categories {
		category = strings.ToLower(category)
		for _, name := range names {
			name = strings.ToLower(name)
			c.in[category] = append(c.in[category], name)
			if c.all[name] {
				continue
			}
			c.all[name] = true
			if parent, _, is := strings.Cut(name, "|"); is {
				c.subs[parent] = append(c.subs[parent], name)
			}
		}
	}
	return c
}

// ReadCatalog asks a server.
func ReadCatalog(ctx context.Context, c Asker) (Catalog, error) {
	names, err := c.Do(ctx, "ACL", "CAT").StringSlice()
	if err != nil {
		return Catalog{}, told("ACL CAT", err)
	}
	p := c.Pipeline()
	answers := make(map[string]*redis.Cmd, len(names))
	for _, name := range names {
		answers[name] = p.Do(ctx, "ACL", "CAT", name)
	}
	_, _ = p.Exec(ctx) // each has its own error
	categories := make(map[string][]string, len(names))
	for name, answer := range answers {
		if categories[name], err = answer.StringSlice(); err != nil {
			return Catalog{}, told("ACL CAT "+name, err)
		}
	}
	if len(categories) == 0 {
		return Catalog{}, fmt.Errorf("ACL CAT: the server names no category")
	}
	out := NewCatalog(categories)
	for _, name := range commandNames(ctx, c) {
		out.all[name] = true
	}
	return out, nil
}

// commandNames are the commands that have names of their own, those of modules too; none
// where the server does not tell.
func commandNames(ctx context.Context, c Asker) (out []string) {
	list, err := c.Do(ctx, "COMMAND", "LIST").Slice() // Redis 7.0
	if err != nil {
		list, _ = c.Do(ctx, "COMMAND").Slice()
	}
	for _, one := range list {
		if entry, is := one.([]any); is && len(entry) > 0 {
			one = entry[0]
		}
		if name, is := one.(string); is {
			out = append(out, strings.ToLower(name))
		}
	}
	return out
}

// runnable are the commands that are run as such, in order: of those with subcommands,
// the subcommands.
func (c Catalog) runnable() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for name := range c.all {
			if len(c.subs[name]) == 0 && !yield(name) {
				return
			}
		}
	})
}

// beyond are the commands that c has and o has not, in order, those with subcommands by
// their own name where o does not have that either.
func (c Catalog) beyond(o Catalog) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.all)) {
		parent, _, is := strings.Cut(name, "|")
		if name == "host:" || name == "post" { // which are there to close the connection
			continue
		}
		if !o.all[name] && (!is || o.all[parent] && len(o.subs[parent]) > 0) {
			out = append(out, name)
		}
	}
	return out
}

// rights are what command rules come to on a server.
type rights struct {
	may map[string]bool
	// first are the first arguments with which a command may be run that may not be
	// otherwise.
	first map[string][]string
	// other are the last words about commands that the catalog does not have.
	other map[string]bool
	// future says that commands are allowed that a module may bring along.
	future bool
}

// rights applies rules in their order, as servers do (acl.c: ACLSetSelector).
func (c Catalog) rights(words []string) rights {
	r := rights{may: make(map[string]bool), first: make(map[string][]string), other: make(map[string]bool)}
	for _, w := range words {
		if len(w) < 2 {
			continue
		}
		allow, name := w[0] == '+', w[1:]
		switch category, is := strings.CutPrefix(name, "@"); {
		case is && category == "all":
			clear(r.may)
			clear(r.first)
			clear(r.other)
			r.future = allow
			if allow {
				for name := range c.all {
					r.may[name] = true
				}
			}
		case is:
			for _, name := range c.in[category] {
				c.set(r, name, allow)
			}
		case c.all[name]:
			c.set(r, name, allow)
		default:
			parent, arg, _ := strings.Cut(name, "|")
			if allow && arg != "" && c.all[parent] {
				if !r.may[parent] && !slices.Contains(r.first[parent], arg) {
					r.first[parent] = append(r.first[parent], arg)
				}
				continue
			}
			r.other[name] = allow
		}
	}
	return r
}

// May reports whether command rules, in their order, allow a command with any arguments, such as
// "subscribe" or "client|id"; no for one that the server does not have.
func (c Catalog) May(rules []string, command string) bool {
	may, _, known := c.rights(rules).of(command, c)
	return known && may
}

func (c Catalog) set(r rights, name string, allow bool) {
	r.may[name] = allow
	delete(r.first, name)
	for _, sub := range c.subs[name] {
		r.may[sub] = allow
	}
}

// same reports whether two lists of rules allow the same on a server.
func (c Catalog) same(a, b []string) bool {
	x, y := c.rights(a), c.rights(b)
	if x.future != y.future || !maps.Equal(settled(x.other, x.future), settled(y.other, y.future)) {
		return false
	}
	for _, name := range c.runnable() {
		if x.may[name] != y.may[name] || !sameSet(x.first[name], y.first[name]) {
			return false
		}
	}
	return true
}

// settled leaves out what says again what holds anyway.
func settled(other map[string]bool, future bool) map[string]bool {
	out := make(map[string]bool)
	for name, allow := range other {
		if allow != future {
			out[name] = allow
		}
	}
	return out
}

func sameSet(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
