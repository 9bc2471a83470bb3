package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
)

// TestMatrix moves live data of every kind between every two of the servers named
// in CROSSFADE_SERVERS, the usual one among them, and back. Where none is named the
// usual one is moved to itself, once with RESTORE and once without.
func TestMatrix(t *testing.T) {
	others, err := redistest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	all := append([]redistest.Program{{Name: "usual"}}, others...)
	for _, from := range all {
		for _, to := range all {
			if from == to && len(all) > 1 {
				continue
			}
			t.Run(from.Name+" to "+to.Name, func(t *testing.T) { t.Parallel(); moveThereAndBack(t, from, to) })
		}
	}
	t.Run("without RESTORE", func(t *testing.T) {
		if testing.Short() {
			t.Skip("by type, the race detector's pace is below the writers'")
		}
		t.Parallel()
		moveThereAndBack(t, all[0], all[0], redistest.WithRenamed("restore", ""))
	})
}

// moveThereAndBack makes a cutover and a rollback while everything changes. The
// options are both servers'.
func moveThereAndBack(t *testing.T, from, to redistest.Program, opts ...redistest.Option) {
	opts = append(opts, redistest.WithACL(replicator+" on >"+password+" +psync +replconf +ping"),
		redistest.WithConfig("repl-diskless-sync-delay", "0"))
	start := func(p redistest.Program) *redistest.Server {
		if p.Path != "" {
			return redistest.Start(t, append(opts, redistest.WithBinary(p.Path))...)
		}
		return redistest.Start(t, opts...)
	}
	src, dst := start(from), start(to)
	denies := map[*redistest.Server]bool{src: hasSelectors(t, src), dst: hasSelectors(t, dst)}
	const mapped = "0=0,3=5"
	ctx := t.Context()
	far := time.Now().Add(3 * time.Hour).UnixMilli()
	able := abilities(ctx, src.Client(0), dst.Client(0))
	for _, db := range []int{0, 3} {
		plantZoo(t, src.Client(db), able, far)
	}
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: mapped})
	c.start("")
	cfg := history.Config{Addr: c.addr, Databases: []int{0, 3}, Writers: 2, Prefix: "app", MaxRate: 200, Protocol: 2}
	c.await("clients are served", func(migration.Status) bool { return src.Client(0).Ping(ctx).Err() == nil })
	through := startLoad(t, cfg)
	z := &zookeepers{tb: t, addr: c.addr, able: able, far: far}
	z.begin()
	c.awaitReady()

	equal := func(when string) {
		t.Helper()
		z.end()
		if err := through.end(); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		// Redis 6.0 does not tell its replicas of consumers that have no entries: what is
		// copied while a replica looks is seen by the next one.
		alike := func(patience time.Duration) error {
			left, closeLeft := look(t, src, from)
			right, closeRight := look(t, dst, to)
			defer closeRight()
			defer closeLeft()
			return errors.Join(redistest.Within(patience, func() error { return picturesDiffer(ctx, left(0), right(0)) }),
				redistest.Within(patience, func() error { return picturesDiffer(ctx, left(3), right(5)) }))
		}
		redistest.Eventually(t, time.Minute, func() error { return alike(10 * time.Second) }, "the databases are equal %s", when)
	}
	equal("after the copy")
	at, mapDB := src, func(db int) int { return db }
	for i, turn := range []func() (migration.Report, error){c.cutover, c.rollback} {
		z.begin()
		through.begin()
		c.awaitReady()
		left := at
		r, err := turn()
		if err != nil {
			t.Fatalf("switch %d: %v", i, err)
		}
		t.Logf("%s→%s: held %.1f ms", r.From, r.To, r.Held)
		if at, mapDB = dst, mapping(mapped); i == 1 {
			at, mapDB = src, func(db int) int { return db }
		}
		if !denies[left] {
			t.Log("the server that was left can only be fenced against ourselves too (F2): it has no more than it had")
			break
		}
		c.awaitReady()
		equal(fmt.Sprintf("after switch %d", i))
	}
	z.end()
	t.Logf("%d changes of the zoo", z.changes)
	through.mustHold(t, at.Addr(), mapDB)
}

// hasSelectors reports whether a server has what the ACL fence needs.
func hasSelectors(tb testing.TB, s *redistest.Server) bool {
	tb.Helper()
	info := must[string](tb)(s.Client(0).Info(context.Background(), "server").Result())
	_, v, _ := strings.Cut(info, "redis_version:")
	major, _, _ := strings.Cut(v, ".")
	n := must[int](tb)(strconv.Atoi(major))
	return n >= 7 // Valkey says 7.2 here
}

// replicator is a user who may replicate and nothing else: no fence concerns it.
const replicator, password = "replicator", "secret"

// look returns a client of a new replica, since nobody is let in where the fence is. It
// announces an address at which nobody listens, or it would soon be fenced as well.
// It speaks RESP2, in which all servers answer alike. The replica ends with close.
func look(tb testing.TB, s *redistest.Server, p redistest.Program) (client func(db int) *redis.Client, closeAll func()) {
	tb.Helper()
	opts := []redistest.Option{redistest.WithConfig("replicaof", "127.0.0.1", fmt.Sprint(s.Port())),
		redistest.WithConfig("masteruser", replicator), redistest.WithConfig("masterauth", password),
		redistest.WithConfig("replica-announce-ip", "127.0.0.1"), redistest.WithConfig("replica-announce-port", "1")}
	if p.Path != "" {
		opts = append(opts, redistest.WithBinary(p.Path))
	}
	replica := redistest.Start(tb, opts...)
	redistest.Eventually(tb, 20*time.Second, func() bool {
		return strings.Contains(replica.Client(0).Info(context.Background(), "replication").Val(), "master_link_status:up")
	}, "a replica of %s", s.Addr())
	var clients []*redis.Client
	client = func(db int) *redis.Client {
		c := redis.NewClient(&redis.Options{Addr: replica.Addr(), DB: db, Protocol: 2})
		clients = append(clients, c)
		return c
	}
	return client, func() {
		for _, c := range clients {
			_ = c.Close()
		}
		_ = replica.Close()
	}
}

// zookeepers change the zoo through the proxy, from begin to end. Begun again without an
// end between they would be twice as many; end may be called again.
type zookeepers struct {
	tb      testing.TB
	addr    string
	able    ableTo
	far     int64
	changes int
	round   uint64
	stop    context.CancelFunc
	busy    sync.WaitGroup
}

func (z *zookeepers) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	z.stop = cancel
	for i, db := range []int{0, 0, 3} {
		z.round++
		r := rand.New(rand.NewPCG(z.round, uint64(i)))
		z.busy.Go(func() {
			c := redis.NewClient(&redis.Options{Addr: z.addr, DB: db, Protocol: 2, MaxRetries: -1, PoolSize: 1, ReadTimeout: 20 * time.Second})
			defer func() { _ = c.Close() }()
			n, err := disturb(ctx, c, z.able, z.far, r)
			if err != nil {
				z.tb.Errorf("a client of the proxy: %v", err)
			}
			if db == 3 {
				z.changes += n
			}
		})
	}
	z.tb.Cleanup(func() { cancel(); z.busy.Wait() })
}

func (z *zookeepers) end() {
	z.stop()
	z.busy.Wait()
}
