package conn

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/router"
)

// Whoever copies or compares knows a key by its client's name. Where it has another one
// on a server, because several databases share one there, the prefix is added to the
// commands on their way out, and taken off the one answer that names keys, SCAN's.

// At returns the client for a place: that of its database, but keys in commands are
// those at the place, without the prefix that they have on the server. Keys of ours
// (router.OurKeys) have none there. SCAN finds the keys of the place alone; a command
// about the whole database, or of which nobody knows where its keys are, is refused. It
// belongs to the pool: do not close it.
func (p *Pool) At(place router.Place) *redis.Client {
	c := p.DB(place.DB)
	if place.Prefix == "" {
		return c
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, ok := p.places[place]; ok {
		return at
	}
	var at *redis.Client
	if p.endpoint.Cluster != nil {
		at = p.newRouted(place.DB, prefixed{place})
	} else {
		at = c.WithTimeout(p.timeout) // which shares the connections
		at.AddHook(stamps{})          // those of c are not those of what it makes
		at.AddHook(prefixed{place})
	}
	p.places[place] = at
	return at
}

// nameAt returns the name that a key has at a place.
func nameAt(place router.Place, key string) string {
	if place.Prefix == "" || strings.HasPrefix(key, router.OurKeys) {
		return key
	}
	return place.Add(key)
}

// errNoPlace says that a command cannot be confined to a place. Like a server's refusal it
// means that nothing was done.
const errNoPlace = Refusal("the command cannot be confined to the keys with a prefix")

// wide are commands that reach beyond the keys that they name: the whole database, or
// keys that a pattern stands for.
var wide = map[string]bool{
	"dbsize": true, "flushall": true, "flushdb": true, "keys": true, "move": true, "randomkey": true, "scan": true, "swapdb": true,
	"sort": true, "sort_ro": true,
}

// prefixed is the hook of a client for a place.
type prefixed struct{ place router.Place }

func (h prefixed) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h prefixed) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if scan, is := cmd.(*redis.ScanCmd); is && cmd.Name() == "scan" {
			return h.scan(ctx, scan, next)
		}
		undo := make(changes)
		defer undo.all()
		if err := h.rename(undo, cmd); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (h prefixed) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		undo := make(changes)
		defer undo.all()
		for _, cmd := range cmds {
			if err := h.rename(undo, cmd); err != nil {
				for _, c := range cmds {
					c.SetErr(err)
				}
				return err
			}
		}
		return next(ctx, cmds)
	}
}

// changes are arguments that were replaced, and what they were: the slices are the
// callers', who may send them again, or twice at a time.
type changes map[*any]any

func (c changes) all() {
	for arg, was := range c {
		*arg = was
	}
}

// rename gives the keys of a command their names at the place.
func (h prefixed) rename(undo changes, cmd redis.Cmder) error {
	args := cmd.Args()
	at, err := keysIn(args)
	if err != nil {
		return err
	}
	for _, i := range at {
		if _, done := undo[&args[i]]; done {
			continue
		}
		var name any
		switch key := args[i].(type) {
		case string:
			name = nameAt(h.place, key)
		case []byte:
			name = nameAt(h.place, string(key))
		default:
			return fmt.Errorf("%v: key is a %T: %w", args[0], args[i], errNoPlace)
		}
		undo[&args[i]], args[i] = args[i], name
	}
	return nil
}

// keysIn returns which arguments of a command are keys.
func keysIn(args []any) (at []int, err error) {
	if len(args) == 0 {
		return nil, errNoPlace
	}
	name := strings.ToLower(fmt.Sprint(args[0]))
	spec := keyspec.Named(name)
	if spec == nil || wide[name] || !spec.Exact() {
		return nil, fmt.Errorf("%s: %w", name, errNoPlace)
	}
	const few = 4 // what comes behind may be large
	var keys []keyspec.Key
	keys, enough := spec.Head(nil, words(args[:min(len(args), few)]))
	if !enough {
		keys = spec.Keys(nil, words(args))
	}
	for _, k := range keys {
		at = append(at, k.At)
	}
	return at, nil
}

func words(args []any) [][]byte {
	out := make([][]byte, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case string:
			out[i] = []byte(a)
		case []byte:
			out[i] = a
		default:
			out[i] = fmt.Append(nil, a)
		}
	}
	return out
}

// scan runs SCAN for the keys of the place, and returns them by their clients' names.
func (h prefixed) scan(ctx context.Context, cmd *redis.ScanCmd, next redis.ProcessHook) error {
	args := append([]any(nil), cmd.Args()...)
	matched := false
	for i := 2; i+1 < len(args); i += 2 {
		if fmt.Sprint(args[i]) == "match" {
			args[i+1], matched = h.place.Pattern(fmt.Sprint(args[i+1])), true
		}
	}
	if !matched {
		args = append(args, "match", h.place.Pattern("*"))
	}
	inner := redis.NewScanCmd(ctx, nil, args...)
	err := next(ctx, inner)
	if err != nil {
		cmd.SetErr(err)
		return err
	}
	found, cursor := inner.Val()
	keys := found[:0]
	for _, k := range found {
		if key, ours := h.place.Cut(k); ours {
			keys = append(keys, key)
		}
	}
	cmd.SetVal(keys, cursor)
	return nil
}
