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
	return one(pass("%s: the databases to be filled (%s) are empty", in.to, span(in.Map.Targets())))
}
