package proxy

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/router"
	"golang.org/x/sys/unix"
)

// through connects to one of the proxy's addresses.
func (w *world) through(i int) *raw {
	w.t.Helper()
	addr := w.proxy.Addrs()[i]
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return &raw{t: w.t, conn: conn}
}

func TestSeveralAddresses(t *testing.T) {
	socket := t.TempDir() + "/s"
	addresses := []Listen{
		{Network: "tcp", Address: "127.0.0.1:0"},
		{Network: "tcp", Address: "[::1]:0"},
		{Network: "unix", Address: socket, Mode: 0o640},
	}
	w := newWorld(t, func(c *Config) { c.Listen = addresses })
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	var clients []*raw
	for i := range addresses {
		c := w.through(i)
		c.want("INCR n", []string{":1\r\n", ":2\r\n", ":3\r\n"}[i])
		clients = append(clients, c)
	}
	w.do(router.Target, 0, "SET", "n", 10)
	w.switchTo(router.Target)
	for i, c := range clients {
		c.want("INCR n", []string{":11\r\n", ":12\r\n", ":13\r\n"}[i])
	}
}

// TestListenTellsAllProblems takes none of its addresses when one is not to be had.
func TestListenTellsAllProblems(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	socket := t.TempDir() + "/s"
	dial := newWorld(t).proxy.cfg.Upstreams
	cfg := Config{Upstreams: dial, Listen: []Listen{
		{Network: "unix", Address: socket},
		{Network: "tcp", Address: taken.Addr().String()},
		{Network: "unix", Address: t.TempDir() + "/none/s"},
	}}
	s, err := New(cfg, router.NewGate(router.Route{}), &heard{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	err = s.Listen()
	if err == nil || !strings.Contains(err.Error(), "listening on "+taken.Addr().String()+": ") || !strings.Contains(err.Error(), "/none/s: ") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(socket); err == nil || s.Addr() != nil {
		t.Errorf("the socket that could be opened is still there: %v", err)
	}
}

// TestBusySocketIsNotStale: who listens there and has no time for us is there.
func TestBusySocketIsNotStale(t *testing.T) {
	path := t.TempDir() + "/s"
	listening, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	addr := &unix.SockaddrUnix{Name: path}
	if err := errors.Join(unix.Bind(listening, addr), unix.Listen(listening, 0)); err != nil {
		t.Fatal(err)
	}
	for full := false; !full; {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		full = errors.Is(unix.Connect(fd, addr), unix.EAGAIN)
	}
	removeStale(path)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket of another is gone: %v", err)
	}
	_ = unix.Close(listening)
	removeStale(path)
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket that nobody listens on is still there")
	}
}
