package cluster

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/slot"
)

func follow(t *testing.T, c *redistest.Cluster, seeds ...string) *Topology {
	t.Helper()
	e := config.Endpoint{Network: "cluster", Address: strings.Join(seeds, ","), Password: c.Servers[0].Password(), Cluster: &config.Cluster{Seeds: seeds}}
	e, top := Follow(e, 5*time.Second, slog.New(slog.DiscardHandler))
	t.Cleanup(top.Close)
	if Of(e) != top {
		t.Fatal("the endpoint has another topology")
	}
	return top
}

// agrees checks that each slot is where the servers say.
func agrees(t *testing.T, top *Topology, c *redistest.Cluster) {
	t.Helper()
	m := top.Map()
	if !m.Whole() {
		t.Error("the map has holes")
	}
	owners := make(map[string]int)
	for s := range uint16(slot.Count) {
		owners[m.Owner(s).Address]++
	}
	for _, s := range c.Masters() {
		first := slices.IndexFunc(m.owners[:], func(i uint16) bool { return m.nodes[i-1].Address == s.Addr() })
		if first < 0 || c.Owner(uint16(first)) != s || m.Node(s.Addr()).ID != c.ID(s) {
			t.Errorf("%s: its first slot is %d", s.Addr(), first)
		}
		if got := len(m.Slots(m.Node(s.Addr()))); got != owners[s.Addr()] {
			t.Errorf("%s has %d slots, and %d", s.Addr(), got, owners[s.Addr()])
		}
		var replicas []string
		for _, r := range m.Replicas(m.Node(s.Addr())) {
			if !r.Failed {
				replicas = append(replicas, r.Address)
			}
		}
		var want []string
		for _, r := range c.Replicas(s) {
			want = append(want, r.Addr())
		}
		slices.Sort(want)
		if !slices.Equal(replicas, want) {
			t.Errorf("%s has the replicas %v, want %v", s.Addr(), replicas, want)
		}
	}
}

func TestFollowsMovesAndFailovers(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1, redistest.WithPassword("secret"))
	ctx := context.Background()
	top := follow(t, c, "127.0.0.1:1", c.Servers[4].Addr()) // nobody, and a replica
	if m := top.Map(); m.Epoch != 0 || m.Owner(1) != nil || len(m.Masters()) != 0 {
		t.Error("something is known before it is asked for")
	}
	if _, err := top.Load(ctx); err != nil {
		t.Fatal(err)
	}
	agrees(t, top, c)

	// A slot moves: one answer tells where to, and the rest is asked for.
	from, to := c.Servers[0], c.Servers[2]
	c.Move(to, 0, 1, 2)
	epoch, changed := top.Map().Epoch, top.Changed()
	err := c.On(from).Get(ctx, slot.Tag(1)).Err()
	r, ok := ParseRedirect(err.Error(), from.Addr())
	if !ok || r.Slot != 1 || r.Address != to.Addr() {
		t.Fatalf("%v is read as %+v, %v", err, r, ok)
	}
	top.Moved(r, from.Addr())
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Fatal("MOVED has made no other map")
	}
	if m := top.Map(); m.Epoch <= epoch || m.Owner(1).Address != to.Addr() || m.Owner(0).Address != from.Addr() {
		t.Errorf("after MOVED slot 0 is with %v, slot 1 with %v", m.Owner(0), m.Owner(1))
	}
	top.Doubt(from.Addr())
	if address, err := top.Find(ctx, 0); err != nil || address != to.Addr() {
		t.Errorf("slot 0 is found at %s, %v", address, err)
	}
	agrees(t, top, c)

	// A master goes without a word; another one has stopped to answer anything.
	ended := make(chan struct{})
	running, cancel := context.WithCancel(ctx)
	go func() { defer close(ended); top.Run(running) }()
	defer func() { cancel(); <-ended }()
	now := c.Kill(c.Servers[1])
	top.Doubt(c.Servers[1].Addr())
	redistest.Eventually(t, 20*time.Second, func() bool { return top.Map().Node(now.Addr()).Master == "" }, "the replica that took over")
	agrees(t, top, c)
	replica := c.Replicas(c.Servers[0])[0]
	if err := replica.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := top.Refresh(ctx); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("with one node that does not answer: %v after %v", err, time.Since(began))
	}
	if err := replica.Cont(); err != nil {
		t.Fatal(err)
	}
}

func TestKnowsOfMastersWithoutSlots(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	top := follow(t, c, c.Servers[0].Addr())
	if _, err := top.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	added := c.Join()
	if err := top.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	empty := top.Map().Empty()
	if len(empty) != 1 || empty[0].Address != added.Addr() || len(top.Present()) != 3 {
		t.Errorf("masters %v, without slots %v", top.Present(), empty)
	}
	c.Move(added, 5)
	if err := top.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	if m := top.Map(); m.Owner(5).Address != added.Addr() || len(m.Empty()) != 0 {
		t.Errorf("slot 5 is with %v", m.Owner(5))
	}
}

func TestRefusesWhatIsNoCluster(t *testing.T) {
	s := redistest.Start(t)
	e := config.Endpoint{Network: "cluster", Address: s.Addr(), Cluster: &config.Cluster{Seeds: []string{s.Addr()}}}
	_, top := Follow(e, time.Second, slog.New(slog.DiscardHandler))
	defer top.Close()
	if _, err := top.Load(context.Background()); err == nil || !strings.Contains(err.Error(), "cluster support disabled") || !strings.Contains(err.Error(), s.Addr()) {
		t.Errorf("error %v", err)
	}
}

func TestQuestionsAreFew(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	top := follow(t, c, c.Addrs()...)
	began := time.Now()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := top.Refresh(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := top.rounds.Load(); n > 2 {
		t.Errorf("%d questions in %v", n, time.Since(began))
	}
}

func TestReadsWhatNodesAnnounce(t *testing.T) {
	node := func(host any, port int64, id string, more ...any) []any { return []any{host, port, id, more} }
	ranges := []any{
		[]any{int64(0), int64(9), node(nil, 7000, "a"), node("?", 7001, "b", "ip", "10.0.0.2")},
		[]any{int64(10), int64(16383), node("::1", 7002, "c"), node("name.example", 7003, "d")},
	}
	shards := []any{
		[]any{"slots", []any{}, "nodes", []any{
			[]any{"id", "e", "port", int64(7004), "tls-port", int64(8004), "ip", "10.0.0.5", "endpoint", "?", "role", "master", "health", "online"},
			[]any{"id", "f", "port", int64(7005), "endpoint", nil, "role", "replica", "health", "fail"},
		}},
	}
	m, err := read(ranges, shards, "10.0.0.1:7009", false)
	if err != nil {
		t.Fatal(err)
	}
	if n := m.Owner(9); n.Address != "10.0.0.1:7000" || n.ID != "a" {
		t.Errorf("slot 9: %+v", n)
	}
	if n := m.Owner(10); n.Address != "[::1]:7002" {
		t.Errorf("slot 10: %+v", n)
	}
	for address, master := range map[string]string{"10.0.0.2:7001": "10.0.0.1:7000", "name.example:7003": "[::1]:7002", "10.0.0.5:7004": "", "10.0.0.1:7005": "10.0.0.5:7004"} {
		if n := m.Node(address); n == nil || n.Master != master || n.Failed != (n.ID == "f") {
			t.Errorf("%s: %+v", address, n)
		}
	}
	if m, err = read(ranges, shards, "10.0.0.1:7009", true); err != nil || m.Node("10.0.0.5:8004") == nil {
		t.Errorf("with TLS: %v, %v", m.Nodes(), err)
	}
	for _, bad := range []any{[]any{}, []any{int64(0), int64(16384), node("h", 1, "")}, []any{int64(3), int64(2), node("h", 1, "")}, []any{int64(0), int64(1), node("h", 0, "")}, "x"} {
		if _, err := read([]any{bad}, nil, "h:1", false); err == nil {
			t.Errorf("%v is read", bad)
		}
	}
}

func TestTheLatestChangeIsBelieved(t *testing.T) {
	at := func(address string) *Map { return new(Map).with(0, address) }
	believed := func(want string, answers ...answer) {
		t.Helper()
		if m := believe(slices.Clone(answers)); m.Owner(0).Address != want {
			t.Errorf("believed %v, want %s", m.Owner(0), want)
		}
	}
	whole, broken, older := answer{m: at("a:1"), ok: true, epoch: 5}, answer{m: at("b:1"), epoch: 9}, answer{m: at("c:1"), ok: true, epoch: 4}
	believed("a:1", older, broken, whole, older)
	other := answer{m: at("d:1"), ok: true, epoch: 5}
	believed("d:1", whole, other, other)
	// The others have not heard yet of what a master says of itself, be it that it has the
	// slot or that it has it no more.
	has := answer{m: at("e:1"), self: 1, ok: true, epoch: 4}
	believed("e:1", other, has, other)
	both := build(at("f:1"), &Node{Address: "d:1"})
	not := answer{m: both, self: both.index(both.Node("d:1")), ok: true, epoch: 4}
	believed("f:1", other, not, other)
	// But one that is cut off is not believed even of itself.
	believed("d:1", other, answer{m: at("b:1"), self: 1, epoch: 9})
}
