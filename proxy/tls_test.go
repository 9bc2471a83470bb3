package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

var loopbackTLS = Listen{Network: "tcp", Address: "127.0.0.1:0", TLS: true}

// withTLS has the proxy listen with TLS only, as a configuration says it.
func withTLS(t testing.TB, section config.ListenTLS) setting {
	t.Helper()
	if section.ClientAuth == "" {
		section.ClientAuth = "none"
	}
	section.MinVersion = "1.2"
	settings, err := section.Server(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Listen, c.TLS = []Listen{loopbackTLS}, settings }
}

// dialTLS connects with TLS; the error is that of the first answer too, since with
// TLS 1.3 a certificate is refused after the handshake.
func (w *world) dialTLS(settings *tls.Config) (*raw, error) {
	w.t.Helper()
	conn, err := tls.Dial("tcp", w.proxy.Addr().String(), settings)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	r := &raw{t: w.t, conn: conn}
	r.send("PING")
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 7)
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, err
	}
	if string(b) != "+PONG\r\n" {
		w.t.Fatalf("got %q", b)
	}
	return r, nil
}

func (w *world) clientTLS(settings *tls.Config) *raw {
	w.t.Helper()
	r, err := w.dialTLS(settings)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestClientsWithTLS(t *testing.T) {
	ca := redistest.NewAuthority(t, "authority")
	pair := ca.Issue("127.0.0.1")
	w := newWorld(t, withTLS(t, config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile}))
	trusting := &tls.Config{RootCAs: ca.Pool}

	var clients []*raw
	for range 8 {
		clients = append(clients, w.clientTLS(trusting))
	}
	if n := len(w.proxy.UpstreamAddrs(router.Source)); *upstreams == "shared" && n > len(w.proxy.loops) {
		t.Errorf("%d upstream connections for clients that could share", n)
	}
	big := strings.Repeat("x", 5<<20)
	for i, c := range clients {
		value := strings.Repeat("v", i+1)
		c.want("SET k "+value, ok)
		c.want("HELLO 2", c.do("HELLO 2"))
		c.want("MULTI", ok)
		c.want("GET k", "+QUEUED\r\n")
		c.want("EXEC", "*1\r\n"+bulk(value))
	}
	clients[0].write(wireOf([]byte("SET"), []byte("big"), []byte(big)))
	clients[0].expect(ok)
	clients[1].want("GET big", bulk(big))
	clients[2].send("BLPOP q 0")
	w.blockedOn(router.Source, "blpop")
	clients[3].want("SUBSCRIBE c", "*3\r\n"+bulk("subscribe")+bulk("c")+":1\r\n")
	w.switchTo(router.Target)
	w.do(router.Target, 0, "PUBLISH", "c", "m")
	w.do(router.Target, 0, "RPUSH", "q", "e")
	clients[3].expect("*3\r\n" + bulk("message") + bulk("c") + bulk("m"))
	clients[2].expect("*2\r\n" + bulk("q") + bulk("e"))
	clients[4].want("SET a 1", ok)
	if got := w.do(router.Target, 0, "GET", "a"); got != "1" {
		t.Errorf("the target has %v", got)
	}

	// Who hangs up in BLPOP costs no element.
	clients[2].send("BLPOP q 0")
	w.blockedOn(router.Target, "blpop")
	clients[2].close()
	until(t, "the blocked client is gone", func() bool { return w.proxy.Stats().Clients == 7 })
	w.do(router.Target, 0, "RPUSH", "q", "kept")
	if got := w.do(router.Target, 0, "LLEN", "q"); got != int64(1) {
		t.Errorf("the list has %v elements", got)
	}
	// Who closes its way only still gets the replies.
	clients[5].send("GET k", "PING")
	if err := clients[5].conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	clients[5].expect("$-1\r\n")
	clients[5].expect("+PONG\r\n")
	clients[5].expect("EOF")

	if _, err := w.dialTLS(&tls.Config{}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without the authority: %v", err)
	}
	plain := w.client()
	plain.send("PING")
	if got := plain.next(); got == "+PONG\r\n" {
		t.Error("a client without TLS is served")
	}
}

// TestClientCertificates runs handshakes with and without certificates.
func TestClientCertificates(t *testing.T) {
	ca, strange := redistest.NewAuthority(t, "authority"), redistest.NewAuthority(t, "stranger")
	pair := ca.Issue("127.0.0.1")
	mine, foreign := ca.Issue("client").Pair, strange.Issue("client").Pair
	section := config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile, ClientCAFile: ca.File}
	for mode, want := range map[string][3]bool{"required": {false, true, false}, "optional": {true, true, false}} {
		section.ClientAuth = mode
		w := newWorld(t, withTLS(t, section))
		for i, certificates := range [][]tls.Certificate{nil, {mine}, {foreign}} {
			settings := &tls.Config{RootCAs: ca.Pool}
			if certificates != nil {
				settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
			}
			if _, err := w.dialTLS(settings); (err == nil) != want[i] {
				t.Errorf("%s, case %d: %v", mode, i, err)
			}
		}
	}
}

// TestCertificateIsReplaced serves a new certificate to whoever connects after.
func TestCertificateIsReplaced(t *testing.T) {
	before, after := redistest.NewAuthority(t, "before"), redistest.NewAuthority(t, "after")
	pair := before.Issue("127.0.0.1")
	w := newWorld(t, withTLS(t, config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile}))
	old := w.clientTLS(&tls.Config{RootCAs: before.Pool})
	renewed := after.Issue("127.0.0.1")
	for to, from := range map[string]string{pair.CertFile: renewed.CertFile, pair.KeyFile: renewed.KeyFile} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the new certificate is shown", func() bool {
		_, err := w.dialTLS(&tls.Config{RootCAs: after.Pool})
		return err == nil
	})
	old.want("PING", "+PONG\r\n")
}

// TestSilentHandshake lets clients that say nothing wait, and count.
func TestSilentHandshake(t *testing.T) {
	ca := redistest.NewAuthority(t, "authority")
	pair := ca.Issue("127.0.0.1")
	w := newWorld(t, withTLS(t, config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile}), func(c *Config) { c.MaxClients = 3 })
	silent := []*raw{w.client(), w.client()}
	until(t, "they count", func() bool { return w.proxy.Stats().Clients == 2 })
	c := w.clientTLS(&tls.Config{RootCAs: ca.Pool})
	if _, err := w.dialTLS(&tls.Config{RootCAs: ca.Pool}); err == nil {
		t.Error("there is one client too many")
	}
	silent[0].close()
	until(t, "one is gone", func() bool { return w.proxy.Stats().Clients == 2 })
	w.clientTLS(&tls.Config{RootCAs: ca.Pool})
	c.want("PING", "+PONG\r\n")
}

// TestSlowClientWithTLS cuts a client off that does not read its replies, although
// the socket that the loop closes is not the client's.
func TestSlowClientWithTLS(t *testing.T) {
	ca := redistest.NewAuthority(t, "authority")
	pair := ca.Issue("127.0.0.1")
	w := newWorld(t, withTLS(t, config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile}), func(c *Config) { c.OutputLimit = 1 << 20 })
	c := w.clientTLS(&tls.Config{RootCAs: ca.Pool})
	w.do(router.Source, 0, "SET", "k", strings.Repeat("x", 64<<10))
	// One by one, so that its socket is full before the proxy gives it up.
	until(t, "it is gone for the proxy", func() bool {
		if w.proxy.Stats().Clients == 0 {
			return true
		}
		c.send("GET k")
		return false
	})
	// It says nothing and takes nothing, and is closed nevertheless.
	stacks := make([]byte, 1<<20)
	until(t, "nobody writes to it any more", func() bool {
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*wrapped).down")
	})
}

// logged collects what a server logs.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// end returns the newest lines, of at most n bytes.
func (l *logged) end(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.b.Bytes()
	if len(b) > n {
		b = b[len(b)-n:]
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	return string(b)
}

// TestUpstreamsWithTLS runs a switch between servers that want certificates, and
// replaces ours on the way.
func TestUpstreamsWithTLS(t *testing.T) {
	ca := redistest.NewAuthority(t, "authority")
	server, mine := ca.Issue("127.0.0.1", "localhost"), ca.Issue("client")
	source, target := redistest.Start(t), redistest.Start(t)
	var dials [2]Upstream
	for side, s := range []*redistest.Server{source, target} {
		address := s.ListenTLS(t, server, ca, "yes")
		e, err := config.Server{URL: config.Secret("rediss://" + address),
			TLS: config.TLS{CAFile: ca.File, CertFile: mine.CertFile, KeyFile: mine.KeyFile}}.Endpoint()
		if err != nil {
			t.Fatal(err)
		}
		dials[side].Dial = func(ctx context.Context) (net.Conn, error) { return endpoint.Dial(ctx, e, patience) }
	}
	w := newWorldOn(t, source, target, func(c *Config) { c.Upstreams = dials })
	a, b := w.client(), w.client()
	a.want("SET k 1", ok)
	b.want("MULTI", ok)
	b.want("INCR n", "+QUEUED\r\n")
	w.switchTo(router.Target)
	b.want("EXEC", "*1\r\n:1\r\n")
	a.want("GET k", "$-1\r\n")

	// The server trusts another authority from now on, and so must we: with the
	// files as they were it could not be reached any more.
	other := redistest.NewAuthority(t, "other")
	theirs, ours := other.Issue("127.0.0.1"), other.Issue("client")
	for to, from := range map[string]string{server.CertFile: theirs.CertFile, server.KeyFile: theirs.KeyFile,
		mine.CertFile: ours.CertFile, mine.KeyFile: ours.KeyFile, ca.File: other.File} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	again := w.do(router.Target, 0, "CONFIG", "SET", "tls-cert-file", server.CertFile, "tls-key-file", server.KeyFile, "tls-ca-cert-file", ca.File)
	if again != "OK" {
		t.Fatal(again)
	}
	until(t, "new connections are made with the new certificates", func() bool {
		c := w.client()
		c.send("WATCH k") // takes a connection of its own
		defer c.close()
		return c.next() == ok
	})
	a.want("GET k", "$-1\r\n")
}

// TestFailedHandshakesAreFewLines: who knocks often without TLS does not fill the log.
func TestFailedHandshakesAreFewLines(t *testing.T) {
	pair := redistest.NewAuthority(t, "authority").Issue("127.0.0.1")
	w := newWorld(t, withTLS(t, config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile}))
	from := time.Now()
	const n = 50
	for range n {
		c := w.client()
		c.send("PING")
		c.ends()
	}
	until(t, "all are gone", func() bool { return w.proxy.Stats().Clients == 0 })
	most := 2 + int(time.Since(from)/complainEvery)
	if lines := strings.Count(w.logs.end(1<<20), "refusing a client"); lines == 0 || lines > most {
		t.Errorf("%d lines for %d clients, at most %d were expected", lines, n, most)
	}
}

// TestHalfClosedBeforeTLS has a client close its end right behind a command that blocks, where
// the server is behind TLS: it gets what is there.
func TestHalfClosedBeforeTLS(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		ca := redistest.NewAuthority(t, "authority")
		source := redistest.Start(t)
		link := redistest.NewLink(t, source.ListenTLS(t, ca.Issue("127.0.0.1"), ca, "no"))
		e, err := config.Server{URL: config.Secret("rediss://" + link.Addr()), TLS: config.TLS{CAFile: ca.File}}.Endpoint()
		if err != nil {
			t.Fatal(err)
		}
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) {
			c.Upstreams[router.Source].Dial = func(ctx context.Context) (net.Conn, error) { return endpoint.Dial(ctx, e, patience) }
			c.lateAfter = time.Hour
		})
		c := w.client()
		c.want("RPUSH q e", ":1\r\n")
		link.SetDelayDown(50 * time.Millisecond)
		c.send("BLPOP q 0")
		if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c.expect("*2\r\n$1\r\nq\r\n$1\r\ne\r\n")
		c.expect("EOF")
	})
}
