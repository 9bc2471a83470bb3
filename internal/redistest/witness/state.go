package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// contents are a life's keys in one database: a counter, a list of the numbers
// from 1 on, a small value and a large one, which hold the number of their last
// SET, 0 when there was none.
type contents struct{ counter, list, value, big int }

// state is what a life has in all databases, by their places.
type state [4]contents

// effect changes one number of one database.
type effect struct {
	at   int // place of the database
	what byte
	n    int
}

// What an effect does.
const (
	increments byte = iota
	pushes
	sets
	setsBig
	clears
)

func (s *state) apply(effects []effect) {
	for _, e := range effects {
		c := &s[e.at]
		switch e.what {
		case increments:
			c.counter++
		case pushes:
			c.list++
		case sets:
			c.value = e.n
		case setsBig:
			c.big = e.n
		case clears:
			*c = contents{}
		}
	}
}

// possible returns every state in which the outstanding commands may have left
// the server: it has run some of them, from the oldest on.
func (l *life) possible() map[state]bool {
	all := map[state]bool{l.known: true}
	front := []state{l.known}
	for _, o := range l.pending {
		if len(o.effects) == 0 {
			continue
		}
		var next []state
		for _, s := range front {
			if o.maybe {
				next = append(next, s)
			}
			s.apply(o.effects)
			next = append(next, s)
			all[s] = true
		}
		front = next
	}
	return all
}

func (l *life) key(what string) string { return l.crowd.cfg.Prefix + ":" + l.name + ":" + what }

// text is what the n-th SET of a life writes.
func (l *life) text(n int) string { return l.name + "/" + strconv.Itoa(n) }

// pattern is what the n-th SET of a large value writes.
func (l *life) pattern(n, size int) []byte {
	unit := []byte("<" + l.text(n) + ">")
	return bytes.Repeat(unit, size/len(unit)+1)[:size]
}

// verify reads what is there and removes it when it is right.
func (l *life) verify(ctx context.Context, client func(db int) *redis.Client) error {
	var found state
	for db, at := range l.crowd.dbAt {
		c, err := l.stored(ctx, client(db))
		if err != nil {
			return fmt.Errorf("database %d: %w", db, err)
		}
		found[at] = c
	}
	if !l.possible()[found] {
		return fmt.Errorf("found %v; known is %v and %d commands were outstanding", found, l.known, len(l.pending))
	}
	for db := range l.crowd.dbAt {
		client(db).Unlink(ctx, l.key("counter"), l.key("list"), l.key("value"), l.key("big"), l.key("queue"), l.key("hash"), l.key("pair"))
	}
	return nil
}

// stored reads what there is in one database.
func (l *life) stored(ctx context.Context, c *redis.Client) (contents, error) {
	var got contents
	var err error
	if got.counter, err = c.Get(ctx, l.key("counter")).Int(); err != nil && !errors.Is(err, redis.Nil) {
		return got, err
	}
	list, err := c.LRange(ctx, l.key("list"), 0, -1).Result()
	if err != nil {
		return got, err
	}
	for i, text := range list {
		if text != strconv.Itoa(i+1) {
			return got, fmt.Errorf("place %d of the list holds %s", i+1, text)
		}
	}
	got.list = len(list)
	value, err := c.Get(ctx, l.key("value")).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return got, err
	}
	if err == nil {
		if _, err := fmt.Sscanf(value, l.name+"/%d", &got.value); err != nil || value != l.text(got.value) {
			return got, fmt.Errorf("the value is %q", value)
		}
	}
	big, err := c.Get(ctx, l.key("big")).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return got, err
	}
	if err == nil {
		if _, err := fmt.Sscanf(string(big[:min(len(big), 64)]), "<"+l.name+"/%d>", &got.big); err != nil || !bytes.Equal(big, l.pattern(got.big, len(big))) {
			return got, fmt.Errorf("the large value begins with %.60q", big)
		}
	}
	return got, nil
}
