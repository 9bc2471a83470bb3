package main

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestNotify: who started the process is told when clients are served, and when it stops.
func TestNotify(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	dir := shortDir(t)
	socket := filepath.Join(dir, "notify.sock")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	hear := func(want string) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		text := make([]byte, 100)
		if n, err := c.Read(text); err != nil || string(text[:n]) != want {
			t.Fatalf("it was told %q, %v: want %q", text[:n], err, want)
		}
	}
	cf := launchWith(t, dir, []string{"NOTIFY_SOCKET=" + socket}, "run", "--listen", "unix:clients.sock", "--source", url(source), "--target", url(target),
		"--cutover.postpone_file", "/tmp/none/crossfade.postpone")
	hear("READY=1")
	redistest.Eventually(t, 10*time.Second, func() bool {
		said := cf.stderr.String()
		return strings.Contains(said, "PrivateTmp") && strings.Contains(said, "/tmp/none/crossfade.postpone")
	}, "telling that the service may not see the file")
	clientOf(t, dir).do("PING")
	if err := cf.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	<-cf.ended
	if code := cf.ProcessState.ExitCode(); code != 143 {
		t.Errorf("exit status %d", code)
	}
	// Nobody there, or nobody who wants to know, is no reason not to serve.
	_ = c.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	if err := notify("READY=1"); err == nil {
		t.Error("nobody has heard it, and nothing is said")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notify("READY=1"); err != nil {
		t.Errorf("without a socket: %v", err)
	}
}

// TestMayBeHidden: only a service has a folder for temporary files of its own.
func TestMayBeHidden(t *testing.T) {
	t.Chdir("/tmp")
	for socket, hides := range map[string]bool{"/run/systemd/notify": true, "": false} {
		t.Setenv("NOTIFY_SOCKET", socket)
		for file, want := range map[string]bool{
			"/tmp/a": true, "/var/tmp/b/a": true, "/run/../tmp/a": true, "a": true,
			"": false, "/tmpa": false, "/etc/crossfade/a": false, "/run/crossfade/a": false, "/tmp/../run/a": false,
		} {
			if got := mayBeHidden(file); got != (want && hides) {
				t.Errorf("%q with the socket %q: %t", file, socket, got)
			}
		}
	}
}
