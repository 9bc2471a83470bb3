package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/conn"
)

// A function's name may be in one library only, so a library cannot always be loaded while the
// one that had its functions before is still there: it was renamed, or functions have moved from
// one to another. What cannot be loaded one by one is exchanged in a transaction. A server
// compiles a library before it looks at the names of its functions, so by then it is known that
// nothing else is wrong with those.

// carryTo brings one server that has these libraries to what is planned.
func (c *carriage) carryTo(ctx context.Context, s *conn.Pool, has libraries) error {
	client, gone := s.DB(0), slices.DeleteFunc(slices.Clone(c.gone), func(name string) bool { _, there := has[name]; return !there })
	var pending []string
	for name, lib := range c.want {
		if has[name].code != lib.code {
			pending = append(pending, name)
		}
	}
	slices.Sort(pending)
	var errs []error
	for before := -1; len(pending) != before; { // one that is loaded may let go of another's function
		before = len(pending)
		pending = slices.DeleteFunc(pending, func(name string) bool {
			err := client.FunctionLoadReplace(ctx, c.want[name].code).Err()
			if isTaken(err) {
				return false
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("loading function library %q on %s: %w", name, s, err))
			}
			return true
		})
	}
	pending = slices.DeleteFunc(pending, func(name string) bool {
		function, of := c.takenBy(name, has)
		if of != "" {
			errs = append(errs, fmt.Errorf("loading function library %q on %s: its function %q is in library %q there, which this migration has not brought: rename it, or FUNCTION DELETE %s on %s if nobody needs that", name, s, function, of, of, s))
		}
		return of != ""
	})
	if len(pending) > 0 {
		if err := c.exchange(ctx, client, has, gone, pending); err != nil {
			return errors.Join(append(errs, fmt.Errorf("exchanging function libraries %s on %s: %w", quotedList(pending), s, err))...)
		}
		gone = nil
	}
	for _, name := range gone {
		if err := client.FunctionDelete(ctx, name).Err(); err != nil && !isNoLibrary(err) {
			errs = append(errs, fmt.Errorf("deleting function library %q on %s: %w", name, s, err))
		}
	}
	return errors.Join(errs...)
}

// takenBy returns a function of a library that another one has which stays, and that one.
func (c *carriage) takenBy(name string, has libraries) (function, of string) {
	for _, other := range slices.Sorted(maps.Keys(has)) {
		if _, wanted := c.want[other]; wanted || slices.Contains(c.gone, other) {
			continue
		}
		for _, f := range has[other].functions {
			if slices.Contains(c.want[name].functions, f) {
				return f, other
			}
		}
	}
	return "", ""
}

// exchange deletes those that are gone, and loads those that are pending in the place of what
// they were, in one step. If that fails, all is put back.
func (c *carriage) exchange(ctx context.Context, client *redis.Client, has libraries, gone, pending []string) error {
	old := slices.Clone(gone)
	for _, name := range pending {
		if _, there := has[name]; there {
			old = append(old, name)
		}
	}
	loads := make(map[string]*redis.StringCmd)
	cmds, err := client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		for _, name := range old {
			p.FunctionDelete(ctx, name)
		}
		for _, name := range pending {
			loads[name] = p.FunctionLoad(ctx, c.want[name].code)
		}
		return nil
	})
	loaded := func(name string) bool { return loads[name].Err() == nil }
	switch {
	case err == nil, isNoLibrary(err) && !slices.ContainsFunc(pending, func(name string) bool { return !loaded(name) }):
		return nil
	case !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() == nil }):
		return err // refused as a whole, or of unknown outcome: the next look will tell
	}
	_, back := client.TxPipelined(context.WithoutCancel(ctx), func(p redis.Pipeliner) error {
		for _, name := range pending {
			if loaded(name) {
				p.FunctionDelete(ctx, name)
			}
		}
		for _, name := range old {
			p.FunctionLoad(ctx, has[name].code)
		}
		return nil
	})
	return errors.Join(err, back)
}

// isTaken reports whether a library was refused for a function that another one has.
func isTaken(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "already exists")
}

func isNoLibrary(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "library not found")
}
