package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// The control keys of the default store, in database 0 of the target.
const (
	WordKey    = "crossfade:fleet:word"
	MembersKey = "crossfade:fleet:members"
	AnswersKey = "crossfade:fleet:answers"

	channel = "crossfade:fleet" // on which listeners are woken
)

// Keys are all keys of the default store.
func Keys() []string { return []string{WordKey, MembersKey, AnswersKey} }

// Target is the default store: control keys on the target. Nothing has to be installed.
type Target struct {
	// Client returns the connections to database 0, as whoever we are at that moment.
	Client func() *redis.Client
}

var _ Store = Target{}

// Say implements Store.
func (t Target) Say(ctx context.Context, w Word) error {
	text, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("writing %s: %w", WordKey, err)
	}
	for {
		err = t.Client().Watch(ctx, func(tx *redis.Tx) error {
			there, err := t.heard(ctx, tx)
			if err != nil {
				return err
			}
			if replaces, err := w.Replaces(there); !replaces {
				return err
			}
			_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Set(ctx, WordKey, text, 0)
				p.Publish(ctx, channel, w.ID())
				return nil
			})
			return err
		}, WordKey)
		if !errors.Is(err, redis.TxFailedErr) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", WordKey, err)
	}
	return nil
}

// Heard implements Store.
func (t Target) Heard(ctx context.Context) (Word, error) { return t.heard(ctx, t.Client()) }

func (t Target) heard(ctx context.Context, c redis.Cmdable) (w Word, err error) {
	text, err := c.Get(ctx, WordKey).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return Word{}, nil
	case err == nil:
		err = json.Unmarshal(text, &w)
	}
	if err != nil {
		return Word{}, fmt.Errorf("reading %s: %w", WordKey, err)
	}
	return w, nil
}

// Listen implements Store.
func (t Target) Listen(ctx context.Context, woken func()) error {
	sub := t.Client().Subscribe(ctx, channel)
	defer func() { _ = sub.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() }) // Receive does not heed ctx
	defer stop()
	for {
		_, err := sub.Receive(ctx) // the confirmation, too
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("listening to %s: %w", channel, err)
		}
		woken()
	}
}

// Beat implements Store.
func (t Target) Beat(ctx context.Context, m Member) error {
	text, err := json.Marshal(m)
	if err == nil {
		err = t.Client().HSet(ctx, MembersKey, m.ID, text).Err()
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", MembersKey, err)
	}
	return nil
}

// Members implements Store.
func (t Target) Members(ctx context.Context) ([]Member, error) {
	all, err := t.Client().HGetAll(ctx, MembersKey).Result()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", MembersKey, err)
	}
	list := make([]Member, 0, len(all))
	for id, text := range all {
		list = append(list, ReadMember(id, []byte(text)))
	}
	SortMembers(list)
	return list, nil
}

// Leave implements Store.
func (t Target) Leave(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := t.Client().TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.HDel(ctx, MembersKey, ids...)
		p.HDel(ctx, AnswersKey, ids...)
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing from %s: %w", MembersKey, err)
	}
	return nil
}

// Answer implements Store.
func (t Target) Answer(ctx context.Context, id string, a Answer) error {
	text, err := json.Marshal(a)
	if err == nil {
		err = t.Client().HSet(ctx, AnswersKey, id, text).Err()
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", AnswersKey, err)
	}
	return nil
}

// Answers implements Store.
func (t Target) Answers(ctx context.Context, ids []string) (map[string]Answer, error) {
	out := make(map[string]Answer, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	list, err := t.Client().HMGet(ctx, AnswersKey, ids...).Result()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", AnswersKey, err)
	}
	for i, value := range list {
		text, there := value.(string)
		var a Answer
		if there && json.Unmarshal([]byte(text), &a) == nil {
			out[ids[i]] = a
		}
	}
	return out, nil
}

// Clear implements Store.
func (t Target) Clear(ctx context.Context) error {
	if err := t.Client().Del(ctx, Keys()...).Err(); err != nil {
		return fmt.Errorf("removing the fleet's keys: %w", err)
	}
	return nil
}

// Close implements Store. The connections are somebody else's.
func (t Target) Close() error { return nil }
