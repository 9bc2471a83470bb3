package witness

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// against runs a small crowd for a moment and returns what it has to say.
func against(t *testing.T, server *redistest.Server, addr string, length time.Duration) error {
	t.Helper()
	c := New(Config{Addrs: []string{addr}, Clients: 4, Prefix: "w", Databases: []int{0, 3}, Big: 1 << 16, Patience: 2 * time.Second,
		Users: []User{{}, {Name: "lim", Password: "word", Denied: "shared"}}})
	c.Strict(addr, true)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	c.Run(ctx)
	if c.Stats().Commands.Load() == 0 {
		t.Fatal("nothing was answered")
	}
	if err := c.Violations(); err != nil {
		return err
	}
	var err error
	deadline := time.Now().Add(2 * time.Second)
	for {
		err = c.Verify(t.Context(), func(db int) *redis.Client { return server.Client(db) })
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func start(t *testing.T) *redistest.Server {
	return redistest.Start(t, redistest.WithACL("lim on >word ~w:* &* +@all"))
}

func TestARealServerIsBeyondDoubt(t *testing.T) {
	s := start(t)
	if err := against(t, s, s.Addr(), time.Second); err != nil {
		t.Fatal(err)
	}
}

// TestLiesAreFound puts relays between that do what a proxy must never do.
func TestLiesAreFound(t *testing.T) {
	lies := map[string]struct{ up, down func(b []byte) []byte }{
		"a write that is sent twice": {up: func(b []byte) []byte {
			if i := bytes.Index(b, []byte("*2\r\n$4\r\nINCR")); i >= 0 {
				if j := bytes.IndexByte(b[i+4:], '*'); j > 0 {
					return append(bytes.Clone(b[:i+4+j]), b[i:]...)
				}
			}
			return b
		}},
		"a reply that is said twice": {down: func(b []byte) []byte {
			if string(b) == "+OK\r\n" {
				return []byte("+OK\r\n+OK\r\n")
			}
			return b
		}},
		"a write that is acknowledged and not made": {up: func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("$5\r\nRPUSH"), []byte("$6\r\nLPUSHX"))
		}},
		"another's value":    {down: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("life2"), []byte("life1")) }},
		"a status as a bulk": {down: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("+OK\r\n"), []byte("$2\r\nOK\r\n")) }},
		"another database":   {up: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("$1\r\n3\r\n"), []byte("$1\r\n4\r\n")) }},
		"another user": {up: func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("$4\r\nAUTH\r\n$3\r\nlim\r\n$4\r\nword"), []byte("$4\r\nECHO\r\n$0\r\n\r\n$4\r\nword"))
		}},
	}
	for name, lie := range lies {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			s := start(t)
			err := against(t, s, relay(t, s.Addr(), lie.up, lie.down), time.Second)
			if err == nil {
				t.Fatal("not found")
			}
			text := err.Error()
			t.Logf("%.300s", text)
		})
	}
}

// relay passes what is sent through up and what is answered through down.
func relay(t *testing.T, server string, up, down func([]byte) []byte) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	carry := func(to, from net.Conn, f func([]byte) []byte) {
		defer func() { _ = to.Close(); _ = from.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			b := buf[:n]
			if f != nil {
				b = f(b)
			}
			if _, err := to.Write(b); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server)
			if err != nil {
				_ = c.Close()
				continue
			}
			wg.Go(func() { carry(s, c, up) })
			wg.Go(func() { carry(c, s, down) })
		}
	})
	return l.Addr().String()
}
