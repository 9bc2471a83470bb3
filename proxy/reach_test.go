package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"golang.org/x/sys/unix"
)

// newWorldOnTarget is one whose clients are on the target, where they are let in with the
// operator's password: so a connection is of use only once the server has answered.
func newWorldOnTarget(t *testing.T, target *redistest.Server, settings ...setting) *world {
	t.Helper()
	set := func(c *Config) {
		c.Upstreams[router.Target].Password = target.Password()
		c.DialTimeout = 500 * time.Millisecond
	}
	route := router.Route{Side: router.Target, Epoch: 1, Map: router.Identity(16)}
	return newWorldMapped(t, redistest.Start(t), target, route, append([]setting{set}, settings...)...)
}

// TestServerThatTakesConnectionsOnly has a crowd come to a server that takes their
// connections and is not there for them: it is dialled no more often than one that cannot
// be reached, and all are served once it is there again.
func TestServerThatTakesConnectionsOnly(t *testing.T) {
	const crowd = 300
	for name, c := range map[string]struct {
		told string // each client before it is closed
		away func(t *testing.T, target *redistest.Server) (back func())
	}{
		"stopped": {"", func(t *testing.T, target *redistest.Server) func() {
			if err := target.Stop(); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := target.Cont(); err != nil {
					t.Error(err)
				}
			}
		}},
		"full": {"-ERR max number of clients reached\r\n", func(t *testing.T, target *redistest.Server) func() {
			c := dialRaw(t, target.Addr())
			c.want("AUTH secret", ok)
			c.want("CONFIG SET maxclients 1", ok)
			return func() { c.want("CONFIG SET maxclients 10000", ok) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				target := redistest.Start(t, redistest.WithPassword("secret"))
				var dials atomic.Int64
				w := newWorldOnTarget(t, target, mode, func(c *Config) {
					dial := c.Upstreams[router.Target].Dial
					c.Upstreams[router.Target].Dial = func(ctx context.Context) (net.Conn, error) {
						dials.Add(1)
						return dial(ctx)
					}
				})
				back := c.away(t, target)
				first := w.client()
				first.tryWrite(words("MULTI"))
				if got := first.ends(); got != c.told {
					t.Errorf("the first client was told %q", got)
				}
				begin, before := time.Now(), dials.Load()
				var turnedAway atomic.Int64
				var wg sync.WaitGroup
				for range crowd {
					wg.Go(func() {
						for first := true; ; first = false {
							r := w.client()
							r.tryWrite(words("MULTI"))
							got := r.next()
							if got == ok {
								return
							}
							if got != c.told && got != "EOF" {
								t.Errorf("a client was told %q", got)
								return
							}
							r.close()
							if first {
								turnedAway.Add(1)
							}
						}
					})
				}
				until(t, "each of them has been turned away", func() bool { return turnedAway.Load() == crowd })
				n, most := dials.Load()-before, int64(time.Since(begin)/redialWait)+5
				back()
				wg.Wait()
				if n > most {
					t.Errorf("%d dials for more than %d clients in %v", n, crowd, time.Since(begin))
				}
			})
		})
	}
}

// fullBacklog returns the address of a listener that can take no more connections: the
// kernel drops what knocks, and who dials it waits for as long as it wants.
func fullBacklog(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}).String()
	for {
		conn, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return addr
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

// silentListener returns the address of a listener behind which nobody is: the kernel takes
// the connections.
func silentListener(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// TestConnectTimeout has the server's address lead for a while to where no connection can be
// made, or where nobody answers on it: who needs one is closed when the time is over, who
// has one does not notice.
func TestConnectTimeout(t *testing.T) {
	for name, nowhere := range map[string]func(t *testing.T) string{"a full backlog": fullBacklog, "a silent listener": silentListener} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				const limit = 300 * time.Millisecond
				target := redistest.Start(t, redistest.WithPassword("secret"))
				var addr atomic.Value
				addr.Store(target.Addr())
				w := newWorldOnTarget(t, target, mode, func(c *Config) {
					c.DialTimeout = limit
					c.Upstreams[router.Target].Dial = func(ctx context.Context) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, "tcp", addr.Load().(string))
					}
				})
				stop := w.bystander()
				addr.Store(nowhere(t))
				for i, line := range []string{"MULTI", "BLPOP a 0", "SUBSCRIBE c", "HELLO 3"} {
					begin := time.Now()
					c := w.client()
					c.tryWrite([]byte(line + "\r\n"))
					if got := c.ends(); got != "" {
						t.Errorf("%s: the client was told %q", line, got)
					}
					if took := time.Since(begin); i == 0 && took < limit || took > limit+5*time.Second {
						t.Errorf("%s: the client was closed after %v", line, took)
					}
				}
				addr.Store(target.Addr())
				w.awaitServed()
				stop()
			})
		})
	}
}
