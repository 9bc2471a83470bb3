package preflight

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// builtin are the types that every server knows.
var builtin = []string{"string", "list", "set", "zset", "hash", "stream", "none"}

// checkModules looks for modules that To lacks, and for keys of their types.
func checkModules(ctx context.Context, in *inspection) []Finding {
	out := moduleValues(ctx, in)
	from, err := modules(ctx, in.from)
	if err != nil {
		return append(out, unknown(in.from, "MODULE LIST", err))
	}
	if len(from) == 0 {
		if len(out) == 0 {
			out = one(pass("%s: no modules", in.from))
		}
		return out
	}
	to, err := modules(ctx, in.to)
	if err != nil {
		return append(out, unknown(in.to, "MODULE LIST", err))
	}
	var absent []string
	for _, name := range from {
		if !slices.Contains(to, name) {
			absent = append(absent, quoted(name))
		}
	}
	if len(absent) > 0 {
		return append(out, warn("Load them there, unless nobody uses them.", "%s lacks modules that the %s has: %s", in.to, in.FromName, strings.Join(absent, ", ")))
	}
	return append(out, pass("both servers have the modules %s", strings.Join(from, ", ")))
}

// modules lists names. Before 4.0, and at some services, there is no such command.
func modules(ctx context.Context, s *server) ([]string, error) {
	reply, err := s.client().Do(ctx, "MODULE", "LIST").Slice()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range reply {
		list, _ := entry.([]any)
		for i := 0; i+1 < len(list); i += 2 {
			if list[i] == "name" {
				names = append(names, fmt.Sprint(list[i+1]))
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// moduleTypes are the types in From's sample that are not Redis' old ones.
func moduleTypes(ctx context.Context, in *inspection, s *server) []string {
	if s != in.from {
		return nil
	}
	return slices.Sorted(maps.Keys(examples(in.look(ctx))))
}

// examples has the smallest key of each such type.
func examples(s *sample) map[string]sized {
	out := make(map[string]sized)
	for _, k := range s.keys {
		if k.kind == "" || slices.Contains(builtin, k.kind) {
			continue
		}
		if old, have := out[k.kind]; !have || k.bytes < old.bytes {
			out[k.kind] = k
		}
	}
	return out
}

// moduleValues tries a value of each special type: such values can only be
// copied by RESTORE.
func moduleValues(ctx context.Context, in *inspection) []Finding {
	var out []Finding
	found := examples(in.look(ctx))
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		k := found[kind]
		if err := tryRestore(ctx, in, k); refused(err) {
			out = append(out, fail("Grant DUMP and RESTORE (see permissions), or leave these keys out.",
				"the %s has keys of type %s (such as %s in database %d), which only DUMP and RESTORE can copy: %v", in.FromName, kind, quoted(k.name), k.db, err))
		} else if err != nil {
			out = append(out, fail(fmt.Sprintf("Give the %s what the type needs (the module, the version), or leave these keys out.", in.ToName),
				"the %s has keys of type %s (such as %s in database %d), which the %s does not take: %v", in.FromName, kind, quoted(k.name), k.db, in.ToName, err))
		} else {
			out = append(out, pass("%s takes values of type %s (tried with a copy of %s)", in.to, kind, quoted(k.name)))
		}
	}
	return out
}

func tryRestore(ctx context.Context, in *inspection, k sized) error {
	const largest = 1 << 20
	if k.bytes > largest {
		return fmt.Errorf("not tried: the smallest one seen has %s", size(k.bytes))
	}
	payload, err := in.from.pool.At(in.at(in.from, k.db)).Dump(ctx, k.name).Result()
	if err == redis.Nil { //nolint:errorlint // go-redis' own way; gone meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	c, key := in.to.pool.DB(in.at(in.to, k.db).DB), probeKey()
	defer clean(ctx, c, key)
	ctx, cancel := shielded(ctx)
	defer cancel()
	return c.Restore(ctx, key, probeTTL, payload).Err()
}
