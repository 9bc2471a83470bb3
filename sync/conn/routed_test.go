package conn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/router"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommandsGoWhereTheirKeysAre(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	p, ctx := clustered(t, c), t.Context()
	all, db := c.Client(), p.DB(0)
	pipe := db.Pipeline()
	for i := range 1000 {
		pipe.Set(ctx, fmt.Sprintf("k:%d", i), i, 0)
	}
	_, err := pipe.Exec(ctx)
	must(t, err)
	for i := range 1000 {
		if n, err := all.Get(ctx, fmt.Sprintf("k:%d", i)).Int(); err != nil || n != i {
			t.Fatalf("k:%d is %d, %v", i, n, err)
		}
	}
	if n, err := db.DBSize(ctx).Result(); err != nil || n != 1000 {
		t.Errorf("%d keys, %v", n, err)
	}
	if text, err := db.Info(ctx, "keyspace").Result(); err != nil || !strings.Contains(text, "db0:keys=1000,expires=0") {
		t.Errorf("keyspace: %q, %v", text, err)
	}
	if k, err := db.RandomKey(ctx).Result(); err != nil || !strings.HasPrefix(k, "k:") {
		t.Errorf("random key %q, %v", k, err)
	}
	if n, err := db.Unlink(ctx, "k:1", "k:2", "k:3", "none").Result(); err != nil || n != 3 {
		t.Errorf("%d unlinked, %v", n, err)
	}

	// What stands between MULTI and EXEC goes as one, written either way.
	tx := db.TxPipeline()
	tx.RPush(ctx, "{a}:list", 1, 2)
	tx.Rename(ctx, "{a}:list", "{a}:other")
	length := tx.LLen(ctx, "{a}:other")
	tx.Do(ctx, "TIME")
	_, err = tx.Exec(ctx)
	must(t, err)
	if length.Val() != 2 {
		t.Errorf("in a transaction the length is %d", length.Val())
	}
	pipe = db.Pipeline()
	var sets []*redis.Cmd
	for i := range 20 {
		pipe.Do(ctx, "MULTI")
		pipe.Do(ctx, "SET", fmt.Sprintf("m:%d", i), i)
		pipe.Do(ctx, "GET", fmt.Sprintf("m:%d", i))
		sets = append(sets, pipe.Do(ctx, "EXEC"))
	}
	_, err = pipe.Exec(ctx)
	must(t, err)
	for i, s := range sets {
		if got := fmt.Sprint(s.Val()); got != fmt.Sprintf("[OK %d]", i) {
			t.Errorf("EXEC %d answered %s", i, got)
		}
	}

	for _, refused := range []redis.Cmder{
		db.Rename(ctx, "k:10", "k:11"), db.Info(ctx), db.ConfigGet(ctx, "*"), db.ClientID(ctx), db.Do(ctx, "WATCH", "a"), db.Do(ctx, "NOBODY"), p.DB(1).Get(ctx, "a"),
	} {
		if err := refused.Err(); !errors.As(err, new(Refusal)) {
			t.Errorf("%v: %v", refused.Args(), err)
		}
	}
	if err := db.Rename(ctx, "k:10", "k:11").Err(); !strings.HasPrefix(err.Error(), "CROSSSLOT") {
		t.Error(err)
	}
	if err := p.DB(0).Watch(ctx, func(*redis.Tx) error { return nil }, "a"); err == nil {
		t.Error("a key was watched on nobody's connection")
	}

	sum, err := db.ScriptLoad(ctx, "return 1").Result()
	must(t, err)
	must(t, db.FunctionLoad(ctx, "#!lua name=lib\nredis.register_function('f', function() return 1 end)").Err())
	for _, s := range c.Servers {
		if v, err := c.On(s).EvalSha(ctx, sum, nil).Int(); err != nil || v != 1 {
			t.Errorf("%s: the script answers %d, %v", s.Addr(), v, err)
		}
		if n := len(c.On(s).FunctionList(ctx, redis.FunctionListQuery{}).Val()); n != 1 {
			t.Errorf("%s has %d libraries", s.Addr(), n)
		}
	}
	must(t, db.FlushDB(ctx).Err())
	if n := db.DBSize(ctx).Val(); n != 0 {
		t.Errorf("%d keys after a flush", n)
	}
}

func TestCommandsFollowSlots(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	p, ctx := clustered(t, c), t.Context()
	db, all := p.DB(0), c.Client()
	tag := func(s uint16, rest string) string { return "{" + slot.Tag(s) + "}" + rest }
	must(t, db.Set(ctx, tag(7, ":old"), 1, 0).Err())
	must(t, db.Set(ctx, tag(7, ":stays"), 1, 0).Err())
	from, to := c.Owner(7), c.Servers[2]
	c.Open(to, 7)
	c.Carry(to, 7, 1)
	// One key is here, the other there, and new ones belong there.
	for _, k := range []string{":old", ":stays"} {
		if v, err := db.Get(ctx, tag(7, k)).Int(); err != nil || v != 1 {
			t.Errorf("%s is %d, %v", k, v, err)
		}
		must(t, db.Append(ctx, tag(7, k), "2").Err())
	}
	must(t, db.Set(ctx, tag(7, ":new"), 1, 0).Err())
	if n := c.On(to).Do(ctx, "CLUSTER", "COUNTKEYSINSLOT", 7).Val(); n != int64(2) {
		t.Errorf("%v keys are at the new node", n)
	}
	if owner := p.topology().Map().Owner(7); owner.Address != from.Addr() {
		t.Error("ASK was taken for MOVED")
	}
	// What is about keys at both has to wait for the end.
	done := make(chan error, 1)
	go func() { done <- db.Rename(ctx, tag(7, ":old"), tag(7, ":stays")).Err() }()
	c.Finish(to, 7)
	must(t, <-done)
	if v, err := all.Get(ctx, tag(7, ":stays")).Result(); err != nil || v != "12" {
		t.Errorf("after the rename %q, %v", v, err)
	}
	if c.Owner(7) != to {
		t.Fatal("the slot has not moved")
	}
	must(t, db.Get(ctx, tag(7, ":new")).Err())
	if owner := p.topology().Map().Owner(7); owner.Address != to.Addr() {
		t.Errorf("slot 7 is thought to be with %s", owner.Address)
	}

	// Order is kept where a slot moves under a pipeline, or else it is told.
	stop := c.Churn(func(i int) (*redistest.Server, uint16) { return c.Servers[i%3], 9 })
	want := make([]string, 0)
	for n := range 300 {
		pipe := db.Pipeline()
		for i := range 5 {
			pipe.RPush(ctx, tag(9, ":list"), 5*n+i)
			want = append(want, fmt.Sprint(5*n+i))
		}
		_, err := pipe.Exec(ctx)
		must(t, err)
	}
	stop()
	if got := all.LRange(ctx, tag(9, ":list"), 0, -1).Val(); !slices.Equal(got, want) {
		t.Errorf("%d of %d elements, or in another order", len(got), len(want))
	}
}

func TestCommandsSurviveAFailover(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1)
	p, ctx := clustered(t, c), t.Context()
	db := p.DB(0)
	put := func() error {
		pipe := db.Pipeline()
		for i := range 300 {
			pipe.Set(ctx, fmt.Sprintf("k:%d", i), 1, 0)
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	must(t, put())
	c.Kill(c.Servers[0])
	redistest.Eventually(t, 30*time.Second, put, "writes after a failover")
	c.Failover(c.Replicas(c.Servers[1])[0])
	redistest.Eventually(t, 30*time.Second, put, "writes after another one")
}

// TestRefusedByANode: nodes that let nobody in any more have run nothing of a pipeline, and each
// of its commands says so.
func TestRefusedByANode(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	p, ctx := clustered(t, c), t.Context()
	db := p.DB(0)
	must(t, db.Set(ctx, "k", 1, 0).Err())
	for _, s := range c.Servers {
		client := s.Client(0)
		must(t, client.Do(ctx, "CONFIG", "SET", "requirepass", "another").Err())
		_ = client.Do(ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err()
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "NOAUTH") && !strings.Contains(err.Error(), "WRONGPASS") && !strings.Contains(err.Error(), "EOF") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for name, pipe := range map[string]redis.Pipeliner{"a pipeline": db.Pipeline(), "a transaction": db.TxPipeline()} {
		var cmds []redis.Cmder
		for i := range 3 {
			cmds = append(cmds, pipe.Set(ctx, fmt.Sprintf("{k}:%d", i), 1, 0))
		}
		_, err := pipe.Exec(ctx)
		refused(name, err)
		for _, cmd := range cmds {
			refused(name+": "+fmt.Sprint(cmd.Args()...), cmd.Err())
		}
	}
	_, _, err := db.Scan(ctx, 0, "", 10).Result()
	refused("a scan", err)
}

// TestScanSeesWhatStays scans while slots move to and fro: every key that is there from the
// beginning to the end is shown, and though slots never stop to move there is an end.
func TestScanSeesWhatStays(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	p := clustered(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const keys, slots = 6000, 40
	pipe := p.DB(0).Pipeline()
	for i := range keys {
		pipe.Set(ctx, fmt.Sprintf("{%s}:%d", slot.Tag(uint16(i%slots)*401), i), 1, 0)
		pipe.Set(ctx, fmt.Sprintf("p:%d", i), 1, 0)
	}
	pipe.HSet(ctx, "p:hash", "f", 1)
	_, err := pipe.Exec(ctx)
	must(t, err)
	scan := func(client *redis.Client, match, kind string) map[string]bool {
		t.Helper()
		seen := make(map[string]bool)
		for cursor := uint64(0); ; {
			var page []string
			var err error
			if kind == "" {
				page, cursor, err = client.Scan(ctx, cursor, match, 100).Result()
			} else {
				page, cursor, err = client.ScanType(ctx, cursor, match, 100, kind).Result()
			}
			must(t, err)
			for _, k := range page {
				seen[k] = true
			}
			if cursor == 0 {
				return seen
			}
		}
	}
	for round := range 3 {
		moves, began := 0, time.Now()
		stop := c.Churn(func(i int) (*redistest.Server, uint16) {
			moves = i
			return c.Servers[i%3], uint16(i*7%slots) * 401
		})
		seen := scan(p.DB(0), "", "")
		stop()
		t.Logf("round %d: %d moves in %v", round, moves, time.Since(began))
		for i := range keys {
			for _, k := range []string{fmt.Sprintf("{%s}:%d", slot.Tag(uint16(i%slots)*401), i), fmt.Sprintf("p:%d", i)} {
				if !seen[k] {
					t.Errorf("round %d: %s was not shown", round, k)
				}
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if seen := scan(p.DB(0), "p:1*", ""); len(seen) != 1111 || seen["p:2"] {
		t.Errorf("%d keys match", len(seen))
	}
	if seen := scan(p.DB(0), "", "hash"); len(seen) != 1 || !seen["p:hash"] {
		t.Errorf("hashes: %v", seen)
	}
	place := router.Place{Prefix: "p:"}
	if seen := scan(p.At(place), "", ""); len(seen) != keys+1 || !seen["1"] || !seen["hash"] {
		t.Errorf("%d keys with the prefix", len(seen))
	}

	// A slot that stays between two nodes is shown from both, and does not keep a scan for
	// ever.
	to := c.Servers[0]
	if c.Owner(401) == to {
		to = c.Servers[1]
	}
	c.Open(to, 401)
	c.Carry(to, 401, 5)
	if seen := scan(p.DB(0), "", ""); len(seen) != 2*keys+1 {
		t.Errorf("%d keys, want %d", len(seen), 2*keys+1)
	}
	if _, _, err := p.DB(0).Scan(ctx, 1<<40, "", 10).Result(); !errors.As(err, new(Refusal)) {
		t.Errorf("a cursor of nobody: %v", err)
	}

	// One that never comes to rest is told of.
	h := &routed{p: p, t: p.topology()}
	at := scanAt{due: map[uint16]bool{802: true}, rounds: mostRounds - 1}
	for _, given := range []bool{false, true} {
		next, err := h.rescan(ctx, at)
		if given != errors.As(err, new(Refusal)) || given != (next == nil) || Away(err) {
			t.Fatalf("given up %v: %+v, %v", given, next, err)
		}
		if next != nil {
			at = *next
		}
	}
}

// TestScanSeesWhatWasAway: a slot that has gone to a node that was through, and is back before
// anybody has asked who has which slots, was not there when its node was scanned.
func TestScanSeesWhatWasAway(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	p, ctx := clustered(t, c), t.Context()
	db := p.DB(0)
	pipe := db.Pipeline()
	for i := range 300 {
		pipe.Set(ctx, fmt.Sprintf("k:%d", i), 1, 0)
	}
	_, err := pipe.Exec(ctx)
	must(t, err)
	server := func(address string) *redistest.Server {
		return c.Servers[slices.IndexFunc(c.Servers, func(s *redistest.Server) bool { return s.Addr() == address })]
	}
	masters := p.topology().Map().Masters()
	first, second := server(masters[0].Address), server(masters[1].Address)
	s := uint16(0)
	for i := 0; c.Owner(s) != second; i++ {
		s = slot.Of(fmt.Sprintf("k:%d", i))
	}
	seen := make(map[string]bool)
	for page, cursor := 0, uint64(0); page == 0 || cursor != 0; page++ {
		switch page {
		case 1:
			c.Move(first, s)
		case 2:
			c.Move(second, s)
		}
		var keys []string
		keys, cursor, err = db.Scan(ctx, cursor, "", 1000).Result()
		must(t, err)
		for _, k := range keys {
			seen[k] = true
		}
	}
	if len(seen) != 300 {
		t.Errorf("%d of 300 keys were shown", len(seen))
	}
}

// TestUnshown: a slot that was at rest while it was looked through need not be again.
func TestUnshown(t *testing.T) {
	far := map[uint16]cluster.Opening{7: {From: "a:1", To: "b:1"}}
	all, some := new(cluster.Slots), new(cluster.Slots)
	for s := range uint16(slot.Count) {
		all.Set(s, true)
		some.Set(s, s != 7)
	}
	for name, c := range map[string]struct {
		at   scanAt
		want []uint16
	}{
		"all at rest":             {scanAt{shown: all}, nil},
		"one was not":             {scanAt{shown: some}, []uint16{7}},
		"nor was it before":       {scanAt{shown: some, due: map[uint16]bool{7: true, 8: true}}, []uint16{7}},
		"was at rest before":      {scanAt{shown: some, due: map[uint16]bool{8: true}}, nil},
		"open, and one side seen": {scanAt{shown: all, open: far}, []uint16{7}},
		"open, and both seen":     {scanAt{shown: all, open: far, seen: far}, nil},
		"nothing is shown":        {scanAt{due: map[uint16]bool{7: true}}, []uint16{7}},
	} {
		if got := slices.Sorted(maps.Keys(c.at.unshown())); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestWiresOfACluster(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	p, ctx := clustered(t, c), t.Context()
	if _, err := p.WireAt(ctx, router.Place{}); err == nil {
		t.Error("one wire leads to a cluster")
	}
	if _, err := p.Bundle(ctx, router.Place{DB: 1}, nil); !errors.As(err, new(Refusal)) {
		t.Errorf("database 1: %v", err)
	}
	var mu sync.Mutex
	made := 0
	b, err := p.Bundle(ctx, router.Place{Prefix: "p:"}, func(*Wire) error { mu.Lock(); defer mu.Unlock(); made++; return nil })
	must(t, err)
	defer b.Close()
	must(t, b.Ping())
	lines := b.Lines()
	set := func(lines *Lines, key, value string) {
		t.Helper()
		w := lines.For(key)
		w.Begin(3)
		w.Arg("SET")
		w.Key(key)
		w.Arg(value)
		must(t, b.Flush())
		must(t, w.Status())
	}
	for i := range 100 {
		set(lines, fmt.Sprint(i), "x")
	}
	if n := p.DB(0).DBSize(ctx).Val(); n != 100 || made != 3 || !b.Many() {
		t.Errorf("%d keys over %d wires", n, made)
	}
	// After a move the old lines lead to the old node, which says where to go.
	s := slot.Of("p:1")
	to := c.Servers[0]
	if c.Owner(s) == to {
		to = c.Servers[1]
	}
	c.Move(to, s)
	w := lines.For("1")
	w.About("GET", "1")
	must(t, b.Flush())
	if _, err := w.Text(); !b.Displaced(w, err) {
		t.Errorf("from the old node: %v", err)
	}
	must(t, b.Renew(ctx))
	if next := b.Lines(); next == lines || lines.For("1") != w || next.For("1") == w {
		t.Error("the lines have not changed")
	}
	set(b.Lines(), "1", "y")
	if v, err := p.At(router.Place{Prefix: "p:"}).Get(ctx, "1").Result(); err != nil || v != "y" {
		t.Errorf("%q, %v", v, err)
	}
	if b.Displaced(w, Refusal("WRONGTYPE")) || b.Displaced(w, errors.New("MOVED 1 a:1")) || b.Displaced(w, nil) {
		t.Error("anything is taken for a redirection")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.Bundle(cancelled, router.Place{}, nil); err == nil {
		t.Error("a bundle was made without a context")
	}
}
