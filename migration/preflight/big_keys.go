package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

const (
	sampleKeys = 2000
	sampleTime = 500 * time.Millisecond
	bigKey     = 64 << 20 // bytes
)

// sized is a key with what it takes in the server's memory, in bytes and about.
type sized struct {
	db    int
	name  string
	kind  string
	bytes int64
}

// sample is a look at some of From's keys.
type sample struct {
	keys  []sized
	err   error // why it is not what it should be
	scale value.Scale
}

// look takes the sample once; several checks read it.
func (in *inspection) look(ctx context.Context) *sample {
	if in.sampled == nil {
		in.sampled = take(ctx, in)
	}
	return in.sampled
}

func take(ctx context.Context, in *inspection) *sample {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	start := time.Now()
	out := &sample{}
	keys := in.from.info.keyspace()
	var used []int
	for _, db := range in.Map.Sources() {
		if keys[in.at(in.from, db).DB] > 0 {
			used = append(used, db)
		}
	}
	for i, db := range used {
		// Each database gets its share of what is left.
		share := (sampleKeys - len(out.keys)) / (len(used) - i)
		until := start.Add(sampleTime * time.Duration(i+1) / time.Duration(len(used)))
		if err := out.scan(ctx, in.from.pool.At(in.at(in.from, db)), db, share, until); err != nil {
			out.err = fmt.Errorf("database %d: %w", db, err)
			break
		}
	}
	return out
}

// scan adds up to share keys of one database, in steps of 100, until a moment.
func (s *sample) scan(ctx context.Context, c *redis.Client, db, share int, until time.Time) error {
	var cursor uint64
	for taken := 0; taken < share; {
		page, next, err := c.Scan(ctx, cursor, "", 100).Result()
		if err != nil {
			return fmt.Errorf("SCAN: %w", err)
		}
		usage, err := s.scale.Weigh(ctx, c, page)
		if err != nil {
			return err
		}
		kind := make([]*redis.StatusCmd, len(page))
		_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, key := range page {
				kind[i] = p.Type(ctx, key)
			}
			return nil
		})
		for i, key := range page {
			if name := kind[i].Val(); name != "" && name != "none" && !strings.HasPrefix(key, ours) {
				s.keys = append(s.keys, sized{db, key, name, usage[i]})
			}
		}
		taken += len(page)
		if cursor = next; cursor == 0 || time.Now().After(until) {
			return nil
		}
	}
	return nil
}

// checkBigKeys looks at a sample for keys that take long to copy. Names are
// shown, values never.
func checkBigKeys(ctx context.Context, in *inspection) []Finding {
	s := in.look(ctx)
	if s.err != nil {
		return one(unknown(in.from, "looking for big keys", s.err))
	}
	if len(s.keys) == 0 {
		return one(pass("%s: no keys yet", in.from))
	}
	slices.SortFunc(s.keys, func(a, b sized) int { return cmp.Compare(b.bytes, a.bytes) })
	var big []string
	for _, k := range s.keys {
		if k.bytes > bigKey && len(big) < 5 {
			big = append(big, fmt.Sprintf("%s in database %d: %s, %s", quoted(k.name), k.db, k.kind, size(k.bytes)))
		}
	}
	top := s.keys[0]
	if len(big) == 0 {
		return one(pass("%s: the largest of %s looked at is %s (%s in database %d)", in.from, plural(int64(len(s.keys)), "key", "keys"), size(top.bytes), quoted(top.name), top.db))
	}
	return one(warn("Nothing has to be done; they are copied in pieces. A key like this that changes all the time makes the lag long: then make it smaller before the switch.",
		"%s: big keys among %d looked at: %s", in.from, len(s.keys), strings.Join(big, "; ")))
}
