package mirror

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/lua"
	"github.com/crossfade/crossfade/router"
)

// Whose the libraries of the target are. The source's are all the applications'. On the target
// there may be others' besides, which nobody may delete, overwrite or carry back: a server does
// not say who has loaded a library, so it is written down what was there, before anything is
// loaded, and kept for the way back and over the end of the process.

// Whose says how a library has come to the target.
type Whose string

const (
	// Carried is one that is on both sides because a mirror has brought it, or is about to.
	Carried Whose = "carried"
	// Alike is one that was on the target before, the same as on the source: both have it,
	// and on the target it is others' too.
	Alike Whose = "alike"
	// Others is one that was on the target before, and on the source not, or not the same.
	Others Whose = "others"
)

// Libraries says whose those of the target are, by their names. nil: nobody has looked.
type Libraries map[string]Whose

// Shelf keeps Libraries for both mirrors and beyond them. Safe for concurrent use.
type Shelf interface {
	// Libraries returns what was kept last, which the caller does not change. nil is what an
	// older version leaves, which has carried all that both sides have.
	Libraries() Libraries
	// Keep returns once what is known outlives the process.
	Keep(ctx context.Context, l Libraries) error
}

// memory is the shelf of a mirror that has none.
type memory struct{ l Libraries }

func (s *memory) Libraries() Libraries                      { return s.l }
func (s *memory) Keep(_ context.Context, l Libraries) error { s.l = l; return nil }

// library is one on a server.
type library struct {
	code      string
	functions []string
}

// libraries are a server's, by name.
type libraries map[string]library

// carriage is what is to be done so that To's libraries are those of From.
type carriage struct {
	want    libraries // to be on To
	gone    []string  // to be on To no longer
	known   Libraries // once that is done; before, those that are gone are Carried as well
	clashes []string  // others' libraries that are in the way
	left    []string  // that may not be on To
}

// plan says what is to be done. to are the libraries of each of To's servers.
func plan(side router.Side, dm router.DBMap, before Libraries, from libraries, to []libraries) carriage {
	c := carriage{want: make(libraries), known: make(Libraries)}
	maps.Copy(c.known, before)
	if side == router.Target {
		c.back(from)
	} else {
		c.forth(dm, before == nil, from, to)
	}
	for name, whose := range c.known {
		if _, wanted := c.want[name]; !wanted && whose == Carried {
			c.gone = append(c.gone, name)
		}
	}
	slices.Sort(c.gone)
	slices.Sort(c.clashes)
	slices.Sort(c.left)
	return c
}

// forth plans from the source to the target. With adopt, what both have was carried.
func (c *carriage) forth(dm router.DBMap, adopt bool, from libraries, to []libraries) {
	for name, lib := range from {
		if !dm.IsWhole() && lua.NamesDatabase([]byte(lib.code)) {
			c.left = append(c.left, name)
			continue
		}
		there, same := on(to, name, lib.code)
		switch {
		case c.known[name] == Carried, !there, adopt:
			c.known[name] = Carried
		case same:
			c.known[name] = Alike
		default:
			if c.known[name] == "" {
				c.known[name] = Others
			}
			c.clashes = append(c.clashes, name)
			continue
		}
		c.want[name] = lib
	}
	for name, whose := range c.known {
		there, _ := on(to, name, "")
		if _, has := from[name]; whose == Carried || has && there {
			continue
		}
		if there {
			c.known[name] = Others
		} else {
			delete(c.known, name)
		}
	}
	for _, has := range to {
		for name := range has {
			if c.known[name] == "" {
				c.known[name] = Others
			}
		}
	}
}

// back plans from the target to the source, where there is nobody else's. What is loaded on
// the target now is the applications', and so is what they have in common with others.
func (c *carriage) back(from libraries) {
	for name, lib := range from {
		switch c.known[name] {
		case Others:
			continue
		case "":
			c.known[name] = Carried
		}
		c.want[name] = lib
	}
	for name, whose := range c.known {
		if _, there := from[name]; there {
			continue
		}
		if whose == Others {
			delete(c.known, name)
		} else {
			c.known[name] = Carried // and gone
		}
	}
}

// on reports whether some server has a library of that name, and whether all that have it have
// the same.
func on(servers []libraries, name, code string) (there, same bool) {
	same = true
	for _, has := range servers {
		if lib, ok := has[name]; ok {
			there, same = true, same && lib.code == code
		}
	}
	return there, same
}

// clash is what is said of others' libraries in the way.
func (c *carriage) clash(to fmt.Stringer) error {
	if len(c.clashes) == 0 {
		return nil
	}
	return fmt.Errorf("function %s on %s already, of other content and not brought by this migration: %s; it is left alone, and clients would call the wrong one there: rename one of both, or FUNCTION DELETE that on %s if nobody needs it",
		plural(len(c.clashes), "library is", "libraries are"), to, quotedList(c.clashes), to)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func quotedList(names []string) string {
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(words, ", ")
}

// listLibraries reads a server's.
func listLibraries(ctx context.Context, c *redis.Client) (libraries, error) {
	list, err := c.FunctionList(ctx, redis.FunctionListQuery{WithCode: true}).Result()
	if err != nil {
		return nil, err
	}
	out := make(libraries, len(list))
	for _, lib := range list {
		l := library{code: lib.Code}
		for _, f := range lib.Functions {
			l.functions = append(l.functions, f.Name)
		}
		out[lib.Name] = l
	}
	return out, nil
}
