package main

import (
	"bufio"
	"crypto/tls"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestIdentity cuts over and back with a client whom the servers know by different
// passwords, at a socket and with TLS.
func TestIdentity(t *testing.T) {
	source := redistest.Start(t, redistest.WithPassword("sesame"), redistest.WithACL("app on >s1 ~* &* +@all", "default on >sesame ~* &* +@all"))
	target := redistest.Start(t, redistest.WithACL("other on >t1 ~* &* +@all"))
	ca := redistest.NewAuthority(t, "authority")
	pair := ca.Issue("127.0.0.1")
	address := unused(t)
	cf := startSidecar(t, source, target, "--listen", "tls://"+address, "--proxy.tls.cert_file", pair.CertFile, "--proxy.tls.key_file", pair.KeyFile,
		"--proxy.credentials", `[{"user": "app", "password": "s1", "target_user": "other", "target_password": "t1"}]`)
	cf.awaitReady(t)
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: ca.Pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	early, late := &plainClient{t, conn, bufio.NewReader(conn)}, clientOf(t, cf.dir)
	early.do("AUTH", "app", "s1")
	early.do("INCR", "n")
	must(t, cf.dir, 0, "cutover")
	early.do("INCR", "n")
	late.do("AUTH", "app", "s1")
	if got := late.do("INCR", "n"); got != ":3\r\n" {
		t.Errorf("got %q", got)
	}
	if got := target.Client(0).Get(t.Context(), "n").Val(); got != "3" {
		t.Errorf("the target has %q", got)
	}
	must(t, cf.dir, 0, "rollback")
	early.do("INCR", "n")
	if got := late.do("INCR", "n"); got != ":5\r\n" {
		t.Errorf("got %q", got)
	}
}
