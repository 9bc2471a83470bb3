package proxy

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// dripping is a connection from which all comes byte by byte, and what follows a whole reply
// once something was sent behind it, if that comes soon.
type dripping struct {
	net.Conn
	fr    resp.Framer
	whole bool
	sent  chan struct{}
}

func (d *dripping) Read(b []byte) (int, error) {
	if d.whole {
		select {
		case <-d.sent:
		case <-time.After(10 * time.Millisecond):
		}
	}
	n, err := d.Conn.Read(b[:min(1, len(b))])
	if _, d.whole, _ = d.fr.Feed(b[:n]); d.whole {
		select {
		case <-d.sent: // before it was
		default:
		}
	}
	return n, err
}

func (d *dripping) Write(b []byte) (int, error) {
	n, err := d.Conn.Write(b)
	select {
	case d.sent <- struct{}{}:
	default:
	}
	return n, err
}

func drips(c *Config) {
	for side := range c.Upstreams {
		dial := c.Upstreams[side].Dial
		c.Upstreams[side].Dial = func(ctx context.Context) (net.Conn, error) {
			conn, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			return &dripping{Conn: conn, sent: make(chan struct{}, 1)}, nil
		}
	}
}

// TestMessagesToOneselfComeInPieces: what such a message has pushed out of the reply to EXEC
// answers no command behind that, however late it comes.
func TestMessagesToOneselfComeInPieces(t *testing.T) {
	// Who has lost count silences another reply, passes on one of its own, or forgets the database.
	after := []string{"PING", "UNSUBSCRIBE", "PUNSUBSCRIBE", "CLIENT REPLY SKIP", "GET none", "GET none", "MULTI", "GET none", "SELECT 5", "EXEC", "SET five 5", "BLPOP none 0.01", "GET five"}
	for name, lines := range map[string][]string{
		"a message":              {"SUBSCRIBE c", "PUBLISH c x"},
		"messages":               {"SUBSCRIBE c", "PUBLISH c x", "PING", "PUBLISH c y", "GET none", "LRANGE none 0 -1"},
		"of a pattern":           {"PSUBSCRIBE *", "PUBLISH c x", "PUBLISH d y"},
		"and subscribes no more": {"SUBSCRIBE c", "PUBLISH c x", "PUBLISH c y", "PUBLISH c z", "UNSUBSCRIBE c"},
		"to nothing":             {"SUBSCRIBE a b", "PUBLISH b x", "PUBLISH a y", "UNSUBSCRIBE"},
		"without a message":      {"SUBSCRIBE a b", "UNSUBSCRIBE", "GET none"},
		"looks like one":         {"SUBSCRIBE c", "EVAL \"return {'message', 'd', 'x'}\" 0", "PUBLISH c x"},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				direct := redistest.Start(t)
				w := newWorld(t, mode, drips)
				lines := slices.Concat([]string{"MULTI"}, lines, []string{"EXEC"}, after)
				want, got := transcriptOf(t, direct.Addr(), lines, true), transcriptOf(t, w.proxy.Addr().String(), lines, true)
				alike := strings.NewReplacer(bulk("a"), bulk("c"), bulk("b"), bulk("c")) // servers have an order of their own
				compare(t, strings.TrimSpace(alike.Replace(got)), strings.TrimSpace(alike.Replace(want)))
			})
		})
	}
}

// TestRefusalBehindTheArrayIsSeen: the SELECT is refused, which is said behind the array, for
// another reply has taken its place there.
func TestRefusalBehindTheArrayIsSeen(t *testing.T) {
	for name, first := range map[string][]string{
		"a message":     {"SUBSCRIBE c", "PUBLISH c x"},
		"confirmations": {"SUBSCRIBE c d", "PING"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, drips)
			c := w.client()
			c.want("SELECT 3", ok)
			lines := slices.Concat([]string{"MULTI"}, first, []string{"SELECT 99", "UNSUBSCRIBE", "SELECT 98", "EXEC", "ECHO end"})
			c.send(lines...)
			if got := c.transcript("\r\nend\r\n"); strings.Count(got, "-ERR DB index is out of range") != 2 {
				t.Fatalf("got %q", got)
			}
			w.do(router.Target, 5, "SET", "where", "there")
			w.switchTo(router.Target)
			c.want("GET where", bulk("there"))
		})
	}
}
