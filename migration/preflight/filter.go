package preflight

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/filter"
)

// Partial says why no switch is made where only a part of the keys is copied.
func Partial(only *filter.Filter) string {
	return fmt.Sprintf("only a part of the keys is copied (%s), so that clients would miss the others after a switch; set cutover.allow_partial: true if they need no others", only)
}

// checkFilter says that a part is copied, which is a copy and no migration.
func checkFilter(_ context.Context, in *inspection) []Finding {
	switch {
	case in.Only == nil:
		return nil
	case in.AllowPartial:
		return one(warn("Make sure that no client needs any other key.",
			"only a part of the keys is copied (%s), and a switch is made all the same (cutover.allow_partial)", in.Only))
	case in.stage == StageCutover:
		return one(fail("Set cutover.allow_partial: true if clients need no other keys, or copy all of them.", "%s", Partial(in.Only)))
	}
	return one(warn("Nothing has to be done for a copy; for a cutover copy all keys, or set cutover.allow_partial: true if clients need no others.",
		"only a part of the keys is copied (%s): a cutover is refused", in.Only))
}

// filteredTime bounds how long a database is searched for keys that are copied.
const filteredTime = 3 * time.Second

// within counts the keys of a database that are copied and not ours, and names a few.
// whole is false when there was no time to look at all.
func within(ctx context.Context, c *redis.Client, only *filter.Filter) (n int64, names []string, whole bool) {
	match, _ := only.Scan()
	until := time.Now().Add(filteredTime)
	for cursor := uint64(0); time.Now().Before(until); {
		page, next, err := c.Scan(ctx, cursor, match, 1000).Result()
		if err != nil {
			return n, names, false
		}
		kinds := make([]*redis.StatusCmd, len(page))
		_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, key := range page {
				kinds[i] = p.Type(ctx, key)
			}
			return nil
		})
		for i, key := range page {
			if strings.HasPrefix(key, ours) || !only.Name(key) || !only.Type(kinds[i].Val()) {
				continue
			}
			if n++; len(names) < 3 {
				names = append(names, key)
			}
		}
		if cursor = next; cursor == 0 {
			return n, names, true
		}
	}
	return n, names, false
}
