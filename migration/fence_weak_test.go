package migration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/sync/conn"
)

// minReplicas returns the two settings that F2 changes.
func minReplicas(t *testing.T, c *redis.Client) [2]string {
	t.Helper()
	got, err := c.ConfigGet(t.Context(), "min-replicas-*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return [2]string{got["min-replicas-to-write"], got["min-replicas-max-lag"]}
}

// F2 is for servers on which nobody may touch the ACL: all are the default user.
func plainFence(t *testing.T, s *redistest.Server) fence {
	t.Helper()
	return fence{pool: poolOf(t, s, "", "")}
}

func TestFenceReplicasRefusesEveryWriteAndPutsBack(t *testing.T) {
	s := redistest.Start(t, redistest.WithConfig("min-replicas-max-lag", "37"))
	f, app := plainFence(t, s), s.Client(0)
	do(t, app, "SET", "k", "before")
	queued := app.Conn()
	t.Cleanup(func() { _ = queued.Close() })
	for _, cmd := range [][]any{{"MULTI"}, {"SET", "k", "queued"}} {
		if err := queued.Do(t.Context(), cmd...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	st, err := f.save(t.Context(), FenceReplicas)
	if err != nil {
		t.Fatal(err)
	}
	if st.MinReplicas != "0" || st.MaxLag != "37" {
		t.Errorf("saved: %+v", st)
	}
	if err := f.arm(t.Context(), testToken); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context(), st); !errors.Is(err, errFenceLost) {
		t.Errorf("check before raise: %v", err)
	}
	if err := f.pause(t.Context(), f.db(), time.Minute); err != nil {
		t.Fatal(err)
	}
	waiting := stalled(t, s, "SET k stalled\r\n")
	redistest.Eventually(t, testTimeout, func() bool {
		return strings.Contains(f.db().Info(t.Context(), "clients").Val(), "blocked_clients:1")
	}, "the writer is stalled")
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	if got := waiting.next(); !strings.HasPrefix(got, "-NOREPLICAS") {
		t.Errorf("the stalled write: %q", got)
	}
	if err := f.check(t.Context(), st); err != nil {
		t.Errorf("check: %v", err)
	}
	for lag, want := range map[string]error{"0": errFenceLost, "10": nil} { // 0 switches the rule off
		do(t, app, "CONFIG", "SET", "min-replicas-max-lag", lag)
		if err := f.check(t.Context(), st); !errors.Is(err, want) {
			t.Errorf("check with a lag of %s: %v", lag, err)
		}
	}
	do(t, app, "CONFIG", "SET", "min-replicas-max-lag", "10")
	wantRefusal(t, "EXEC", queued.Do(t.Context(), "EXEC").Err(), "NOREPLICAS", "EXECABORT")
	wantRefusal(t, "SET", app.Set(t.Context(), "k", "x", 0).Err(), "NOREPLICAS")
	wantRefusal(t, "a script that writes", app.Eval(t.Context(), "return redis.call('SET', KEYS[1], 'x')", []string{"k"}).Err(), "NOREPLICAS", "ERR")
	if v := do(t, app, "GET", "k"); v != "before" {
		t.Errorf("k is %v", v)
	}
	for range 2 {
		if err := f.lower(t.Context(), st); err != nil {
			t.Fatal(err)
		}
		if got := minReplicas(t, app); got != [2]string{"0", "37"} {
			t.Errorf("put back: %v", got)
		}
	}
	do(t, app, "SET", "k", "after")
}

// Under F2 the server refuses the coordinator's own SET as well, and there is
// no way around it inside a transaction: the SET is refused when it is queued,
// before the CONFIG SET in front of it has run. Lifting the fence first, in a
// command of its own, would let others write. So under F2 the journal is kept on
// the entered server and in the state file (PROTOCOL §3.10 wants it on the
// server that is left, which only F3 allows).
func TestFenceReplicasRefusesTheJournalToo(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := raised(t, s, FenceReplicas)
	err := store.Save(t.Context(), f.db(), store.JournalKey, store.Entry{ID: "a", Token: testToken, Data: []byte("{}")})
	if !errorPrefix(err, "NOREPLICAS", "EXECABORT") || !certain(err) {
		t.Errorf("saving the journal: %v, certain: %v", err, certain(err))
	}
	wantRefusal(t, "our own SET", f.db().Set(t.Context(), store.JournalKey, "x", 0).Err(), "NOREPLICAS")
	cn := f.db().Conn()
	t.Cleanup(func() { _ = cn.Close() })
	if err := cn.Do(t.Context(), "MULTI").Err(); err != nil {
		t.Fatal(err)
	}
	if err := cn.Do(t.Context(), "CONFIG", "SET", "min-replicas-to-write", "0").Err(); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "SET after CONFIG SET in MULTI", cn.Do(t.Context(), "SET", store.JournalKey, "x").Err(), "NOREPLICAS")
	wantRefusal(t, "EXEC", cn.Do(t.Context(), "EXEC").Err(), "EXECABORT")
	if got := minReplicas(t, f.db()); got != [2]string{maxInt32, "10"} {
		t.Errorf("the fence is open: %v", got)
	}
	if n := do(t, f.db(), "EXISTS", store.JournalKey); n != int64(0) {
		t.Error("the journal is there")
	}
	if err := f.lower(t.Context(), st); err != nil {
		t.Fatal(err)
	}
}

// F1 and F0 stop nobody who connects again, but end every connection that is
// there: only ours stay.
func TestFenceKillsOthersConnections(t *testing.T) {
	for _, level := range []FenceLevel{FenceKey, FenceNone} {
		t.Run(string(level), func(t *testing.T) {
			s := redistest.Start(t, redistest.WithACL(ownACL, "app on >pw ~* &* +@all"))
			f, st := armed(t, s, level)
			named := conn.New(endpointOf(s, "", ""), "mirror", testTimeout) // ours, by name only
			t.Cleanup(func() { _ = named.Close() })
			type id struct {
				what string
				cn   *redis.Conn
				n    int64
				stay bool
			}
			conns := []id{
				{what: "app", cn: s.ClientAs("app", "pw", 2).Conn()},
				{what: "default", cn: s.Client(0).Conn()},
				{what: "our user", cn: s.ClientAs(OwnUser, ownPassword, 0).Conn(), stay: true},
				{what: "our name", cn: named.DB(0).Conn(), stay: true},
			}
			for i := range conns {
				var err error
				if conns[i].n, err = conns[i].cn.ClientID(t.Context()).Result(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conns[i].cn.Close() })
			}
			if err := f.raise(t.Context(), st, testToken); err != nil {
				t.Fatal(err)
			}
			if err := f.check(t.Context(), st); err != nil {
				t.Errorf("check: %v", err)
			}
			list := f.db().ClientList(t.Context()).Val()
			for _, c := range conns {
				there := false
				for l := range strings.Lines(list) {
					there = there || strings.HasPrefix(l, "id="+itoa(c.n)+" ")
				}
				if there != c.stay {
					t.Errorf("the connection of %s is there: %v, want %v", c.what, there, c.stay)
				}
			}
			if err := f.lower(t.Context(), st); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFenceKillSparesReplicas(t *testing.T) {
	s := redistest.Start(t, redistest.WithConfig("repl-diskless-sync-delay", "0"))
	replica := redistest.Start(t, redistest.WithConfig("replicaof", "127.0.0.1", itoa(int64(s.Port()))))
	f := plainFence(t, s)
	redistest.Eventually(t, 20*time.Second, func() bool {
		return strings.Contains(replica.Client(0).Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, "the replica is in step")
	ids, err := applicationClients(t.Context(), f.db(), "", nil)
	if err != nil || len(ids) != 0 {
		t.Errorf("replica and we are taken for applications: %v, %v", ids, err)
	}
	s.Client(0).Ping(t.Context())
	if ids, err = applicationClients(t.Context(), f.db(), "", nil); err != nil || len(ids) != 1 {
		t.Errorf("one application is there: %v, %v", ids, err)
	}
}

func TestFenceErrorsNameTheServer(t *testing.T) {
	s := redistest.Start(t)
	f := plainFence(t, s)
	s.Kill()
	st := &FenceState{Level: FenceReplicas, MinReplicas: "0", MaxLag: "10"}
	_, saveErr := f.save(t.Context(), FenceACL)
	for what, err := range map[string]error{
		"save": saveErr, "arm": f.arm(t.Context(), 1), "raise": f.raise(t.Context(), st, 1), "check": f.check(t.Context(), st),
		"lower": f.lower(t.Context(), st), "pause": f.pause(t.Context(), f.db(), time.Second), "unpause": f.unpause(t.Context()), "kill": f.killOthers(t.Context()),
	} {
		if err == nil || !strings.Contains(err.Error(), s.Addr()) || errors.Is(err, errFenceLost) || errors.Is(err, store.ErrSuperseded) {
			t.Errorf("%s without a server: %v", what, err)
		}
	}
}

// oldServer makes CLIENT UNPAUSE answer inside EXEC what servers before 6.2 do.
type oldServer struct{}

func (oldServer) DialHook(next redis.DialHook) redis.DialHook { return next }

func (oldServer) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (oldServer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, c := range cmds {
			if args := c.Args(); len(args) == 2 && args[1] == "UNPAUSE" {
				err := next(ctx, slices.DeleteFunc(slices.Clone(cmds), func(o redis.Cmder) bool { return o == c }))
				c.SetErr(errors.New("ERR Unknown subcommand or wrong number of arguments for 'UNPAUSE'. Try CLIENT HELP"))
				return errors.Join(err, c.Err())
			}
		}
		return next(ctx, cmds)
	}
}

// Before 6.2 there is neither CLIENT UNPAUSE nor a pause of writers only: the
// fence is raised and lowered all the same, and does not call itself broken.
func TestFenceWithoutUnpause(t *testing.T) {
	for _, level := range []FenceLevel{FenceACL, FenceReplicas} {
		s := redistest.Start(t, redistest.WithACL(ownACL))
		f, st := armed(t, s, level)
		f.db().AddHook(oldServer{})
		if err := f.raise(t.Context(), st, testToken); err != nil {
			t.Errorf("raising %s: %v", level, err)
		}
		if err := f.check(t.Context(), st); err != nil {
			t.Errorf("%s is not up: %v", level, err)
		}
		if err := f.lower(t.Context(), st); err != nil {
			t.Errorf("lowering %s: %v", level, err)
		}
	}
}

func TestMajorVersion(t *testing.T) {
	for info, want := range map[string]int{
		"": 0,
		"# Server\r\nredis_version:7.0.15\r\nx:1\r\n": 7,
		"redis_version:6.2.14\r\n":                    6,
		"redis_version:255.255.255\r\n":               255,
		"redis_version:7.2.4\r\nvalkey_version:8.1.0": 7,
		"xredis_version:9.0\r\n":                      0,
	} {
		if got := majorVersion(info); got != want {
			t.Errorf("majorVersion(%q) = %d, want %d", info, got, want)
		}
	}
}

// Where all connections have one address, as at a unix socket, a fence spares those of the
// proxy by their ids.
func TestFenceKillSparesByID(t *testing.T) {
	s := redistest.Start(t, redistest.WithUnixSocket())
	f := plainFence(t, s)
	var ids [2]int64
	for i := range ids {
		c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.SocketPath(), PoolSize: 1, Protocol: 2, DisableIdentity: true})
		t.Cleanup(func() { _ = c.Close() })
		var err error
		if ids[i], err = c.ClientID(t.Context()).Result(); err != nil {
			t.Fatal(err)
		}
	}
	killed, err := applicationClients(t.Context(), f.db(), "", map[string]struct{}{"id=" + itoa(ids[0]): {}})
	if err != nil || !slices.Equal(killed, []string{itoa(ids[1])}) {
		t.Errorf("of %v these are not spared: %v, %v", ids, killed, err)
	}
}
