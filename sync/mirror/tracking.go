package mirror

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// Where notifications cannot be had, CLIENT TRACKING … BCAST tells of changes. It
// needs no setting of the server. It says nothing of the database, so a key is
// dirty in each mapped one; and it sends what a command has caused after the
// replies of that turn of the server's loop, so a PING may be answered ahead of
// it: only one that is sent after the answer to another is a barrier (tracking.c,
// networking.c). NOLOOP is never given: copies of ours onto From must be seen.
// It reports less than notifications do: see foreign.go. That a database was emptied it says, but not which.

// The feeds.
const (
	FeedAuto          = "auto" // notifications, and tracking where they cannot be had
	FeedNotifications = "notifications"
	FeedTracking      = "tracking"
)

// greetTracking makes the connection of a feed speak RESP3 and be told of changes.
func (f *feed) greetTracking(pool *conn.Pool) error {
	e := pool.Endpoint()
	hello := []string{"HELLO", "3"}
	if e.Password != "" {
		user := e.Username
		if user == "" {
			user = "default"
		}
		hello = append(hello, "AUTH", user, e.Password)
	}
	if err := f.call(hello...); err != nil {
		return err
	}
	if err := f.greetNames(pool); err != nil {
		return err
	}
	return f.call("CLIENT", "TRACKING", "ON", "BCAST")
}

// anyDatabase stands for each mapped database.
const anyDatabase = -1

// readValue reads one RESP3 value. With pending, what tells of changes goes there,
// and answers to PING go to their waiter.
func (f *feed) readValue(pending *pendingKeys) error {
	line, err := f.line()
	if err != nil {
		return err
	}
	kind, rest := line[0], string(line[1:])
	switch kind {
	case '+', ':', '_', '#', ',', '(':
		return nil
	case '-':
		return serverError(rest)
	case '$':
		text, err := f.rest(rest)
		if err == nil && pending != nil {
			pending.flush(f.sink) // what came before the barrier is delivered before it
			f.pong(text)
		}
		return err
	case '=', '!':
		_, err := f.rest(rest)
		return err
	case '>':
		return f.readPush(rest, pending)
	}
	n, err := strconv.Atoi(rest)
	switch {
	case err != nil, n > 1<<20:
		return fmt.Errorf("the server sent a value of %q parts", rest)
	case kind == '%', kind == '|':
		n *= 2
	case kind != '*' && kind != '~':
		return fmt.Errorf("the server sent %q where a value begins", line)
	}
	for range n {
		if err := f.readValue(nil); err != nil && !errors.As(err, new(serverError)) {
			return err
		}
	}
	return nil
}

// readPush reads what is said unasked: "invalidate" with an array of keys, or with
// nil for all.
func (f *feed) readPush(parts string, pending *pendingKeys) error {
	n, err := strconv.Atoi(parts)
	if err != nil || n < 1 || n > 16 {
		return fmt.Errorf("the server sent a message of %q parts", parts)
	}
	kind, err := f.bulk()
	if err != nil {
		return err
	}
	if string(kind) != "invalidate" || n != 2 {
		for range n - 1 {
			if err := f.readValue(nil); err != nil {
				return err
			}
		}
		return nil
	}
	line, err := f.line()
	if err != nil {
		return err
	}
	if line[0] == '_' || string(line) == "*-1" {
		if f.all != nil {
			f.all()
		}
		return nil
	}
	keys, err := strconv.Atoi(string(line[1:]))
	if line[0] != '*' || err != nil {
		return fmt.Errorf("the server sent %q where keys begin", line)
	}
	for range keys {
		key, err := f.bulk()
		if err != nil {
			return err
		}
		if pending == nil {
			continue
		}
		if pending.add(anyDatabase, string(key), value.Remade); pending.n >= 1024 {
			pending.flush(f.sink)
		}
	}
	return nil
}

// track has the mirror use tracking from the next subscription on.
func (m *Mirror) track(why error) {
	if m.untold() {
		for _, l := range m.lanes {
			l.distrust() // until the other feed is there
		}
	}
	m.mu.Lock()
	was := m.tracking
	m.tracking = true
	m.silent, m.deaf = false, ""
	m.mu.Unlock()
	if !was {
		m.log.Warn("keyspace notifications cannot be had, following CLIENT TRACKING instead", "from", m.cfg.From.String(), "because", why)
	}
}

func (m *Mirror) isTracking() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tracking
}

// flushedSomewhere takes the news that databases were emptied, of which only the
// number is not told.
func (m *Mirror) flushedSomewhere() {
	// One that is made a replica is emptied too, and what it has next is another server's.
	if m.checkSource(m.ctx) != nil {
		return
	}
	for _, l := range m.lanes {
		l.requestScan()
	}
	m.log.Info("a database was emptied, scanning again", "from", m.cfg.From.String())
}
