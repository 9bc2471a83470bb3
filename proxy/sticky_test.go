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

// shares waits until the client travels on shared connections again.
func (w *world) shares() {
	w.t.Helper()
	until(w.t, "no client has a session", func() bool { return len(w.proxy.snapshotSessions()) == 0 })
}

// TestWaitIsForTheWritesBefore has a client write on a shared connection and WAIT,
// which is for the writes of the connection that it comes on.
func TestWaitIsForTheWritesBefore(t *testing.T) {
	w := newWorld(t)
	w.do(router.Source, 0, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	replica := redistest.Start(t)
	rc := replica.Client(0)
	defer func() { _ = rc.Close() }()
	if err := rc.ReplicaOf(context.Background(), "127.0.0.1", fmt.Sprint(w.source.Port())).Err(); err != nil {
		t.Fatal(err)
	}
	c := w.client()
	until(t, "the replica follows", func() bool { return c.do("SET a 1") == "+OK\r\n" && c.do("WAIT 1 1000") == ":1\r\n" })
	for range 3 {
		w.shares()
		if err := replica.Stop(); err != nil {
			t.Fatal(err)
		}
		c.want("SET a 2", "+OK\r\n")
		c.want("WAIT 1 50", ":0\r\n")
		if err := replica.Cont(); err != nil {
			t.Fatal(err)
		}
		c.want("WAIT 1 5000", ":1\r\n")
	}
	if *upstreams == "shared" && !strings.Contains(rc.Info(context.Background(), "commandstats").Val(), "cmdstat_spublish") {
		t.Error("the connection that waits has replicated nothing: since Redis 7.2 it would not have waited")
	}
}

// TestWaitOfWhoMayNotPublish keeps a client where its next writes and its next WAIT
// are of one connection.
func TestWaitOfWhoMayNotPublish(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared = true })
	w.do(router.Source, 0, "ACL", "SETUSER", "app", "on", ">p", "allkeys", "resetchannels", "+@all")
	c := w.client()
	c.want("AUTH app p", "+OK\r\n")
	c.want("WAIT 0 10", ":0\r\n")
	for deadline := time.Now().Add(3 * quietFor); time.Now().Before(deadline); {
		c.want("SET a 1", "+OK\r\n")
	}
	if n := len(w.proxy.snapshotSessions()); n != 1 {
		t.Errorf("%d clients have a session", n)
	}
}

// TestConnectionWithAKnownIDIsKept has a client ask for its id: whoever it tells
// must be able to reach it by that.
func TestConnectionWithAKnownIDIsKept(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.want("SET a 1", "+OK\r\n")
	id := c.do("CLIENT ID")
	other := w.client()
	for deadline := time.Now().Add(3 * quietFor); time.Now().Before(deadline); {
		other.want("GET a", bulk("1"))
	}
	c.want("GET a", bulk("1"))
	c.want("CLIENT ID", id)
	c.send("BLPOP q 0")
	until(t, "BLPOP blocks", func() bool {
		return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "CLIENT", "LIST")), "cmd=blpop")
	})
	other.want("CLIENT UNBLOCK "+strings.Trim(id, ":\r\n"), ":1\r\n")
	c.expect("*-1\r\n")
}

// TestPooledConnectionLetsNobodyIn sets a password while there are connections
// from before it: who comes later must not get in by one of those, but who was let
// in before still is.
func TestPooledConnectionLetsNobodyIn(t *testing.T) {
	w := newWorld(t)
	const line, refused = "EVAL \"return redis.call('get', 'a')\" 0", "-NOAUTH Authentication required.\r\n"
	before, alone := w.client(), w.client()
	before.want("SET a 1", ok)
	before.want(line, bulk("1"))
	alone.want(line, bulk("1"))
	w.shares()
	w.do(router.Source, 0, "CONFIG", "SET", "requirepass", "p")
	for _, c := range []*raw{before, alone} {
		w.client().want(line, refused)
		c.want(line, bulk("1"))
		w.shares()
		c.want("GET a", bulk("1"))
		w.client().want(line, refused)
		if *upstreams == "shared" {
			until(t, "the connection is in the pool", func() bool { return w.pooled() > 0 })
		}
	}
	after := w.client()
	after.want(line, refused)
	after.want("AUTH p", ok)
	after.want(line, bulk("1"))
	after.want("RESET", "+RESET\r\n")
	after.want(line, refused)
}

// pooled returns how many connections wait to be used again.
func (w *world) pooled() (n int) {
	p := &w.proxy.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.links {
		n += len(list)
	}
	return n
}

// TestNewClientNeedsThePasswordOfNow sets a password while an unauthenticated
// connection is shared: who comes later must not get in by it.
func TestNewClientNeedsThePasswordOfNow(t *testing.T) {
	w := newWorld(t)
	before := w.client()
	before.want("SET a 1", "+OK\r\n")
	w.do(router.Source, 0, "CONFIG", "SET", "requirepass", "p")
	until(t, "new clients are asked for the password", func() bool {
		c := w.client()
		defer c.close()
		return c.do("GET a") == "-NOAUTH Authentication required.\r\n"
	})
	before.want("GET a", bulk("1"))
	after := w.client()
	after.want("GET a", "-NOAUTH Authentication required.\r\n")
	after.want("AUTH p", "+OK\r\n")
	after.want("GET a", bulk("1"))
	admin := w.client()
	admin.want("AUTH p", "+OK\r\n")
	admin.want("CONFIG SET requirepass \"\"", "+OK\r\n")
	until(t, "new clients get in without", func() bool {
		c := w.client()
		defer c.close()
		return c.do("GET a") == bulk("1")
	})
}

// TestFullServerLetsNobodyInUnproved has a server that has been given a password and
// has no room to say so.
func TestFullServerLetsNobodyInUnproved(t *testing.T) {
	w := newWorld(t)
	before := w.client()
	before.want("SET a 1", ok)
	admin := dialRaw(t, w.source.Addr())
	admin.want("CONFIG SET requirepass p", ok)
	admin.want("CONFIG SET maxclients 1", ok)
	until(t, "new clients are not let in", func() bool {
		c := w.client()
		defer c.close()
		return c.do("GET a") == "-ERR max number of clients reached\r\n"
	})
	before.want("GET a", bulk("1"))
}

// TestWhoWasLetInIsNotProvedAnew has a client come back from a connection of its own
// while the server has no room for another one, and wants a password by now.
func TestWhoWasLetInIsNotProvedAnew(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.want("SET a 1", ok)
	c.want("SELECT 0", ok)
	admin := dialRaw(t, w.source.Addr())
	admin.want("CONFIG SET requirepass p", ok)
	w.shares()
	w.proxy.pool.distrust(router.Source)
	admin.want("CONFIG SET maxclients 1", ok)
	c.want("GET a", bulk("1"))
}
