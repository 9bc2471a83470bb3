package preflight

import "context"

// checkForeignKeys refuses a target that is not empty: keys of others would be
// overwritten, or would look like ours.
func checkForeignKeys(ctx context.Context, in *inspection) []Finding {
	if in.Resumed {
		return one(pass("%s: the keys there are ours, from before", in.to))
	}
	keys := in.to.info.keyspace()
	var out []Finding
	for _, db := range in.Map.Targets() {
		if keys[db] == 0 {
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
		out = append(out, fail("Map to an empty database, or, if nobody needs these keys, empty it:\n"+withDB(in.to, db)+" FLUSHDB",
			"%s: database %d already holds %s that we did not write%s", in.to, db, plural(n, "key", "keys"), such(names)))
	}
	if len(out) > 0 {
		return out
	}
	if in.Only != nil {
		return one(pass("%s: the databases to be filled (%s) hold no keys of those that are copied", in.to, span(in.Map.Targets())))
	}
	return one(pass("%s: the databases to be filled (%s) are empty", in.to, span(in.Map.Targets())))
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
