package preflight

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
)

// checkDatabases compares the map with the databases that are there and that hold keys.
func checkDatabases(ctx context.Context, in *inspection) []Finding {
	var out []Finding
	if in.Map.Len() == 0 {
		return one(fail("Map at least one database, such as --map 0=0.", "the database map is empty"))
	}
	keys := in.from.info.keyspace()
	out = append(out, unmapped(ctx, in, keys)...)
	out = append(out, places(ctx, in, in.from, in.databasesOf(in.from), keys)...)
	out = append(out, places(ctx, in, in.to, in.databasesOf(in.to), keys)...)
	if len(out) > 0 {
		return out
	}
	var total int64
	if in.back() && in.Map.Prefixed() { // nobody has counted ours among others'
		keys = in.to.info.keyspace()
	}
	for _, db := range in.Map.Sources() {
		if !in.back() || in.Map.Prefixed() {
			total += keys[db]
			continue
		}
		total += keys[in.at(in.from, db).DB]
	}
	left := ""
	if len(in.LeaveOut) > 0 {
		left = ", left out: " + numbers(in.LeaveOut)
	}
	return one(pass("%s, %s → %s: %s%s", plural(total, "key is to be moved", "keys are to be moved"), in.FromName, in.ToName, in.Map, left))
}

// unmapped finds databases with keys of which nobody said what becomes of them.
// On the way back they are other people's databases on the target: no matter.
func unmapped(ctx context.Context, in *inspection, keys map[int]int64) []Finding {
	if in.back() {
		return nil
	}
	var out []Finding
	for _, db := range sorted(keys) {
		if _, mapped := in.Map.Target(db); mapped || slices.Contains(in.LeaveOut, db) {
			continue
		}
		n, names := foreign(ctx, in.from.pool.DB(db), keys[db])
		if n == 0 {
			continue
		}
		out = append(out, fail(fmt.Sprintf("Say where it goes: --map %s, or that it stays: --leave-out %s.",
			goesTo(in, keys, db), numbers(append(slices.Clone(in.LeaveOut), db))),
			"database %d of the %s holds %s%s and is neither mapped nor left out", db, in.FromName, plural(n, "key", "keys"), such(names)))
	}
	return out
}

// goesTo is how the map might go on with one database more.
func goesTo(in *inspection, keys map[int]int64, db int) string {
	if in.to.clustered() {
		var parts []string
		for _, n := range sorted(keys) {
			if n == db || keys[n] > 0 && !slices.Contains(in.LeaveOut, n) {
				parts = append(parts, fmt.Sprintf("%d=0:c%d:", n, n))
			}
		}
		return strings.Join(parts, ",") + " (a cluster has one database: each becomes a part of it, with a prefix)"
	}
	return fmt.Sprintf("%s,%d=N (N: a free database of the %s)", given(in, keys), db, in.ToName)
}

// given is the map to go on from: the operator's, or what is in use of the one
// that nobody gave.
func given(in *inspection, keys map[int]int64) string {
	if in.Explicit {
		return in.Map.String()
	}
	pairs := in.Map.Pairs()
	maps.DeleteFunc(pairs, func(db int, _ router.Place) bool { return keys[db] == 0 && db != 0 })
	m, err := router.NewDBMap(pairs)
	if err != nil {
		return in.Map.String()
	}
	return m.String()
}

// places finds mapped database numbers that a server does not have.
func places(ctx context.Context, in *inspection, s *server, list []int, keys map[int]int64) []Finding {
	var absent, unused []int
	for _, db := range list {
		there, err := s.hasDB(ctx, db)
		if err != nil {
			return one(unknown(s, fmt.Sprintf("looking for database %d", db), err))
		}
		if there {
			continue
		}
		// A map that nobody gave has the same numbers on both, and databases that nobody uses.
		if !in.Explicit && keys[db] == 0 {
			unused = append(unused, db)
			continue
		}
		absent = append(absent, db)
	}
	var out []Finding
	if len(absent) > 0 {
		do := "Correct --map."
		if s == in.to && !s.clustered() {
			do = fmt.Sprintf("Map to lower numbers with --map, or set \"databases %d\" in the configuration of the %s and restart it.", slices.Max(absent)+1, s.name)
		}
		out = append(out, fail(do, "%s has no database %s, but the map (%s) needs it", s, numbers(absent), in.Map))
	}
	if len(unused) > 0 {
		out = append(out, warn(fmt.Sprintf("Name the databases that are used with --map, or set \"databases %d\" on the %s.", slices.Max(unused)+1, s.name),
			"%s has no database %s; they are empty at the %s now, but clients could not use them after the switch", s, span(unused), in.FromName))
	}
	return out
}

// span shortens a long list: "4 … 15".
func span(list []int) string {
	if len(list) < 4 {
		return numbers(list)
	}
	return fmt.Sprintf("%d … %d", slices.Min(list), slices.Max(list))
}

// ownLimit is how many keys of ours a database may hold at most, generously: with
// more keys than that, some are not ours.
const ownLimit = 2000

// foreign counts the keys of a database that are not ours, given how many there
// are, and names a few. Where it cannot look it counts them all.
func foreign(ctx context.Context, c *redis.Client, keys int64) (n int64, names []string) {
	const few = 3
	var own int64
	var cursor uint64
	looked := 0
	for {
		page, next, err := c.Scan(ctx, cursor, "", 500).Result()
		if err != nil {
			return keys, nil
		}
		for _, key := range page {
			switch {
			case strings.HasPrefix(key, ours):
				own++
			case len(names) < few:
				names = append(names, key)
			}
		}
		looked += len(page)
		cursor = next
		if cursor == 0 || looked > ownLimit {
			break
		}
	}
	if cursor == 0 && len(names) == 0 {
		return 0, nil
	}
	return max(keys-own, int64(len(names))), names
}

// such is " (such as "a", "b")".
func such(names []string) string {
	if len(names) == 0 {
		return ""
	}
	words := make([]string, len(names))
	for i, n := range names {
		words[i] = quoted(n)
	}
	return " (such as " + strings.Join(words, ", ") + ")"
}
