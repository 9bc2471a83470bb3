package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A picture is what a client can see of a key, by plain commands that all servers
// have, in facets. A facet that a server cannot show is not in it.
type picture map[string]string

// pictureOf looks at a key. The client reads RESP2, so that all servers answer alike.
func pictureOf(ctx context.Context, c *redis.Client, key string) (picture, error) {
	kind, err := c.Type(ctx, key).Result()
	if err != nil {
		return nil, err
	}
	p := picture{"type": kind}
	ask := func(args ...any) any {
		v, e := c.Do(ctx, args...).Result()
		if e != nil && !errors.Is(e, redis.Nil) && err == nil {
			err = fmt.Errorf("%v: %w", args[0], e)
		}
		return v
	}
	lines := func(v any, sorted bool) string {
		list, _ := v.([]any)
		out := make([]string, len(list))
		for i, e := range list {
			out[i] = fmt.Sprintf("%q", fmt.Sprint(e))
		}
		if sorted {
			slices.Sort(out)
		}
		return strings.Join(out, "\n")
	}
	switch kind {
	case "string":
		p["value"] = fmt.Sprint(ask("GET", key))
		if strings.HasPrefix(key, "hll") {
			p["count"] = fmt.Sprint(ask("GET", key)) // PFCOUNT would write to its cache
		}
	case "list":
		p["value"] = lines(ask("LRANGE", key, 0, -1), false)
	case "set":
		p["value"] = lines(ask("SMEMBERS", key), true)
	case "zset":
		pairs, _ := ask("ZRANGE", key, 0, -1, "WITHSCORES").([]any)
		for i := 1; i < len(pairs); i += 2 { // some say 0.1, some 0.10000000000000001
			if f, e := strconv.ParseFloat(fmt.Sprint(pairs[i]), 64); e == nil {
				pairs[i] = math.Float64bits(f)
			}
		}
		p["value"] = lines(pairs, false)
	case "hash":
		flat, _ := ask("HGETALL", key).([]any)
		pairs := make([]any, 0, len(flat)/2)
		args := []any{"HPEXPIRETIME", key, "FIELDS", len(flat) / 2}
		for i := 0; i+1 < len(flat); i += 2 {
			pairs = append(pairs, []any{flat[i], flat[i+1]})
			args = append(args, flat[i])
		}
		p["value"] = lines(pairs, true)
		if at, e := c.Do(ctx, args...).Slice(); e == nil {
			for i, ms := range at {
				at[i] = []any{flat[2*i], ms}
			}
			p["field expiries"] = lines(at, true)
		}
	case "stream":
		p.addStream(key, ask, lines)
	}
	at, e := c.Do(ctx, "PEXPIRETIME", key).Int64()
	if e != nil { // before 7.0
		tx := c.TxPipeline()
		left, now := tx.PTTL(ctx, key), tx.Time(ctx)
		if _, e = tx.Exec(ctx); e == nil {
			at = -1
			if left.Val() > 0 {
				at = now.Val().Add(left.Val()).UnixMilli()
			}
		}
	}
	if e != nil && err == nil {
		err = e
	}
	p["expires"] = fmt.Sprint(at)
	return p, err
}

// addStream adds what can be seen of a stream. Idle times are of the moment, so the
// time of delivery is left to the tests of the copy.
func (p picture) addStream(key string, ask func(...any) any, lines func(any, bool) string) {
	table := func(v any) map[string]any {
		list, _ := v.([]any)
		m := make(map[string]any)
		for i := 0; i+1 < len(list); i += 2 {
			m[fmt.Sprint(list[i])] = list[i+1]
		}
		return m
	}
	p["value"] = lines(ask("XRANGE", key, "-", "+"), false)
	about := table(ask("XINFO", "STREAM", key))
	for _, name := range []string{"length", "last-generated-id", "max-deleted-entry-id", "entries-added"} {
		if v, ok := about[name]; ok {
			p[name] = fmt.Sprint(v)
		}
	}
	groups, _ := ask("XINFO", "GROUPS", key).([]any)
	names := make([]any, 0, len(groups))
	for _, g := range groups {
		m := table(g)
		name := fmt.Sprint(m["name"])
		names = append(names, name, m["last-delivered-id"], m["pending"])
		if v, ok := m["entries-read"]; ok {
			p["entries-read of "+name] = fmt.Sprint(v)
		}
		var consumers []any
		list, _ := ask("XINFO", "CONSUMERS", key, name).([]any)
		for _, c := range list {
			m := table(c)
			consumers = append(consumers, []any{m["name"], m["pending"]})
		}
		p["consumers of "+name] = lines(consumers, true)
		var pending []any
		list, _ = ask("XPENDING", key, name, "-", "+", 100_000).([]any)
		for _, e := range list {
			four, _ := e.([]any)
			if len(four) == 4 {
				pending = append(pending, []any{four[0], four[1], four[3]})
			}
		}
		p["pending of "+name] = lines(pending, false)
	}
	p["groups"] = lines(names, false)
}

// differs names the first facet in which two pictures are not the same. Facets that
// one server alone can show are not compared, unless which is told by need.
func (p picture) differs(o picture) string {
	for facet, v := range p {
		w, there := o[facet]
		if facet == "expires" && near(v, w) {
			continue
		}
		switch optional := strings.HasPrefix(facet, "entries-") || facet == "max-deleted-entry-id" || facet == "field expiries"; {
		case !there && optional, v == w:
		default:
			return fmt.Sprintf("%s: %.300s\n\tand\n%.300s", facet, v, w)
		}
	}
	for facet, w := range o {
		if _, there := p[facet]; !there && !strings.HasPrefix(facet, "entries-") && facet != "max-deleted-entry-id" && facet != "field expiries" {
			return fmt.Sprintf("%s: only there: %.300s", facet, w)
		}
	}
	return ""
}

// near reports whether two moments are one to servers before 7.0, which tell but how
// long a key has left.
func near(v, w string) bool {
	a, err1 := strconv.ParseInt(v, 10, 64)
	b, err2 := strconv.ParseInt(w, 10, 64)
	return err1 == nil && err2 == nil && (a == b || a > 0 && b > 0 && max(a-b, b-a) <= 5)
}

// picturesDiffer compares two databases, key by key.
func picturesDiffer(ctx context.Context, a, b *redis.Client) error {
	keysA, err := allKeys(ctx, a)
	if err != nil {
		return err
	}
	keysB, err := allKeys(ctx, b)
	if err != nil {
		return err
	}
	keys := slices.Compact(slices.Sorted(slices.Values(append(keysA, keysB...))))
	var errs []error
	for _, key := range keys {
		p, err := pictureOf(ctx, a, key)
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		o, err := pictureOf(ctx, b, key)
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		if d := p.differs(o); d != "" && len(errs) < 8 {
			errs = append(errs, fmt.Errorf("key %q: %s", key, d))
		}
	}
	return errors.Join(errs...)
}
