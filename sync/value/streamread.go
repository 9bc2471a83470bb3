package value

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// streamID is an entry's id.
type streamID struct{ ms, seq uint64 }

func parseID(s string) (streamID, error) {
	a, b, ok := strings.Cut(s, "-")
	ms, err1 := strconv.ParseUint(a, 10, 64)
	seq, err2 := strconv.ParseUint(b, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return streamID{}, fmt.Errorf("unexpected stream id in an answer")
	}
	return streamID{ms, seq}, nil
}

func (id streamID) String() string {
	return strconv.FormatUint(id.ms, 10) + "-" + strconv.FormatUint(id.seq, 10)
}

func (id streamID) compare(o streamID) int {
	return cmp.Or(cmp.Compare(id.ms, o.ms), cmp.Compare(id.seq, o.seq))
}

// next is the id that follows; ok is false after the last one of all. ("(" in
// XRANGE needs 6.2.)
func (id streamID) next() (next streamID, ok bool) {
	switch {
	case id.seq < math.MaxUint64:
		return streamID{id.ms, id.seq + 1}, true
	case id.ms < math.MaxUint64:
		return streamID{id.ms + 1, 0}, true
	}
	return id, false
}

// stream is a stream's state beside its entries.
type stream struct {
	length     int64
	last       streamID
	first      streamID // of the oldest entry; zero when there is none
	added      int64    // -1: the server does not say (before 7.0)
	maxDeleted string   // "": the server does not say
	groups     []group
}

// group is a consumer group without its consumers.
type group struct {
	name    string
	last    string
	read    int64 // entries-read; readNil: unknown to the group; readAbsent: the server does not say
	pending int64
}

const (
	readNil    = -1
	readAbsent = -2
)

// readStream reads a stream's state and its groups as one step.
func readStream(ctx context.Context, c *redis.Client, key string) (stream, error) {
	p := c.TxPipeline()
	about := p.Do(ctx, "XINFO", "STREAM", key)
	list := p.Do(ctx, "XINFO", "GROUPS", key)
	if err := must(ctx, p); err != nil {
		return stream{}, err
	}
	m := fields(about.Val())
	last, err := parseID(text(m["last-generated-id"]))
	if err != nil {
		return stream{}, err
	}
	s := stream{last: last, added: -1, maxDeleted: text(m["max-deleted-entry-id"])}
	s.length, _ = m["length"].(int64)
	if oldest, ok := m["first-entry"].([]any); ok && len(oldest) == 2 {
		if s.first, err = parseID(text(oldest[0])); err != nil {
			return stream{}, err
		}
	}
	if n, ok := m["entries-added"].(int64); ok {
		s.added = n
	}
	groups, _ := list.Val().([]any)
	for _, g := range groups {
		m := fields(g)
		one := group{name: text(m["name"]), last: text(m["last-delivered-id"]), read: readAbsent}
		one.pending, _ = m["pending"].(int64)
		if v, ok := m["entries-read"]; ok {
			if one.read, ok = v.(int64); !ok {
				one.read = readNil
			}
		}
		s.groups = append(s.groups, one)
	}
	return s, nil
}

// fields makes a map of an answer of names and values, RESP2 or RESP3.
func fields(v any) map[string]any {
	out := make(map[string]any)
	switch v := v.(type) {
	case []any:
		for i := 0; i+1 < len(v); i += 2 {
			out[text(v[i])] = v[i+1]
		}
	case map[any]any:
		for k, e := range v {
			out[text(k)] = e
		}
	}
	return out
}

// entry is one entry; its fields are kept in order, as a name may come twice.
type entry struct {
	id     streamID
	fields []string
}

// entries returns up to n entries from one id to another, both included.
func entries(ctx context.Context, c *redis.Client, key string, from, to streamID, n int) ([]entry, error) {
	reply, err := c.Do(ctx, "XRANGE", key, from.String(), to.String(), "COUNT", n).Result()
	if err != nil {
		return nil, err
	}
	return parseEntries(reply)
}

// parseEntries understands the answer to XRANGE.
func parseEntries(v any) ([]entry, error) {
	reply, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("unexpected answer to XRANGE: %T", v)
	}
	out := make([]entry, 0, len(reply))
	for _, r := range reply {
		pair, ok := r.([]any)
		if !ok || len(pair) != 2 {
			return nil, fmt.Errorf("unexpected answer to XRANGE: %T", r)
		}
		id, err := parseID(text(pair[0]))
		if err != nil {
			return nil, err
		}
		f, err := texts(pair[1])
		if err != nil {
			return nil, err
		}
		out = append(out, entry{id, f})
	}
	return out, nil
}

// eachEntries reads the entries up to last in chunks.
func eachEntries(ctx context.Context, c *redis.Client, key string, last streamID, chunk func([]entry) error) error {
	var p pace
	return entriesFrom(ctx, c, key, streamID{}, last, &p, chunk)
}

func entriesFrom(ctx context.Context, c *redis.Client, key string, from, last streamID, p *pace, chunk func([]entry) error) error {
	for {
		n := p.next(chunkMost)
		es, err := entries(ctx, c, key, from, last, n)
		if err != nil {
			return err
		}
		if len(es) > 0 {
			var bytes int64
			for _, e := range es {
				bytes += sum(e.fields)
			}
			p.saw(len(es), bytes, chunkBytes, chunkMost)
			if err := chunk(es); err != nil {
				return err
			}
		}
		if len(es) < n {
			return nil
		}
		var ok bool
		if from, ok = es[len(es)-1].id.next(); !ok {
			return nil
		}
	}
}

// consumers returns the names of a group's consumers.
func consumers(ctx context.Context, c *redis.Client, key, group string) ([]string, error) {
	reply, err := c.Do(ctx, "XINFO", "CONSUMERS", key, group).Slice()
	if err != nil {
		return nil, err
	}
	names := make([]string, len(reply))
	for i, r := range reply {
		names[i] = text(fields(r)["name"])
	}
	return names, nil
}

// pending is one entry that was delivered and not acknowledged.
type pending struct {
	id        streamID
	consumer  string
	delivered int64 // milliseconds since 1970, right to within two
	count     int64
}

// eachPending reads a group's pending entries in chunks.
func eachPending(ctx context.Context, c *redis.Client, key, group string, chunk func([]pending) error) error {
	from := streamID{}
	for {
		ps, err := pendings(ctx, c, key, group, from, chunkMost)
		if err != nil {
			return err
		}
		if len(ps) > 0 {
			if err := chunk(ps); err != nil {
				return err
			}
		}
		if len(ps) < chunkMost {
			return nil
		}
		var ok bool
		if from, ok = ps[len(ps)-1].id.next(); !ok {
			return nil
		}
	}
}

// pendings asks for TIME in the same step, as XPENDING tells idle times only.
// (XINFO STREAM FULL tells the exact moment, but cannot be read in chunks.)
func pendings(ctx context.Context, c *redis.Client, key, group string, from streamID, n int) ([]pending, error) {
	p := c.TxPipeline()
	clock := p.Do(ctx, "TIME")
	list := p.Do(ctx, "XPENDING", key, group, from.String(), "+", n)
	if err := must(ctx, p); err != nil {
		return nil, err
	}
	now, err := millis(clock.Val())
	if err != nil {
		return nil, err
	}
	reply, _ := list.Val().([]any)
	out := make([]pending, len(reply))
	for i, r := range reply {
		four, ok := r.([]any)
		if !ok || len(four) != 4 {
			return nil, fmt.Errorf("unexpected answer to XPENDING: %T", r)
		}
		id, err := parseID(text(four[0]))
		if err != nil {
			return nil, err
		}
		idle, _ := four[2].(int64)
		count, _ := four[3].(int64)
		out[i] = pending{id: id, consumer: text(four[1]), delivered: now - idle, count: count}
	}
	return out, nil
}
