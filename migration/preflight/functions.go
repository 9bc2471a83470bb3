package preflight

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/lua"
)

// library is one of a server's function libraries.
type library struct {
	code      string
	functions []string
}

// checkFunctions compares the function libraries (7.0 and newer).
func checkFunctions(ctx context.Context, in *inspection) []Finding {
	from, err := libraries(ctx, in.from)
	if err != nil {
		return one(unknown(in.from, "FUNCTION LIST", err))
	}
	if len(from) == 0 {
		return one(pass("%s: no function libraries", in.from))
	}
	to, err := libraries(ctx, in.to)
	if err != nil {
		return one(unknown(in.to, "FUNCTION LIST", err))
	}
	ours := len(from) - in.others(from)
	switch {
	case to == nil && ours > 0:
		return one(fail(fmt.Sprintf("Use a %s of version 7.0 or newer, or delete the functions if nobody calls them.", in.ToName),
			"the %s has %s, and %s knows no functions", in.FromName, plural(int64(ours), "function library", "function libraries"), in.to))
	case in.back():
		return one(pass("%s carried back", plural(int64(ours), "function library of clients' is", "function libraries of clients' are")))
	}
	out, left := in.leaving(from)
	maps.DeleteFunc(from, func(name string, _ library) bool { return slices.Contains(left, name) })
	out = append(out, in.clashes(from, to)...)
	if len(out) > 0 {
		return out
	}
	if in.Resumed || in.stage == StageCutover {
		return one(pass("%s carried over", plural(int64(len(from)), "function library is", "function libraries are")))
	}
	return one(pass("%s will be carried over", plural(int64(len(from)), "function library", "function libraries")))
}

// others counts those libraries of the server that is left that are not ours: on the source
// all are.
func (in *inspection) others(on map[string]library) (n int) {
	for name := range on {
		if in.back() && in.Foreign != nil && in.Foreign(name) {
			n++
		}
	}
	return n
}

// leaving finds libraries that seem to leave the mapped databases.
func (in *inspection) leaving(from map[string]library) (out []Finding, left []string) {
	if in.Map.IsWhole() {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if lua.NamesDatabase([]byte(from[name].code)) {
			left = append(left, name)
		}
	}
	if len(left) > 0 {
		out = one(warn("Load a version of them that does without SELECT, MOVE, SWAPDB, FLUSHALL and COPY … DB (the words in quotes are looked for), or map each database of the target to itself.",
			"function libraries that name databases by number, which cannot be mapped, are not carried over, so that their functions are not found after the switch: %s", list(left)))
	}
	return out, left
}

// clashes finds others' libraries on the target that are in the way of ours.
func (in *inspection) clashes(from, to map[string]library) (out []Finding) {
	brought := func(name string) bool { return in.Brought != nil && in.Brought(name) }
	say := fail
	if in.Resumed && in.stage == StageCopy { // no reason to have the copy wait: a cutover will
		say = warn
	}
	var names, functions []string
	for name, lib := range from {
		if there, has := to[name]; has && there.code != lib.code && !brought(name) {
			names = append(names, name)
		}
		for other, there := range to {
			if _, both := from[other]; both || brought(other) {
				continue
			}
			for _, f := range there.functions {
				if slices.Contains(lib.functions, f) {
					functions = append(functions, fmt.Sprintf("%s (of %s, there of %s)", quoted(f), quoted(name), quoted(other)))
				}
			}
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		out = append(out, say(fmt.Sprintf("Give one of both another name; or, if nobody needs that of the %s: FUNCTION DELETE there.", in.ToName),
			"the %s has function libraries of the same name and other content, which this migration has not brought and leaves alone: %s", in.ToName, list(names)))
	}
	if len(functions) > 0 {
		slices.Sort(functions)
		out = append(out, say(fmt.Sprintf("Give one of both another name; or, if nobody needs that library of the %s: FUNCTION DELETE there.", in.ToName),
			"the %s has functions of the same name in other libraries, which this migration has not brought and leaves alone: %s", in.ToName, strings.Join(functions, ", ")))
	}
	return out
}

func list(names []string) string {
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = quoted(name)
	}
	return strings.Join(words, ", ")
}

// libraries returns them by name, nil when the server knows no functions.
func libraries(ctx context.Context, s *server) (map[string]library, error) {
	if s.info.compatible().before(version{7, 0, 0}) {
		return nil, nil
	}
	list, err := s.client().FunctionList(ctx, redis.FunctionListQuery{WithCode: true}).Result()
	if err != nil {
		return nil, err
	}
	out := make(map[string]library, len(list))
	for _, lib := range list {
		l := library{code: lib.Code}
		for _, f := range lib.Functions {
			l.functions = append(l.functions, f.Name)
		}
		out[lib.Name] = l
	}
	return out, nil
}
