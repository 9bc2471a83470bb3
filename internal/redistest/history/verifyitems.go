package history

import (
	"context"
	"errors"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// absent tells a missing key from an error.
func absent(err error) (present bool, _ error) {
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return err == nil, err
}

// number reads a counter; a missing one is 0.
func number(cmd *redis.StringCmd) (int64, error) {
	text, err := cmd.Result()
	if present, err := absent(err); !present {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// entry is an element as it was found: its id, and where.
type entry struct {
	text string
	at   uint32 // as place.code has it; 0 for unknown
}

// keysOf returns the records of all keys of a kind.
func (v *verifier) keysOf(kinds ...Kind) []*items {
	var all []*items
	for _, kind := range kinds {
		for _, row := range v.s.series[kind] {
			all = append(all, row.gens...)
		}
	}
	return all
}

// bigChunk is chunk for keys with thousands of elements.
const bigChunk = 8

// lists checks RPUSH and EVAL.
func (v *verifier) lists(ctx context.Context) error {
	if err := v.rows(ctx, v.keysOf(RPush), nil); err != nil {
		return err
	}
	scripts := v.keysOf(Script)
	lengths := make(map[*items]int)
	if err := v.rows(ctx, scripts, lengths); err != nil {
		return err
	}
	got := make([]*redis.StringCmd, len(scripts))
	queue := func(p redis.Pipeliner, i int) { got[i] = p.Get(ctx, scriptCounter(scripts[i].name)) }
	return v.pipelined(ctx, len(scripts), chunk, queue, func(i int) error {
		it := scripts[i]
		value, err := number(got[i])
		if err != nil {
			return v.odd(scriptCounter(it.name), err)
		}
		it.counter.key = scriptCounter(it.name)
		v.counter(&it.counter, value)
		switch n := int64(lengths[it]); {
		case value < n:
			v.add(Lost, it.counter.key, "is %d where the script's list has %d elements", value, n)
		case value > n:
			v.add(Lost, it.name, "has %d elements where the script's counter is %d", n, value)
		}
		return nil
	})
}

// rows reads lists and checks them; lengths, if given, gets their lengths.
func (v *verifier) rows(ctx context.Context, keys []*items, lengths map[*items]int) error {
	got := make([]*redis.StringSliceCmd, len(keys))
	queue := func(p redis.Pipeliner, i int) { got[i] = p.LRange(ctx, keys[i].name, 0, -1) }
	return v.pipelined(ctx, len(keys), bigChunk, queue, func(i int) error {
		texts, err := got[i].Result()
		got[i] = nil
		if err != nil {
			return v.odd(keys[i].name, err)
		}
		if lengths != nil {
			lengths[keys[i]] = len(texts)
		}
		v.elements(keys[i], fromList(texts), true)
		return nil
	})
}

func fromList(texts []string) []entry {
	list := make([]entry, len(texts))
	for i, t := range texts {
		list[i] = entry{t, uint32(i + 1)}
	}
	return list
}

// sets checks ZADD: members and scores.
func (v *verifier) sets(ctx context.Context) error {
	keys := v.keysOf(ZAdd)
	got := make([]*redis.ZSliceCmd, len(keys))
	queue := func(p redis.Pipeliner, i int) { got[i] = p.ZRangeWithScores(ctx, keys[i].name, 0, -1) }
	return v.pipelined(ctx, len(keys), bigChunk, queue, func(i int) error {
		members, err := got[i].Result()
		got[i] = nil
		if err != nil {
			return v.odd(keys[i].name, err)
		}
		list := make([]entry, len(members))
		for j, m := range members {
			text, _ := m.Member.(string)
			list[j].text = text
			if got, ok := parseID(text); ok && float64(got.n) != m.Score {
				v.add(Stale, keys[i].name, "member %s has score %v", text, m.Score)
			}
		}
		v.elements(keys[i], list, false)
		return nil
	})
}

// streams checks XADD.
func (v *verifier) streams(ctx context.Context) error {
	keys := v.keysOf(XAdd)
	got := make([]*redis.XMessageSliceCmd, len(keys))
	queue := func(p redis.Pipeliner, i int) { got[i] = p.XRange(ctx, keys[i].name, "-", "+") }
	return v.pipelined(ctx, len(keys), bigChunk, queue, func(i int) error {
		messages, err := got[i].Result()
		got[i] = nil
		if err != nil {
			return v.odd(keys[i].name, err)
		}
		list := make([]entry, len(messages))
		var last place
		for j, m := range messages {
			text, _ := m.Values["id"].(string)
			at := parseEntry(m.ID)
			if !at.after(last) {
				v.add(Reordered, keys[i].name, "entry %s does not come after the one before", m.ID)
			}
			list[j], last = entry{text, at.code()}, at
		}
		v.elements(keys[i], list, true)
		return nil
	})
}

// elements compares what a key holds with its record: every acknowledged id
// once, every unknown one at most once, no refused one; and in order.
func (v *verifier) elements(it *items, list []entry, ordered bool) {
	v.report.Items += len(list)
	whole := true // the elements are those that should be there
	wrong := func(kind ViolationKind, format string, args ...any) {
		whole = false
		v.add(kind, it.name, format, args...)
	}
	times := make([][]uint8, len(it.outcomes))
	for w := range times {
		times[w] = make([]uint8, len(it.outcomes[w]))
	}
	latest := make([]int, len(it.outcomes)) // each writer's highest acknowledged number so far, plus one
	for _, e := range list {
		got, ok := parseID(e.text)
		if !ok || got.db != v.s.db || got.writer >= len(times) || got.n >= len(times[got.writer]) {
			wrong(Doubled, "holds %.40q, which nobody put there", e.text)
			continue
		}
		if times[got.writer][got.n] < 255 {
			times[got.writer][got.n]++
		}
		if it.outcomes[got.writer][got.n] != acked || times[got.writer][got.n] > 1 {
			continue
		}
		if ordered && got.n+1 < latest[got.writer] {
			v.add(Reordered, it.name, "id %v stands behind %d of the same writer", got, latest[got.writer]-1)
		}
		latest[got.writer] = max(latest[got.writer], got.n+1)
	}
	for w, row := range it.outcomes {
		for n, o := range row {
			this, count := id{v.s.db, w, n}, times[w][n]
			switch {
			case o == acked && count == 0:
				wrong(Lost, "acknowledged id %v is not there", this)
			case o == refused && count > 0:
				wrong(RefusedButApplied, "refused id %v is there", this)
			case count > 1:
				wrong(Doubled, "id %v is there %d times", this, count)
			}
		}
	}
	if whole && ordered {
		v.places(it, list)
	}
}

// places compares where each acknowledged element stands with what its reply
// said, which also finds changes of order between writers. It makes sense only
// where nothing is missing or too much: everything behind would have moved.
func (v *verifier) places(it *items, list []entry) {
	for _, e := range list {
		got, _ := parseID(e.text)
		if said := it.places[got.writer][got.n]; said != 0 && said != e.at {
			v.add(Reordered, it.name, "id %v stands elsewhere than its reply said", got)
		}
	}
}

// transfers checks MULTI: the journals as lists, and the accounts against
// what the journals say.
func (v *verifier) transfers(ctx context.Context) error {
	for _, row := range v.s.series[Transfer] {
		lists := make([]*redis.StringSliceCmd, len(row.gens))
		var moved int64
		queue := func(p redis.Pipeliner, i int) { lists[i] = p.LRange(ctx, row.gens[i].name, 0, -1) }
		err := v.pipelined(ctx, len(lists), bigChunk, queue, func(i int) error {
			texts, err := lists[i].Result()
			lists[i] = nil
			if err != nil {
				return v.odd(row.gens[i].name, err)
			}
			for _, t := range texts {
				if got, ok := parseID(t); ok {
					moved += got.amount(row.gens[i].gen)
				}
			}
			v.elements(row.gens[i], fromList(texts), true)
			return nil
		})
		if err != nil {
			return err
		}
		if err := v.accounts(ctx, row, moved); err != nil {
			return err
		}
	}
	return nil
}

// accounts checks that the sum of both is 0 and that they moved by what the
// journal's ids say.
func (v *verifier) accounts(ctx context.Context, row *series, moved int64) error {
	var balance [2]int64
	for i, which := range []string{"from", "to"} {
		key := row.account(which)
		value, err := number(v.client.Get(ctx, key))
		if err != nil {
			if err := v.odd(key, err); err != nil {
				return err
			}
		}
		balance[i] = value
		v.report.Keys++
	}
	if sum := balance[0] + balance[1]; sum != 0 {
		v.add(Lost, row.account("from"), "the accounts' sum is %d instead of 0", sum)
	}
	switch to := balance[1]; {
	case to < moved:
		v.add(Lost, row.account("to"), "is %d where the journal's transfers amount to %d", to, moved)
	case to > moved:
		v.add(Doubled, row.account("to"), "is %d where the journal's transfers amount to %d", to, moved)
	}
	return nil
}
