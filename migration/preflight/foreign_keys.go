package preflight

import (
	"context"
	"slices"
	"strings"
	"time"
)

// checkForeignKeys refuses a target that is not empty: keys of others would be
// overwritten, or would look like ours.
func checkForeignKeys(ctx context.Context, in *inspection) []Finding {
	if in.Resumed {
		return one(pass("%s: the keys there are ours, from before", in.to))
	}
	keys := in.to.info.keyspace()
	var out []Finding
	for _, db := range in.databasesOf(in.to) {
		if keys[db] == 0 {
			continue
		}
		if !in.back() && in.Map.Shared(db) {
			out = append(out, colliding(ctx, in, db)...)
			continue
		}
		if in.Only != nil {
			out = append(out, foreignWithin(ctx, in, db)...)
			continue
		}
		n, names := foreign(ctx, in.to.pool.DB(db), keys[db])
		if n == 0 {
			continue
		}
		out = append(out, fail("Map to an empty database, or, if nobody needs these keys, empty it:\n"+emptying(in.to, db),
			"%s: database %d already holds %s that we did not write%s", in.to, db, plural(n, "key", "keys"), such(names)))
	}
	switch {
	case len(out) > 0:
		return out
	case !in.back() && in.Map.Prefixed():
		return one(pass("%s: no key in the databases to be filled (%s) begins with a prefix of the map, or stands where one has a database for itself", in.to, span(in.databasesOf(in.to))))
	}
	if in.Only != nil {
		return one(pass("%s: the databases to be filled (%s) hold no keys of those that are copied", in.to, span(in.databasesOf(in.to))))
	}
	return one(pass("%s: the databases to be filled (%s) are empty", in.to, span(in.databasesOf(in.to))))
}

// emptying is the command line that empties a database.
func emptying(s *server, db int) string {
	if s.clustered() {
		_, address := s.pool.Endpoint().Where()
		return "redis-cli --cluster call " + address + " FLUSHALL --cluster-only-masters"
	}
	return withDB(s, db) + " FLUSHDB"
}

// foreignWithin looks for keys that would be overwritten or removed where others are
// left alone.
func foreignWithin(ctx context.Context, in *inspection, db int) []Finding {
	n, names, whole := within(ctx, in.to.pool.DB(db), in.Only)
	switch {
	case n > 0:
		return one(fail("Map to another database, remove these keys, or choose others with sync.match and sync.types.",
			"%s: database %d already holds %s of those that are to be copied (%s), which we did not write%s", in.to, db, plural(n, "key", "keys"), in.Only, such(names)))
	case !whole:
		return one(warn("Make sure that it has none: they would be overwritten or removed.",
			"%s: database %d could not be searched to its end for keys of those that are to be copied (%s)", in.to, db, in.Only))
	}
	return nil
}

// colliding looks through a database that is shared with others: for keys that begin
// with a prefix of the map, which would be overwritten or removed, and for others, which
// are left alone.
func colliding(ctx context.Context, in *inspection, db int) (out []Finding) {
	const few = 3
	c := in.to.pool.DB(db)
	count, shown := map[int]int64{}, map[int][]string{} // by source database; -1: nobody's
	whole := false
	until := time.Now().Add(3 * filteredTime)
	for cursor := uint64(0); !whole && (in.stage == StageCopy || time.Now().Before(until)); { // nothing is copied unless it is proved
		page, next, err := c.Scan(ctx, cursor, "", 1000).Result()
		if err != nil {
			return one(unknown(in.to, "looking for keys that begin with a prefix", err))
		}
		for _, key := range page {
			if strings.HasPrefix(key, ours) {
				continue
			}
			source, name, mapped := in.Map.SourceOf(db, key)
			if !mapped {
				source = -1
			} else if !in.Only.Name(name) {
				continue
			}
			if count[source]++; len(shown[source]) < few && !slices.Contains(shown[source], key) {
				shown[source] = append(shown[source], key)
			}
		}
		cursor = next
		whole = cursor == 0
	}
	for _, source := range in.Map.SourcesAt(db) {
		if count[source] == 0 {
			continue
		}
		place, _ := in.Map.Place(source)
		out = append(out, fail("Choose another prefix, or remove these keys if nobody needs them.",
			"%s: database %d already holds %s that we did not write and that %s with %q, the prefix of source database %d%s",
			in.to, db, plural(count[source], "key", "keys"), begins(count[source]), place.Prefix, source, such(shown[source])))
	}
	if !whole {
		out = append(out, warn("It takes longer than a check may. Before anything is copied it is searched whole.",
			"%s: database %d could not be searched to its end for keys that begin with a prefix of the map", in.to, db))
	}
	if n := count[-1]; n > 0 {
		out = append(out, warn("See that nobody empties that database, or writes keys there that begin with a prefix of the map.",
			"%s: database %d holds %s of others%s, which are left alone", in.to, db, plural(n, "key", "keys"), such(shown[-1])))
	}
	return out
}

func begins(n int64) string {
	if n == 1 {
		return "begins"
	}
	return "begin"
}
