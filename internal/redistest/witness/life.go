package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// op is one command that was sent, and what must come back.
type op struct {
	name    string
	want    string                   // the reply, byte for byte
	check   func(reply string) error // in place of want
	effects []effect
	maybe   bool // it may have no effect although it was run; check says so by errNoEffect
	mute    bool // no reply comes
}

var errNoEffect = errors.New("no effect")

// life is one connection, with keys of its own.
type life struct {
	crowd  *Crowd
	name   string
	kind   string
	addr   string
	strict bool
	rng    *rand.Rand
	conn   net.Conn
	in     []byte
	out    []byte

	proto    int // after all that was sent
	db       int // its place
	user     User
	hashed   [4]bool
	sent     state // after all that was sent
	known    state // after all that was answered
	pending  []*op
	messages []string // published and not received yet
	tokens   int
	left     bool // by the client itself
}

// live lives one life.
func (c *Crowd) live(ctx context.Context, addr string, rng *rand.Rand) {
	l := c.begin(addr, rng)
	if l == nil {
		rest(ctx, time.Millisecond)
		return
	}
	err := l.run(ctx)
	_ = l.conn.Close()
	l.end(err)
}

// begin connects, nil when that fails.
func (c *Crowd) begin(addr string, rng *rand.Rand) *life {
	l := &life{crowd: c, name: fmt.Sprintf("life%d", c.names.Add(1)), addr: addr, strict: c.isStrict(addr), rng: rng, proto: 2}
	conn, err := net.DialTimeout("tcp", addr, c.cfg.Patience)
	if err != nil {
		if l.strict && c.isStrict(addr) {
			c.violate(l, "connecting: %w", err)
		}
		return nil
	}
	l.conn = conn
	return l
}

// end takes stock of a life.
func (l *life) end(err error) {
	c := l.crowd
	c.stats.Lives.Add(1)
	var lost *lostError
	switch {
	case err == nil:
	case errors.As(err, &lost):
		c.stats.Lost.Add(1)
		if !l.left && l.strict && c.isStrict(l.addr) {
			c.violate(l, "the connection was lost with %d commands outstanding: %w", len(l.pending), err)
		}
	default:
		c.violate(l, "%w", err)
	}
	if len(l.pending) == 0 && err == nil && !l.left {
		return
	}
	c.stats.Unknown.Add(int64(len(l.pending)))
	c.mu.Lock()
	c.unknown = append(c.unknown, l)
	c.mu.Unlock()
}

// lostError says that the connection has ended.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "lost: " + e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// add puts a command with an exact reply into the next batch.
func (l *life) add(want string, args ...string) *op {
	o := &op{name: args[0], want: want}
	if len(args) > 1 {
		o.name += " " + strings.TrimPrefix(args[1][:min(len(args[1]), 80)], l.crowd.cfg.Prefix)
	}
	l.out = appendCommand(l.out, args...)
	l.pending = append(l.pending, o)
	return o
}

// does says what the command changes.
func (l *life) does(o *op, effects ...effect) {
	o.effects = effects
	l.sent.apply(effects)
}

func appendCommand(b []byte, args ...string) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(len(args)), 10)
	b = append(b, '\r', '\n')
	for _, a := range args {
		b = append(b, bulk(a)...)
	}
	return b
}

func bulk(s string) string { return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n" }

// flush writes the batch. When that fails, what was answered before is read.
func (l *life) flush() error {
	b := l.out
	l.out = nil
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.crowd.cfg.Patience))
	if _, err := l.conn.Write(b); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("nothing is read from the client for %v", l.crowd.cfg.Patience)
		}
		if rerr := l.receive(0); rerr != nil {
			return rerr
		}
		return &lostError{err}
	}
	return nil
}

// receive reads replies until no more than left commands are outstanding.
func (l *life) receive(left int) error {
	for len(l.pending) > left && !l.allMute() {
		reply, err := l.element()
		if err != nil {
			return err
		}
		if err := l.take(reply); err != nil {
			return err
		}
	}
	return nil
}

// allMute reports whether nothing that is outstanding will be answered. Whether
// that has run is known by the next command that is.
func (l *life) allMute() bool {
	for _, o := range l.pending {
		if !o.mute {
			return false
		}
	}
	return true
}

// take checks one element.
func (l *life) take(reply string) error {
	if strings.HasPrefix(reply, ">3\r\n$7\r\nmessage") || strings.HasPrefix(reply, "*3\r\n$7\r\nmessage") {
		return l.message(reply)
	}
	if len(l.pending) == 0 {
		return fmt.Errorf("nothing was asked, but %s was said", short(reply))
	}
	for l.pending[0].mute && !l.allMute() {
		l.known.apply(l.pending[0].effects)
		l.pending = l.pending[1:]
	}
	o := l.pending[0]
	if o.check != nil {
		err := o.check(reply)
		if errors.Is(err, errNoEffect) {
			o.effects = nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	} else if reply != o.want {
		return fmt.Errorf("%s: got %s, want %s", o.name, short(reply), short(o.want))
	}
	l.known.apply(o.effects)
	l.pending = l.pending[1:]
	l.crowd.stats.Commands.Add(1)
	return nil
}

// message checks that what was published comes once and in order.
func (l *life) message(reply string) error {
	if len(l.messages) == 0 {
		return fmt.Errorf("a message that nobody has published: %s", short(reply))
	}
	want := bulk("message") + bulk(l.key("channel")) + bulk(l.messages[0])
	if reply[4:] != want {
		return fmt.Errorf("a message out of order: got %s, want %s", short(reply), short(want))
	}
	l.messages = l.messages[1:]
	return nil
}

func short(s string) string {
	if len(s) > 160 {
		return fmt.Sprintf("%.100q… (%d bytes)", s, len(s))
	}
	return strconv.Quote(s)
}

// element reads one whole element.
func (l *life) element() (string, error) {
	var f resp.Framer
	at := 0
	for {
		n, done, err := f.Feed(l.in[at:])
		if err != nil {
			return "", fmt.Errorf("what came is no reply: %w: %s", err, short(string(l.in)))
		}
		at += n
		if done {
			reply := string(l.in[:at])
			l.in = l.in[at:]
			return reply, nil
		}
		if err := l.read(); err != nil {
			return "", err
		}
	}
}

func (l *life) read() error {
	if len(l.in) == 0 {
		l.in = nil
	}
	if cap(l.in)-len(l.in) < 4096 {
		l.in = append(make([]byte, 0, 2*len(l.in)+16<<10), l.in...)
	}
	_ = l.conn.SetReadDeadline(time.Now().Add(l.crowd.cfg.Patience))
	n, err := l.conn.Read(l.in[len(l.in):cap(l.in)])
	l.in = l.in[:len(l.in)+n]
	if n > 0 || err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		what := "a message"
		if len(l.pending) > 0 {
			what = l.pending[0].name
		}
		return fmt.Errorf("%s is not answered for %v; %d commands are outstanding", what, l.crowd.cfg.Patience, len(l.pending))
	}
	// Half a reply must be half of the right one.
	if len(l.pending) > 0 && l.pending[0].check == nil && len(l.messages) == 0 && !l.allMute() {
		for _, o := range l.pending {
			if !o.mute {
				if !bytes.HasPrefix([]byte(o.want), l.in) {
					return fmt.Errorf("%s: before the end came %s, want %s", o.name, short(string(l.in)), short(o.want))
				}
				break
			}
		}
	}
	return &lostError{err}
}
