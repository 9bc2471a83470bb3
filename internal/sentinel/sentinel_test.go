package sentinel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	// Told of a server that is gone, a client of go-redis dials until it answers, and
	// sees that it was closed a second later.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

const patience = 5 * time.Second

// follow returns an endpoint of the configuration and its follower.
func follow(t *testing.T, s config.Server) (config.Endpoint, *Follower) {
	t.Helper()
	e, err := s.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	e, f := Follow(e, patience, slog.New(slog.DiscardHandler))
	t.Cleanup(f.Close)
	return e, f
}

func server(url string) config.Server { return config.Server{URL: config.Secret(url)} }

// run runs f until the test ends.
func run(t *testing.T, f *Follower) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// mustReach dials and returns the connection, which must lead to the server at addr.
func mustReach(t *testing.T, e config.Endpoint, addr string) net.Conn {
	t.Helper()
	conn, err := endpoint.Dial(t.Context(), e, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if got := conn.RemoteAddr().String(); got != addr {
		t.Fatalf("the connection leads to %s, want %s", got, addr)
	}
	return conn
}

// mustEnd waits until a connection is closed by somebody.
func mustEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := conn.Read(make([]byte, 64)); err != nil {
				return
			}
		}
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("the connection to %s is still open", conn.RemoteAddr())
	}
}

// mustFail dials and returns the error's text, which must hold all of want.
func mustFail(t *testing.T, e config.Endpoint, want ...string) {
	t.Helper()
	conn, err := endpoint.Dial(t.Context(), e, patience)
	if err == nil {
		_ = conn.Close()
		t.Fatalf("connected to %s", conn.RemoteAddr())
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v\nwant: %s", err, text)
		}
	}
	if strings.Contains(err.Error(), "hidden") {
		t.Errorf("a secret is shown: %v", err)
	}
}

// TestLookup: the master is found, by each of the sentinels and with their own password;
// what is wrong is said.
func TestLookup(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, redistest.GroupConfig{Name: "my-master.1", SentinelPassword: "s-hidden"}, redistest.WithPassword("hidden"))
	master := g.Master().Addr()
	with := func(url, password string) config.Endpoint {
		s := server(url)
		s.Sentinel.Password = config.Secret(password)
		e, _ := follow(t, s)
		return e
	}
	e := with(g.URL(), "s-hidden")
	mustReach(t, e, master)
	if text := e.String(); strings.Contains(text, "hidden") || !strings.HasSuffix(text, "/my-master.1") {
		t.Errorf("the endpoint is shown as %s", text)
	}
	if _, at := e.Where(); at != master {
		t.Errorf("it is at %q, want %s", at, master)
	}
	one := "redis+sentinel://:hidden@" + g.Sentinels[2].Addr()
	mustReach(t, with(one+"/my-master.1", "s-hidden"), master)

	mustFail(t, with(one+"/other", "s-hidden"), `it watches no master "other", but my-master.1`)
	mustFail(t, with(one+"/my-master.1", ""), "NOAUTH", "sentinel.password")
	mustFail(t, with(one+"/my-master.1", "wrong-hidden"), "WRONGPASS", "sentinel.password")
	mustFail(t, with("redis+sentinel://:hidden@"+master+"/my-master.1", "hidden"), "it is no sentinel")
	mustFail(t, with("redis+sentinel://:wrong-hidden@"+g.Sentinels[0].Addr()+"/my-master.1", "s-hidden"), "WRONGPASS", master)

	bare := e
	bare.Finder = nil
	mustFail(t, bare, "nobody was told")
}

// TestFailover: the follower notices a failover by itself. It closes what was connected
// to the old master, says so, and what is dialled then leads to the new one.
func TestFailover(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"planned", "unplanned"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			g := redistest.StartGroup(t, redistest.GroupConfig{})
			old := g.Master().Addr()
			e, f := follow(t, server(g.URL()))
			var mu sync.Mutex
			var moves [][2]string
			f.OnMove(func(from, to string) {
				mu.Lock()
				moves = append(moves, [2]string{from, to})
				mu.Unlock()
			})
			conn := mustReach(t, e, old)
			run(t, f)
			var now *redistest.Server
			if kind == "planned" {
				_, now = g.Failover()
			} else {
				_, now = g.KillMaster()
			}
			mustEnd(t, conn)
			redistest.Eventually(t, 20*time.Second, func() bool { return f.Present() == now.Addr() }, "the new master is known")
			mustReach(t, e, now.Addr())
			mu.Lock()
			defer mu.Unlock()
			if len(moves) != 3 || moves[0] != [2]string{"", old} || moves[1] != [2]string{old, ""} || moves[2] != [2]string{"", now.Addr()} {
				t.Errorf("told of %v, want %s and then %s", moves, old, now.Addr())
			}
		})
	}
}

// TestStaleMaster: nobody follows the sentinels, and what is known is old. A connection to
// the old master is not handed out, whether that has become a replica or is gone.
func TestStaleMaster(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, redistest.GroupConfig{Replicas: 2})
	e, _ := follow(t, server(g.URL()))
	conn := mustReach(t, e, g.Master().Addr())
	old, now := g.Failover()
	redistest.Eventually(t, 20*time.Second, func() bool {
		role, err := old.Client(0).Do(t.Context(), "ROLE").Slice()
		return err == nil && role[0] == "slave"
	}, "the old master is a replica")
	mustReach(t, e, now.Addr())
	mustEnd(t, conn)
	_, last := g.KillMaster()
	mustReach(t, e, last.Addr())
}

// TestDemotedMaster: a master that was made a replica by hand, which the sentinels do not
// know of yet, is refused, and connections to it are closed.
func TestDemotedMaster(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, redistest.GroupConfig{DownAfter: time.Minute})
	e, f := follow(t, server(g.URL()))
	master := g.Master()
	conn := mustReach(t, e, master.Addr())
	other := redistest.Start(t)
	c := master.Client(0)
	if err := c.Do(t.Context(), "REPLICAOF", "127.0.0.1", other.Port()).Err(); err != nil {
		t.Fatal(err)
	}
	mustFail(t, e, "it says that it is no master but a replica of "+other.Addr())
	mustEnd(t, conn)
	if f.Present() != "" {
		t.Errorf("the master is still %s", f.Present())
	}
	if err := c.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	mustReach(t, e, master.Addr())
}

// TestDeadSentinels: one that is left is enough to find the master, and none is needed to
// go on with one that is known.
func TestDeadSentinels(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, redistest.GroupConfig{})
	known, _ := follow(t, server(g.URL()))
	master := g.Master().Addr()
	mustReach(t, known, master)
	g.Sentinels[0].Kill()
	g.Sentinels[1].Kill()
	left, _ := follow(t, server(g.URL()))
	mustReach(t, left, master)
	g.Sentinels[2].Kill()
	known.Finder.Doubt(master)
	mustReach(t, known, master)
	unknown, _ := follow(t, server(g.URL()))
	mustFail(t, unknown, `no sentinel says where the master "main" is`, g.Sentinels[0].Addr(), g.Sentinels[1].Addr(), g.Sentinels[2].Addr(), "connection refused")
}

// TestMasterMayNotBeAsked: a user who may not ask for the role is told by HELLO, which
// nobody is refused.
func TestMasterMayNotBeAsked(t *testing.T) {
	t.Parallel()
	low := redistest.WithACL("low on >pw -@all")
	s := redistest.Start(t, low)
	replica := redistest.Start(t, low, redistest.WithConfig("replicaof", "127.0.0.1", strconv.Itoa(s.Port())))
	ask := func(s *redistest.Server) error {
		o := redistest.Options(s.Addr(), 0)
		o.Username, o.Password, o.Protocol = "low", "pw", 2
		c := redis.NewClient(o)
		defer func() { _ = c.Close() }()
		return isMaster(t.Context(), c)
	}
	if err := ask(s); err != nil {
		t.Errorf("a master: %v", err)
	}
	if err := ask(replica); !errors.As(err, new(demoted)) {
		t.Errorf("a replica: %v", err)
	}
}

// TestViews: what is shown to an operator.
func TestViews(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, redistest.GroupConfig{})
	_, f := follow(t, server(g.URL()))
	g.Sentinels[1].Kill()
	views := f.Views(t.Context())
	for i, v := range views {
		if dead := i == 1; v.Sentinel != g.Sentinels[i].Addr() || (v.Err != nil) != dead || !dead && (v.Master != g.Master().Addr() || len(v.Others) != 2) {
			t.Errorf("sentinel %d: %+v", i, v)
		}
	}
	g.Sentinels[2].Kill()
	redistest.Eventually(t, 20*time.Second, func() bool { return f.Views(t.Context())[0].NoQuorum != nil }, "one alone has no quorum")
}

func TestFollowsOnlySentinels(t *testing.T) {
	e, err := server("redis://127.0.0.1:1").Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	if same, f := Follow(e, patience, slog.New(slog.DiscardHandler)); f != nil || same.Finder != nil {
		t.Errorf("%v is followed", e)
	}
}
