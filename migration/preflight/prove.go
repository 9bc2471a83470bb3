package preflight

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// proveTimeout bounds the wait for the PONG behind the events. A server that does
// not answer in time is slow: that says nothing about its notifications.
const proveTimeout = 3 * time.Second

// proof is which classes of events came back, by key (K) and by event (E).
type proof struct {
	tried      string
	keys, kind map[rune]bool
	took       time.Duration
}

// lacking returns the classes that came back neither way, "" when all did. The
// copier listens to both, so either will do.
func (p proof) lacking() string {
	return strings.Map(func(c rune) rune {
		if p.keys[c] || p.kind[c] {
			return -1
		}
		return c
	}, p.tried)
}

func (p proof) silent() bool { return len(p.keys)+len(p.kind) == 0 }

// trial is a change of one class, made so that its event is a rare one: on a busy
// server a subscription to every SET would be a flood.
type trial struct {
	class rune
	event string
	make  [][]any // the key is put in as the second argument
}

func trials() []trial {
	return []trial{
		{'$', "setrange", [][]any{{"SETRANGE", 0, "probe"}}},
		{'l', "linsert", [][]any{{"RPUSH", "a"}, {"LINSERT", "BEFORE", "a", "b"}}},
		{'s', "sunionstore", [][]any{{"SADD", "a"}, {"SUNIONSTORE"}}},
		{'h', "hincrbyfloat", [][]any{{"HINCRBYFLOAT", "a", "1.5"}}},
		{'z', "zremrangebyrank", [][]any{{"ZADD", 1, "a", 2, "b"}, {"ZREMRANGEBYRANK", 0, 0}}},
		{'t', "xsetid", [][]any{{"XADD", "1-1", "a", "b"}, {"XSETID", "2-1"}}},
		{'g', "persist", [][]any{{"SET", "probe", "EX", 60}, {"PERSIST"}}},
		{'x', "expired", [][]any{{"SET", "probe", "PX", 1}}},
	}
}

// prove changes temporary keys and looks which events come back. The end is
// exact, not a guess by time: the PING on the subscription is answered behind
// every event that was caused before.
func prove(ctx context.Context, c *redis.Client, db int) (proof, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	base := probeKey()
	list := trials()
	byKey, byKind := make(map[string]trial), make(map[string]trial)
	keys, channels := make([]string, len(list)), make([]string, 0, 2*len(list))
	for i, t := range list {
		keys[i] = fmt.Sprintf("%s:%d", base, i)
		onKey, onKind := fmt.Sprintf("__keyspace@%d__:%s", db, keys[i]), fmt.Sprintf("__keyevent@%d__:%s", db, t.event)
		byKey[onKey], byKind[onKind] = t, t
		channels = append(channels, onKey, onKind)
	}
	defer clean(ctx, c, keys...)
	feed := c.Subscribe(ctx, channels...)
	defer func() { _ = feed.Close() }()
	for range channels {
		if _, err := feed.ReceiveTimeout(ctx, proveTimeout); err != nil {
			return proof{}, fmt.Errorf("subscribing: %w", err)
		}
	}
	p := proof{keys: make(map[rune]bool), kind: make(map[rune]bool)}
	start := time.Now()
	tried, err := change(ctx, c, list, keys)
	if err != nil {
		return proof{}, err
	}
	p.tried = tried
	if err := feed.Ping(ctx, base); err != nil {
		return proof{}, fmt.Errorf("sending PING to the subscription: %w", err)
	}
	for {
		left := proveTimeout - time.Since(start)
		if left <= 0 {
			return proof{}, fmt.Errorf("no answer to PING behind the events within %v", proveTimeout)
		}
		reply, err := feed.ReceiveTimeout(ctx, left)
		if err != nil {
			return proof{}, fmt.Errorf("reading events: %w", err)
		}
		switch m := reply.(type) {
		case *redis.Message:
			if t, is := byKey[m.Channel]; is && m.Payload == t.event {
				p.keys[t.class] = true
			} else if t, is := byKind[m.Channel]; is && strings.HasPrefix(m.Payload, base) {
				p.kind[t.class] = true
			}
		case *redis.Pong:
			p.took = time.Since(start)
			return p, nil
		}
	}
}

// change makes the changes and returns the classes that were really changed: a
// command that is not permitted proves nothing.
func change(ctx context.Context, c *redis.Client, list []trial, keys []string) (string, error) {
	ctx, cancel := shielded(ctx)
	defer cancel()
	made := make([][]*redis.Cmd, len(list))
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, t := range list {
			for _, args := range t.make {
				args = keyed(args, keys[i])
				if args[0] == "SUNIONSTORE" {
					args = append(args, keys[i])
				}
				made[i] = append(made[i], p.Do(ctx, args...))
			}
			if t.class != 'x' {
				p.Expire(ctx, keys[i], probeTTL)
			}
		}
		return nil
	})
	var tried strings.Builder
	var first error
	for i, t := range list {
		ok := true
		for _, cmd := range made[i] {
			if cmd.Err() != nil {
				ok = false
				first = cmp.Or(first, cmd.Err())
			}
		}
		if ok {
			tried.WriteRune(t.class)
		}
	}
	if tried.Len() == 0 {
		return "", fmt.Errorf("changing temporary keys: %w", cmp.Or(first, err))
	}
	return tried.String(), expire(ctx, c, keys[len(keys)-1])
}

// expire waits until the key with a life of one millisecond has expired: asking
// for it makes a master notice.
func expire(ctx context.Context, c *redis.Client, key string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		n, err := c.Exists(ctx, key).Result()
		if err != nil || n == 0 {
			return err
		}
	}
}
