package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The heartbeat proves that some event comes, not that all do: a server whose
// setting we may not read can leave out those of a type. So now and then a key of
// ours becomes each type in turn, and its events must come. (Evictions cannot be
// proved so; a server that shows its setting is asked instead.)

// classBeats is every how many heartbeats the classes are proved.
const classBeats = 10

// proof is one command on the key, the event that it must cause, and the event's
// class as the server's setting names it.
type proof struct {
	class, event string
	args         []any
}

func proofs(key string) []proof {
	del := proof{"g", "del", []any{"DEL", key}}
	return []proof{
		{"$", "set", []any{"SET", key, 1}}, del,
		{"l", "lpush", []any{"LPUSH", key, 1}}, del,
		{"s", "sadd", []any{"SADD", key, 1}}, del,
		{"z", "zadd", []any{"ZADD", key, 1, 1}}, del,
		{"h", "hset", []any{"HSET", key, 1, 1}}, del,
		{"t", "xadd", []any{"XADD", key, "*", 1, 1}}, del,
	}
}

type classes struct {
	mu      sync.Mutex
	seen    map[string]bool // events since the last proof began
	expired bool            // … and that of the key that expires
	expires time.Time       // when that was written; zero when it was not
	by      *feed           // which was there then: another one may have come too late for the event
}

// ProbeSuffix ends the names of the keys with which the classes are proved, one
// for what is done with it and one that expires.
const (
	ProbeSuffix        = ":probe"
	ProbeExpiresSuffix = ":probe:expires"
)

// told takes an event of a key of ours.
func (c *classes) told(key string, event []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case strings.HasSuffix(key, ProbeSuffix):
		if c.seen != nil {
			c.seen[string(event)] = true
		}
	case strings.HasSuffix(key, ProbeExpiresSuffix) && string(event) == "expired":
		c.expired = true
	}
}

// mute reports whether a key must have expired and no event has told of it.
func (c *classes) mute() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.expires.IsZero() && !c.expired && time.Since(c.expires) > 100*time.Millisecond
}

// proveClasses notes a gap when events of a class do not come, and has everything
// scanned when they come again.
func (m *Mirror) proveClasses(ctx context.Context) error {
	lacking, err := m.lackingClasses(ctx)
	if errors.Is(err, errFeedReplaced) {
		return nil // it was a gap, and is repaired as one
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	was := m.deaf
	m.mu.Unlock()
	if lacking == "" && was != "" {
		for _, l := range m.lanes { // first: who finds that all is told waits for them
			l.requestScan()
		}
		m.log.Info("notifications of all classes arrive again, scanning what was missed", "from", m.cfg.From.String())
	}
	m.mu.Lock()
	m.deaf = lacking
	m.mu.Unlock()
	m.tell()
	instead := lacking != "" && m.cfg.Feed == FeedAuto
	if instead && errors.As(m.cfg.CheckNotifications(ctx), new(*NotificationsOff)) {
		instead = false // the server shows its setting: that is put right first, see checkFeed
	}
	switch {
	case instead:
		why := fmt.Errorf("those of class %s do not arrive", lacking)
		m.track(why)
		m.dropFeed("keyspace notifications: " + why.Error()) // a gap, which a scan repairs once the other feed is there
	case lacking != "" && was == "":
		m.noteGap(fmt.Sprintf("keyspace notifications of class %s do not arrive from %s; see notify-keyspace-events there", lacking, m.cfg.From))
	}
	return nil
}

// errFeedReplaced means that events of a proof may have come on a connection that was lost
// before they were read: nothing is proved by what is missing.
var errFeedReplaced = errors.New("the notification connection was replaced during the proof")

func (m *Mirror) currentFeed() *feed {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.feed
}

// lackingClasses returns the classes of which no event comes, "" when all are there.
func (m *Mirror) lackingClasses(ctx context.Context) (string, error) {
	c, db, c2 := &m.classes, m.counted().pool.DB(m.home[0]), m.heartbeatKey()
	list, by := proofs(c2+ProbeSuffix), m.currentFeed()
	if err := db.Exists(ctx, c2+ProbeExpiresSuffix).Err(); err != nil { // removes it, if it is still there
		return "", fmt.Errorf("proving the notifications of %s by class: %w", m.cfg.From, err)
	}
	c.mu.Lock()
	c.seen = make(map[string]bool)
	if c.by != by {
		c.expires = time.Time{}
	}
	c.mu.Unlock()
	pipe := db.Pipeline()
	cmds := make([]*redis.Cmd, len(list))
	for i, p := range list {
		cmds[i] = pipe.Do(ctx, p.args...)
	}
	_, err := pipe.Exec(ctx)
	full := slices.ContainsFunc(cmds, func(c *redis.Cmd) bool { return redis.IsOOMError(c.Err()) })
	if err != nil && (full || cmds[len(cmds)-1].Err() != nil) { // some are refused by old servers
		return "", fmt.Errorf("proving the notifications of %s by class: %w", m.cfg.From, err)
	}
	if err := m.barrier(ctx); err != nil {
		return "", err
	}
	if c.mute() {
		// While writers are paused nothing expires, whoever looks. Our writes have come
		// through behind such a pause, so that now it does.
		if err := db.Exists(ctx, c2+ProbeExpiresSuffix).Err(); err != nil {
			return "", fmt.Errorf("proving the notifications of %s by class: %w", m.cfg.From, err)
		}
		if err := m.barrier(ctx); err != nil {
			return "", err
		}
	}
	if by == nil || m.currentFeed() != by {
		return "", errFeedReplaced
	}
	var lacking []string
	mute := c.mute()
	c.mu.Lock()
	for i, p := range list {
		if cmds[i].Err() == nil && !c.seen[p.event] && !slices.Contains(lacking, p.class) {
			lacking = append(lacking, p.class)
		}
	}
	if mute {
		lacking = append(lacking, "x")
	}
	c.seen, c.expired, c.expires = nil, false, time.Time{}
	c.mu.Unlock()
	if err := db.Set(ctx, c2+ProbeExpiresSuffix, 1, time.Millisecond).Err(); err == nil {
		c.mu.Lock()
		c.expires, c.by = time.Now(), by
		c.mu.Unlock()
	}
	return strings.Join(lacking, ""), nil
}
