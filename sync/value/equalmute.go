package value

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Where one of two servers does not let us DUMP, small keys of both are read by their
// types, many at a time, and written down in a form in which equal values are equal.

// readTyped returns the keys in order. Those that weigh limit or more, are large, or
// cannot be read so are marked as unread. Value and expiry are two steps: what changes
// in between is a difference that does not last.
func (r *reader) readTyped(ctx context.Context, c *redis.Client, keys []string, weight []int64, limit int64) ([]sight, error) {
	out := make([]sight, len(keys))
	kinds := make([]*redis.StatusCmd, len(keys))
	p := c.Pipeline()
	for i, k := range keys {
		kinds[i] = p.Type(ctx, k)
	}
	if err := must(ctx, p); err != nil {
		return nil, fmt.Errorf("asking %s for the types of %d keys: %w", at(c), len(keys), err)
	}
	var list []*small
	for i, k := range keys {
		kind := kinds[i].Val()
		if kind == "none" {
			continue
		}
		out[i].unread = true
		if weight[i] < limit && reading(kind, k) != nil {
			list = append(list, &small{at: i, key: k, kind: kind})
		}
	}
	list, err := r.typed.read(ctx, c, list)
	if err != nil {
		return nil, fmt.Errorf("reading %d keys from %s: %w", len(keys), at(c), err)
	}
	for _, s := range list {
		out[s.at] = sight{found: true, body: s.body(), expire: s.expire}
	}
	return out, nil
}

// body is the value with its type, in one form for equal ones.
func (s *small) body() string {
	parts, width := slices.Clone(s.elems), 1
	switch s.kind {
	case "string":
		parts[0] = uncached(parts[0])
	case "zset":
		width = 2
		for i := 1; i < len(parts); i += 2 {
			if f, err := strconv.ParseFloat(parts[i], 64); err == nil {
				parts[i] = strconv.FormatUint(math.Float64bits(f+0), 16) // +0 makes -0 a 0
			}
		}
	case "hash":
		width = 3
		parts = make([]string, 0, 3*len(s.elems)/2)
		for i := 0; i+1 < len(s.elems); i += 2 {
			expire := ""
			if s.fields != nil && s.fields[i/2] > 0 {
				expire = strconv.FormatInt(s.fields[i/2], 10)
			}
			parts = append(parts, s.elems[i], s.elems[i+1], expire)
		}
	}
	elems := slices.Collect(slices.Chunk(parts, width))
	if s.kind != "list" && s.kind != "string" {
		slices.SortFunc(elems, slices.Compare)
		elems = slices.CompactFunc(elems, slices.Equal) // SCAN may show one twice
	}
	out := append([]byte(s.kind), 0)
	for _, e := range elems {
		for _, part := range e {
			out = strconv.AppendInt(out, int64(len(part)), 10)
			out = append(out, ':')
			out = append(out, part...)
		}
	}
	return string(out)
}
