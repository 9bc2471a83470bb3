package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// replicated gives the source a replica, and waits until it follows.
func (w *world) replicated() *redistest.Server {
	w.t.Helper()
	w.do(router.Source, 0, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	replica := redistest.Start(w.t)
	rc := replica.Client(0)
	if err := rc.ReplicaOf(context.Background(), "127.0.0.1", fmt.Sprint(w.source.Port())).Err(); err != nil {
		w.t.Fatal(err)
	}
	until(w.t, "the replica follows", func() bool {
		return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "replication")), "state=online")
	})
	return replica
}

// TestWaitIsForTheWritesBefore has clients write on a shared connection and WAIT,
// which is for the writes of the connection that it comes on.
func TestWaitIsForTheWritesBefore(t *testing.T) {
	w := newWorld(t)
	replica := w.replicated()
	if v := version(t, w.source); !older(v, 6, 2) {
		w.do(router.Source, 0, "ACL", "SETUSER", "nochannel", "on", ">p", "allkeys", "resetchannels", "+@all")
		w.do(router.Source, 0, "ACL", "SETUSER", "nokey", "on", ">p", "~a", "resetchannels", "+@all")
	}
	for _, user := range []string{"", "nochannel", "nokey"} {
		t.Run("user "+user, func(t *testing.T) {
			w.t = t
			for range 3 {
				c := w.client()
				if user != "" {
					c.want("AUTH "+user+" p", ok)
				}
				c.want("SET a 1", ok)
				if user == "" || *upstreams == "shared" {
					w.shares() // with a user, nothing but the first writes
				}
				// What comes before has arrived, so that it cannot be waited for.
				before := dialRaw(t, w.source.Addr())
				before.want("SET b 1", ok)
				before.want("WAIT 1 5000", ":1\r\n")
				before.close()
				if err := replica.Stop(); err != nil {
					t.Fatal(err)
				}
				c.want("SET a 2", ok)
				first := c.do("WAIT 1 50")
				if want := "-" + noClaim + "\r\n"; user == "nokey" && first == want {
					if *upstreams != "shared" || older(version(t, w.source), 7, 2) {
						t.Errorf("WAIT is refused where it need not be")
					}
				} else if first != ":0\r\n" {
					t.Errorf("WAIT is answered with %q while the replica stands still", first)
				}
				if err := replica.Cont(); err != nil {
					t.Fatal(err)
				}
				if user != "nokey" {
					c.want("WAIT 1 5000", ":1\r\n")
				}
				c.close()
			}
		})
	}
	w.t = t
}

// older reports whether a version is below major.minor.
func older(version string, major, minor int) bool {
	var a, b int
	_, _ = fmt.Sscanf(version, "%d.%d", &a, &b)
	return a < major || a == major && b < minor
}

// TestWaitOfWhoMayNotPublish keeps a client where its next writes and its next WAIT
// are of one connection.
func TestWaitOfWhoMayNotPublish(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared = true })
	if older(version(t, w.source), 6, 2) {
		t.Skip("this server has no rights to channels")
	}
	w.do(router.Source, 0, "ACL", "SETUSER", "app", "on", ">p", "allkeys", "resetchannels", "+@all")
	c := w.client()
	c.want("AUTH app p", ok)
	c.want("WAIT 0 10", ":0\r\n")
	for deadline := time.Now().Add(3 * quietFor); time.Now().Before(deadline); {
		c.want("SET a 1", ok)
	}
	if n := len(w.proxy.snapshotSessions()); n != 1 {
		t.Errorf("%d clients have a session", n)
	}
}

// TestWaitKeepsAWatch has a client WAIT that may not publish, between its WATCH and its
// MULTI: what the proxy says for WAIT must not take the WATCH from it.
func TestWaitKeepsAWatch(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared = true })
	if older(version(t, w.source), 7, 2) {
		t.Skip("this server counts what was replicated before, whoever wrote it")
	}
	w.do(router.Source, 0, "ACL", "SETUSER", "nochannel", "on", ">p", "allkeys", "resetchannels", "+@all")
	w.do(router.Source, 0, "ACL", "SETUSER", "nokey", "on", ">p", "~k", "resetchannels", "+@all")
	for _, user := range []string{"nochannel", "nokey"} {
		t.Run("user "+user, func(t *testing.T) {
			w.t = t
			c, other := w.client(), w.client()
			c.want("AUTH "+user+" p", ok)
			c.want("SET k old", ok)
			for _, changed := range []bool{true, false} {
				c.want("WATCH k", ok)
				c.want("WAIT 0 10", "-"+noClaimWatching+"\r\n")
				want, value := "*1\r\n"+ok, "mine"
				if changed {
					other.want("SET k others", ok)
					c.want("WAIT 0 10", "-"+noClaimWatching+"\r\n")
					want, value = "*-1\r\n", "others"
				}
				c.want("MULTI", ok)
				c.want("SET k mine", "+QUEUED\r\n")
				c.want("EXEC", want)
				c.want("GET k", bulk(value))
			}
			after := ":0\r\n"
			if user == "nokey" {
				after = "-" + noClaim + "\r\n"
			}
			c.want("WAIT 0 10", after)
			c.want("WATCH k", ok)
			c.want("UNWATCH", ok)
			c.want("WAIT 0 10", after)
			c.close()
			other.close()
		})
	}
	w.t = t
}

// TestWaitInATransaction is for the client's writes before it, although those went on a
// shared connection, and leaves the transaction as it was.
func TestWaitInATransaction(t *testing.T) {
	w := newWorld(t)
	if older(version(t, w.source), 7, 2) {
		t.Skip("this server counts what was replicated before, whoever wrote it")
	}
	replica := w.replicated()
	c := w.client()
	try := func(want string) {
		t.Helper()
		c.want("MULTI", ok)
		c.want("INCR n", "+QUEUED\r\n")
		c.want("WAIT 1 0", "+QUEUED\r\n")
		c.want("GET a", "+QUEUED\r\n")
		if got := c.do("EXEC"); !strings.HasPrefix(got, "*3\r\n:") || !strings.HasSuffix(got, "\r\n:"+want+"\r\n$1\r\n2\r\n") {
			t.Errorf("EXEC is answered with %q, not %s replicas", got, want)
		}
	}
	c.want("SET a 1", ok)
	w.shares()
	if err := replica.Stop(); err != nil {
		t.Fatal(err)
	}
	c.want("SET a 2", ok)
	try("0")
	if err := replica.Cont(); err != nil {
		t.Fatal(err)
	}
	c.want("WAIT 1 5000", ":1\r\n")
	try("1")
	c.want("GET n", bulk("2"))
	if *upstreams != "shared" {
		return
	}
	c.want("WATCH a", ok)
	c.want("MULTI", ok)
	c.want("WAIT 1 0", "-"+noClaimWatched+"\r\n")
	if got := c.do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
		t.Errorf("EXEC is answered with %q", got)
	}
	c.want("GET n", bulk("2"))
}

// TestWaitaofIsForTheWritesBefore has a client ask whether what it has written on a shared
// connection is on the disk of a server that has no replicas, and writes there when it likes.
func TestWaitaofIsForTheWritesBefore(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, redistest.WithConfig("appendonly", "yes"), redistest.WithConfig("appendfsync", "no"))
		if older(version(t, source), 7, 2) {
			t.Skip("the server has no WAITAOF")
		}
		w := newWorldOn(t, source, redistest.Start(t), mode)
		w.do(router.Source, 0, "ACL", "SETUSER", "nokey", "on", ">p", "~a", "&*", "+@all")
		direct, c, limited := dialRaw(t, source.Addr()), w.client(), w.client()
		for _, line := range []string{"WAITAOF 1 0 20", "WAITAOF 0 0 0"} {
			for _, one := range []*raw{direct, c} {
				one.want("SET a 1", ok)
				one.want(line, "*2\r\n:0\r\n:0\r\n")
			}
		}
		limited.want("AUTH nokey p", ok)
		limited.want("SET a 2", ok)
		if got := limited.do("WAITAOF 1 0 20"); got != "*2\r\n:0\r\n:0\r\n" && got != "-"+noClaimOnDisk+"\r\n" {
			t.Errorf("without the right to the key: %q", got)
		}
		c.want("CONFIG SET appendfsync always", ok)
		c.want("SET a 3", ok)
		c.want("WAITAOF 1 0 5000", "*2\r\n:1\r\n:0\r\n")
	})
}
