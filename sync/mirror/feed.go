package mirror

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// feed is one subscription to a server's changes. By keyspace notifications: Redis writes
// an event into the subscriber's output buffer inside the command that causes
// it, so a PING on this very connection is answered behind every event of every
// command that ran before it: an exact barrier (notify.c, pubsub.c). The reader
// never waits for whoever copies: it only hands keys to sink.
type feed struct {
	nc   net.Conn
	r    *bufio.Reader
	sink func(db int, events events)
	each func(db int, key string, event []byte) // of each event; nil: nobody asks
	all  func()                                 // tracking: every key may have changed

	tracking bool      // see tracking.go
	who      standing  // whom it comes from
	at       time.Time // when that was asked

	taken atomic.Int64 // messages read
	twins twins        // the reader's

	mu      sync.Mutex // guards writes to nc and waiters
	next    uint64
	waiters map[string]chan struct{}
	err     error
	done    chan struct{} // closed when the reader has ended
}

const (
	keyspacePattern = "__keyspace@*__:*"
	keyeventPattern = "__keyevent@*__:*"
	maxBulk         = 512 << 20
)

// open connects, subscribes and returns once the server has confirmed that. The
// caller has set what the keys go to, and must then run read.
func (f *feed) open(ctx context.Context, pool *conn.Pool, timeout time.Duration) (*feed, error) {
	e := pool.Endpoint()
	nc, err := endpoint.Dial(ctx, e, timeout)
	if err != nil {
		return nil, err
	}
	f.nc, f.r, f.waiters, f.done = nc, bufio.NewReaderSize(nc, 256<<10), make(map[string]chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = nc.SetDeadline(time.Now().Add(timeout))
	if f.tracking {
		if err := f.greetTracking(pool); err != nil {
			_ = nc.Close()
			return nil, fmt.Errorf("switching on CLIENT TRACKING at %s: %w", pool, err)
		}
	} else if err := f.greet(pool, []string{keyeventPattern, keyspacePattern}); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("subscribing to the keyspace notifications of %s: %w", pool, err)
	}
	if !stop() {
		_ = nc.Close()
		return nil, context.Cause(ctx)
	}
	_ = nc.SetDeadline(time.Time{})
	return f, nil
}

func (f *feed) greet(pool *conn.Pool, patterns []string) error {
	e := pool.Endpoint()
	if e.Password != "" {
		auth := []string{"AUTH", e.Password}
		if e.Username != "" {
			auth = []string{"AUTH", e.Username, e.Password}
		}
		if err := f.call(auth...); err != nil {
			return err
		}
	}
	if err := f.greetNames(pool); err != nil {
		return err
	}
	if err := f.send(append([]string{"PSUBSCRIBE"}, patterns...)...); err != nil {
		return err
	}
	for range patterns {
		if err := f.readReply(nil); err != nil {
			return err
		}
	}
	return nil
}

// greetNames says who we are and that we matter, where the server knows that, and asks who
// is there.
func (f *feed) greetNames(pool *conn.Pool) error {
	if err := f.call("CLIENT", "SETNAME", pool.Name()+":feed"); err != nil && !errors.As(err, new(serverError)) {
		return err
	}
	// Where it exists it keeps maxmemory-clients from cutting the feed off.
	if err := f.call("CLIENT", "NO-EVICT", "on"); err != nil && !errors.As(err, new(serverError)) {
		return err
	}
	return f.askWho()
}

// askWho asks who is there.
func (f *feed) askWho() error {
	f.at = time.Now()
	server, err := f.info("server")
	if err == nil {
		var replication string
		if replication, err = f.info("replication"); err != nil && forbids(err) {
			replication, err = "", nil // see answer
		}
		f.who = standingIn(server, replication)
	}
	if err != nil {
		return fmt.Errorf("asking who is there: %w", err)
	}
	return nil
}

// info asks for a section of INFO.
func (f *feed) info(section string) (string, error) {
	if err := f.send("INFO", section); err != nil {
		return "", err
	}
	line, err := f.line()
	if err != nil {
		return "", err
	}
	switch line[0] {
	case '$', '=': // RESP3 says what kind of text it is
		text, err := f.rest(string(line[1:]))
		return string(text), err
	case '-':
		return "", serverError(line[1:])
	}
	return "", fmt.Errorf("the server sent %q where a text begins", line[0])
}

// serverError is an error reply.
type serverError string

func (e serverError) Error() string { return string(e) }

func (f *feed) call(args ...string) error {
	if err := f.send(args...); err != nil {
		return err
	}
	return f.readOne(nil)
}

func (f *feed) readOne(pending *pendingKeys) error {
	if f.tracking {
		return f.readValue(pending)
	}
	return f.readReply(pending)
}

func (f *feed) send(args ...string) error {
	buf := make([]byte, 0, 128)
	buf = append(buf, '*')
	buf = strconv.AppendInt(buf, int64(len(args)), 10)
	buf = append(buf, '\r', '\n')
	for _, a := range args {
		buf = append(buf, '$')
		buf = strconv.AppendInt(buf, int64(len(a)), 10)
		buf = append(buf, '\r', '\n')
		buf = append(buf, a...)
		buf = append(buf, '\r', '\n')
	}
	_, err := f.nc.Write(buf)
	return err
}

// read delivers events until the connection ends, and returns why it ended.
// The last keys are delivered before it returns.
func (f *feed) read() error {
	var pending pendingKeys
	var err error
	for {
		if err = f.readOne(&pending); err != nil {
			break
		}
		f.taken.Add(1)
		if f.r.Buffered() == 0 || pending.n >= 1024 {
			pending.flush(f.sink)
		}
	}
	pending.flush(f.sink)
	_ = f.nc.Close()
	f.mu.Lock()
	f.err = err
	close(f.done)
	f.mu.Unlock()
	return err
}

// Barrier returns once every event of every command that the server ran before
// the call was delivered to sink.
func (f *feed) Barrier(ctx context.Context) error {
	if f.tracking { // its first answer may overtake what came before it
		if err := f.ping(ctx); err != nil {
			return err
		}
	}
	return f.ping(ctx)
}

func (f *feed) ping(ctx context.Context) error {
	f.mu.Lock()
	f.next++
	id := "crossfade:" + strconv.FormatUint(f.next, 10)
	ch := make(chan struct{})
	f.waiters[id] = ch
	_ = f.nc.SetWriteDeadline(time.Now().Add(5 * time.Second))
	err := f.send("PING", id)
	f.mu.Unlock()
	if err != nil {
		_ = f.nc.Close()
		return fmt.Errorf("sending a barrier on the notification connection: %w", err)
	}
	select {
	case <-ch:
		return nil
	case <-f.done:
		return fmt.Errorf("waiting for a barrier on the notification connection: %w", f.err)
	case <-ctx.Done():
		return fmt.Errorf("waiting for a barrier on the notification connection: %w", context.Cause(ctx))
	}
}

// Close ends the connection; read then returns.
func (f *feed) Close() { _ = f.nc.Close() }

// events are the keys of events, in order, and what each says happened.
type events struct {
	keys    []string
	changes []value.Changes
}

// pendingKeys collects events that arrived together.
type pendingKeys struct {
	byDB map[int]*events
	n    int
}

func (p *pendingKeys) add(db int, key string, change value.Changes) {
	if p.byDB == nil {
		p.byDB = make(map[int]*events)
	}
	e := p.byDB[db]
	if e == nil {
		e = new(events)
		p.byDB[db] = e
	}
	e.keys, e.changes = append(e.keys, key), append(e.changes, change)
	p.n++
}

func (p *pendingKeys) flush(sink func(int, events)) {
	if p.n == 0 {
		return
	}
	for db, e := range p.byDB {
		if len(e.keys) > 0 {
			sink(db, *e)
			e.keys, e.changes = e.keys[:0], e.changes[:0]
		}
	}
	p.n = 0
}

// readReply reads one RESP2 reply. Events go to pending, pongs to their waiter.
func (f *feed) readReply(pending *pendingKeys) error {
	line, err := f.line()
	if err != nil {
		return err
	}
	switch line[0] {
	case '+', ':':
		return nil
	case '-':
		return serverError(line[1:])
	case '*':
	default:
		return fmt.Errorf("the server sent %q where a reply begins", line[0])
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < 1 || n > 16 {
		return fmt.Errorf("the server sent a message of %q parts", line[1:])
	}
	var parts [4][]byte
	for i := range n {
		part, err := f.bulk()
		if err != nil {
			return err
		}
		if i < len(parts) {
			parts[i] = part
		}
	}
	switch {
	case n == 4 && string(parts[0]) == "pmessage":
		if pending != nil {
			if db, key, event, ok := parseEvent(parts[2], parts[3]); ok {
				if f.each != nil {
					f.each(db, key, event)
				}
				change := value.ChangeOf(event)
				if f.twins.second(len(parts[2]) > 5 && parts[2][5] == 's', db, key, event) {
					change |= value.Again
				}
				pending.add(db, key, change)
			}
		}
	case n == 2 && string(parts[0]) == "pong":
		if pending != nil {
			pending.flush(f.sink) // what came before the barrier is delivered before it
		}
		f.pong(parts[1])
	}
	return nil
}

// twins tells the second message of an event from that of another one. A server that
// was told to send both, by key and by event, sends them one right after the other
// (notify.c). The zero value is ready.
type twins struct {
	first  bool // the last message was by key:
	db     int
	key    string
	event  []byte
	single bool // it sends one of them only, or did for a while: nobody can tell then
}

// second takes the next message. byKey is the form that comes first.
func (t *twins) second(byKey bool, db int, key string, event []byte) bool {
	twin := !byKey && t.first && t.db == db && t.key == key && bytes.Equal(t.event, event)
	t.single = t.single || t.first && !twin
	if t.first = byKey; byKey {
		t.db, t.key, t.event = db, key, event
	}
	return twin && !t.single
}

// pong lets go on who waits for the answer to a PING.
func (f *feed) pong(id []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ch, ok := f.waiters[string(id)]; ok {
		close(ch)
		delete(f.waiters, string(id))
	}
}

// parseEvent understands __keyevent@<db>__:<event> with the key as payload and
// __keyspace@<db>__:<key> with the event as payload.
func parseEvent(channel, payload []byte) (db int, key string, event []byte, ok bool) {
	rest, isEvent := bytes.CutPrefix(channel, []byte("__keyevent@"))
	if !isEvent {
		var isSpace bool
		if rest, isSpace = bytes.CutPrefix(channel, []byte("__keyspace@")); !isSpace {
			return 0, "", nil, false
		}
	}
	num, after, found := bytes.Cut(rest, []byte("__:"))
	if !found {
		return 0, "", nil, false
	}
	db, err := strconv.Atoi(string(num))
	if err != nil {
		return 0, "", nil, false
	}
	if isEvent {
		return db, string(payload), after, true
	}
	return db, string(after), payload, true
}

func (f *feed) line() ([]byte, error) {
	line, err := f.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	line = bytes.TrimRight(line, "\r\n")
	if len(line) == 0 {
		return nil, errors.New("the server sent an empty line where a reply begins")
	}
	return line, nil
}

func (f *feed) bulk() ([]byte, error) {
	line, err := f.line()
	if err != nil {
		return nil, err
	}
	if line[0] == ':' {
		return nil, nil
	}
	if line[0] != '$' {
		return nil, fmt.Errorf("the server sent %q where a bulk string begins", line)
	}
	return f.rest(string(line[1:]))
}

// rest reads the bytes that a length announces; nil for a negative one.
func (f *feed) rest(length string) ([]byte, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n > maxBulk {
		return nil, fmt.Errorf("the server sent a length of %q", length)
	}
	if n < 0 {
		return nil, nil
	}
	buf := make([]byte, n+2)
	if _, err := io.ReadFull(f.r, buf); err != nil {
		return nil, err
	}
	return buf[:n], nil
}
