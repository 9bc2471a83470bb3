package endpoint

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
)

// listen serves every connection with serve until the test ends.
func listen(t *testing.T, network, address string, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

func echo(conn net.Conn) { _, _ = io.Copy(conn, conn) }

// certificate makes a self-signed one for the names and writes it as PEM.
func certificate(t *testing.T, until time.Time, names ...string) (pair tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: names,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func secure(pair tls.Certificate, names chan<- string, serve func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		settings := &tls.Config{Certificates: []tls.Certificate{pair}}
		server := tls.Server(conn, settings)
		if err := server.Handshake(); err != nil {
			return
		}
		names <- server.ConnectionState().ServerName
		serve(server)
	}
}

func resolve(t *testing.T, server config.Server) config.Endpoint {
	t.Helper()
	e, err := server.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func checkEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	defer func() { _ = conn.Close() }()
	// The handshake's deadline must not stay behind.
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4)
	if _, err := conn.Write([]byte("PING")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, buffer); err != nil || string(buffer) != "PING" {
		t.Fatal(string(buffer), err)
	}
}

func TestDial(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listen(t, "unix", socket, echo)
	address := listen(t, "tcp", "127.0.0.1:0", echo)
	for _, url := range []string{"redis://" + address, "unix://" + socket} {
		conn, err := Dial(t.Context(), resolve(t, config.Server{URL: config.Secret(url)}), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if tcp, is := conn.(*net.TCPConn); is {
			checkOptions(t, tcp)
		}
		checkEcho(t, conn)
	}
}

func checkOptions(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	want := map[[2]int]int{
		{syscall.IPPROTO_TCP, syscall.TCP_NODELAY}:   1,
		{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE}:   1,
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE}:  15,
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL}: 5,
	}
	_ = raw.Control(func(fd uintptr) {
		for option, value := range want {
			if got, err := syscall.GetsockoptInt(int(fd), option[0], option[1]); err != nil || got != value {
				t.Errorf("option %v is %d, %v, want %d", option, got, err, value)
			}
		}
	})
}

func TestDialTLS(t *testing.T) {
	pair, ca := certificate(t, time.Now().Add(time.Hour), "localhost", "other.name")
	names := make(chan string, 1)
	address := listen(t, "tcp", "127.0.0.1:0", secure(pair, names, echo))
	_, port, _ := net.SplitHostPort(address)
	url := config.Secret("rediss://user:hidden@localhost:" + port)

	for name, settings := range map[string]config.TLS{
		"localhost":  {CAFile: ca},
		"other.name": {CAFile: ca, ServerName: "other.name"},
	} {
		conn, err := Dial(t.Context(), resolve(t, config.Server{URL: url, TLS: settings}), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, conn)
		if got := <-names; got != name {
			t.Errorf("SNI is %q, want %q", got, name)
		}
	}
	// An endpoint made by hand, without a name.
	e := config.Endpoint{Network: "tcp", Address: "localhost:" + port, TLS: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a test
	conn, err := Dial(t.Context(), e, 0)
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, conn)
	if got := <-names; got != "localhost" || e.TLS.ServerName != "" {
		t.Errorf("SNI is %q, the endpoint's %q", got, e.TLS.ServerName)
	}
}

func TestDialErrors(t *testing.T) {
	closed := listen(t, "tcp", "127.0.0.1:0", echo)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := free.Addr().String()
	_ = free.Close()

	plain := listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = io.WriteString(conn, "-ERR unknown command\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	hangsUp := listen(t, "tcp", "127.0.0.1:0", func(net.Conn) {})
	silent := listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })

	names := make(chan string, 9)
	valid, ca := certificate(t, time.Now().Add(time.Hour), "other.name")
	named := listen(t, "tcp", "127.0.0.1:0", secure(valid, names, echo))
	expired, expiredCA := certificate(t, time.Now().Add(-time.Hour), "other.name")
	old := listen(t, "tcp", "127.0.0.1:0", secure(expired, names, echo))

	missing := filepath.Join(t.TempDir(), "missing")
	tests := []struct {
		url     string
		tls     config.TLS
		timeout time.Duration
		want    []string
		is      error
	}{
		{"redis://u:hidden@" + refused, config.TLS{}, time.Minute, []string{"connecting to redis://u@" + refused, "nothing listens there"}, syscall.ECONNREFUSED},
		{"unix://" + missing, config.TLS{}, time.Minute, []string{missing, "no such socket"}, os.ErrNotExist},
		{"redis://" + closed, config.TLS{}, time.Nanosecond, []string{closed, "no answer within", "proxy.dial_timeout"}, nil},
		{"rediss://" + plain, config.TLS{}, time.Minute, []string{"TLS handshake with rediss://" + plain, "does not speak TLS: use redis://"}, nil},
		{"rediss://" + hangsUp, config.TLS{}, time.Minute, []string{hangsUp, "perhaps the port speaks plain Redis"}, nil},
		{"rediss://" + silent, config.TLS{}, 50 * time.Millisecond, []string{silent, "no TLS answer within", "plain Redis"}, nil},
		{"rediss://" + named, config.TLS{ServerName: "other.name"}, time.Minute, []string{named, "set tls.ca_file"}, nil},
		{"rediss://" + named, config.TLS{CAFile: ca}, time.Minute, []string{named, "set tls.server_name"}, nil},
		{"rediss://" + old, config.TLS{CAFile: expiredCA, ServerName: "other.name"}, time.Minute, []string{old, "not valid: renew it"}, nil},
	}
	for _, test := range tests {
		conn, err := Dial(t.Context(), resolve(t, config.Server{URL: config.Secret(test.url), TLS: test.tls}), test.timeout)
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: no error", test.url)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s", test.url, err, want)
			}
		}
		if test.is != nil && !errors.Is(err, test.is) || strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %#v", test.url, err)
		}
	}
}

// TestDialEndsWithContext ends the context in the middle of a handshake.
func TestDialEndsWithContext(t *testing.T) {
	stop := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	address := listen(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		cancel(stop)
		_, _ = io.Copy(io.Discard, conn)
	})
	_, err := Dial(ctx, resolve(t, config.Server{URL: config.Secret("rediss://" + address)}), time.Minute)
	if !errors.Is(err, stop) || !strings.Contains(err.Error(), address) {
		t.Errorf("got %v", err)
	}
}
