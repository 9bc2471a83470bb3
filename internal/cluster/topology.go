// Package cluster knows which node of a Redis Cluster has which slot, and keeps up with it.
// It owns the map of the slots, the clients that ask the nodes for it, and the reading of MOVED and ASK.
// It never sends a command of anybody else's: who does tells it what nodes have answered.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
)

const (
	// Two questions for the whole map have at least that between their beginnings, and up
	// to as much again, so that many sidecars do not ask together.
	askApart = 250 * time.Millisecond
	// lookEvery is how often the map is asked for, and up to half of it more, when nobody
	// has been redirected: who only listens is told of nothing.
	lookEvery = 5 * time.Second
)

// Topology knows the present Map of a cluster. It is a config.Nodes. Find and Refresh ask
// when they must; Run asks now and then too, so that changes are noticed whoever dials. Safe
// for concurrent use.
type Topology struct {
	at      config.Endpoint
	timeout time.Duration
	log     *slog.Logger

	now     atomic.Pointer[Map]
	doubted atomic.Bool   // the map is to be asked for again
	nudge   chan struct{} // holds one: Run is to look
	asking  chan struct{} // holds one token: one question for the map at a time

	began   time.Time     // the last question; guarded by asking
	apart   time.Duration // from it to the next; guarded by asking
	rounds  atomic.Uint64 // questions that have begun
	answers atomic.Uint64 // the last round that has had an answer

	mu      sync.Mutex // guards what follows; never held over I/O
	clients map[string]*redis.Client
	changed chan struct{} // closed with each new map
	hint    string        // the node that knew of a change last
	said    string        // the trouble that was logged last
	closed  bool
}

var _ config.Nodes = (*Topology)(nil)

var errClosed = errors.New("the topology is closed")

// Follow returns e with a topology for its Nodes, and that; nil where e is no cluster.
// Nothing is dialled yet. timeout bounds connecting and each question. The caller closes the
// topology when nobody uses e any more.
func Follow(e config.Endpoint, timeout time.Duration, log *slog.Logger) (config.Endpoint, *Topology) {
	if e.Cluster == nil {
		return e, nil
	}
	t := &Topology{
		at: e, timeout: timeout, log: log,
		nudge: make(chan struct{}, 1), asking: make(chan struct{}, 1),
		clients: make(map[string]*redis.Client), changed: make(chan struct{}),
	}
	t.now.Store(new(Map))
	e.Nodes = t
	return e, t
}

// Of returns the topology that Follow has given an endpoint, nil where it is no cluster. An
// endpoint of a cluster without one is a mistake of the program's.
func Of(e config.Endpoint) *Topology {
	if e.Cluster == nil {
		return nil
	}
	t, ok := e.Nodes.(*Topology)
	if !ok {
		panic(fmt.Sprintf("cluster: the endpoint %s has not been followed", e))
	}
	return t
}

// Map returns the present map. It does no I/O.
func (t *Topology) Map() *Map { return t.now.Load() }

// At returns the endpoint of a node, which is dialled like any server's.
func (t *Topology) At(address string) config.Endpoint { return t.at.At(address) }

// String names the cluster, without any secret.
func (t *Topology) String() string { return t.at.String() }

// Present implements config.Nodes.
func (t *Topology) Present() []string {
	var all []string
	for _, n := range t.Map().Masters() {
		all = append(all, n.Address)
	}
	return all
}

// Changed returns a channel that is closed once there is another map than the present one:
// take it before Map.
func (t *Topology) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// Find returns the address of the master that has a slot. It asks where that is not known or
// doubted.
func (t *Topology) Find(ctx context.Context, slot uint16) (string, error) {
	if n := t.Map().Owner(slot); n != nil && !t.doubted.Load() {
		return n.Address, nil
	}
	err := t.Refresh(ctx)
	n := t.Map().Owner(slot)
	switch {
	case n != nil: // as good as before
		return n.Address, nil
	case err != nil:
		return "", err
	}
	return "", fmt.Errorf("the cluster %s has no master for slot %d", t, slot)
}

// Current returns the map. It asks where that is not known or doubted; where nobody answers
// then, what is known is as good as before.
func (t *Topology) Current(ctx context.Context) (*Map, error) {
	if m := t.Map(); m.Epoch > 0 && !t.doubted.Load() {
		return m, nil
	}
	err := t.Refresh(ctx)
	if m := t.Map(); err == nil || m.Epoch > 0 && ctx.Err() == nil {
		return m, nil
	}
	return nil, err
}

// Load returns the map, and asks for it where nothing is known.
func (t *Topology) Load(ctx context.Context) (*Map, error) {
	if m := t.Map(); m.Epoch > 0 {
		return m, nil
	}
	err := t.Refresh(ctx)
	if m := t.Map(); m.Epoch > 0 {
		return m, nil
	}
	return nil, err
}

// Refresh asks the nodes for the map, and returns when it is that which they had at the time
// of the call, or later. Those who call together share a question, and questions are kept
// apart.
func (t *Topology) Refresh(ctx context.Context) error {
	before := t.rounds.Load()
	select {
	case t.asking <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-t.asking }()
	if t.answers.Load() > before { // one that began after the call
		return nil
	}
	if wait := t.apart - time.Since(t.began); wait > 0 && !t.began.IsZero() {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	t.began, t.apart = time.Now(), askApart+rand.N(askApart)
	round := t.rounds.Add(1)
	t.doubted.Store(false)
	bounded, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	found, err := t.ask(bounded)
	if err != nil {
		t.doubted.Store(true)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.complain(err)
		return err
	}
	t.answers.Store(round)
	t.settle(found)
	return nil
}

// Moved tells that a node has answered MOVED: the slot is there from now on. Run asks for the
// whole map soon; until then what is known of the other slots is as good as before.
func (t *Topology) Moved(r Redirect, from string) {
	if r.Ask {
		return
	}
	t.mu.Lock()
	t.hint = from
	m := t.Map()
	if n := m.Owner(r.Slot); n == nil || n.Address != r.Address {
		t.replace(m.with(r.Slot, r.Address))
	}
	t.mu.Unlock()
	t.look()
}

// Doubt tells that a node could not be reached, or is no master any more, so that the map is
// asked for before it is believed again.
func (t *Topology) Doubt(address string) {
	t.mu.Lock()
	if t.hint == address {
		t.hint = ""
	}
	t.mu.Unlock()
	t.soon()
}

func (t *Topology) soon() {
	t.doubted.Store(true)
	t.look()
}

// look has Run ask soon.
func (t *Topology) look() {
	select {
	case t.nudge <- struct{}{}:
	default:
	}
}

// settle takes a map over that nodes have answered.
func (t *Topology) settle(found *Map) {
	t.mu.Lock()
	m := t.Map()
	t.said = ""
	if m.same(found) {
		t.mu.Unlock()
		return
	}
	moved := len(m.Moved(found))
	t.replace(found)
	first := m.Epoch == 0
	t.mu.Unlock()
	if first {
		t.log.Info("the cluster", "at", t.String(), "masters", t.Present())
	} else {
		t.log.Info("the cluster has changed", "at", t.String(), "masters", t.Present(), "slots moved", moved)
	}
	t.forget(found)
}

// replace makes next the present map. The caller holds mu.
func (t *Topology) replace(next *Map) {
	m := t.Map()
	next.Epoch = m.Epoch + 1
	t.now.Store(next)
	close(t.changed)
	t.changed = make(chan struct{})
}

// complain logs trouble once.
func (t *Topology) complain(err error) {
	t.mu.Lock()
	again := t.said == err.Error()
	t.said = err.Error()
	t.mu.Unlock()
	if !again {
		t.log.Warn("no node says how the cluster is; going on with what is known", "at", t.String(), "error", err)
	}
}

// Run keeps the map up to date until ctx ends.
func (t *Topology) Run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = t.Refresh(ctx) // complained of
		wait := lookEvery + rand.N(lookEvery/2)
		if t.doubted.Load() {
			wait = askApart + rand.N(askApart)
		}
		select {
		case <-ctx.Done():
		case <-t.nudge:
		case <-time.After(wait):
		}
	}
}

// Close ends the topology: what is known stays, and nothing more can be asked.
func (t *Topology) Close() {
	t.mu.Lock()
	clients := t.clients
	t.closed, t.clients = true, nil
	t.mu.Unlock()
	for _, c := range clients {
		_ = c.Close()
	}
}

// seeds returns the addresses to ask, best first: who knew of the last change, the masters,
// the others, and those of the configuration that nobody has named.
func (t *Topology) seeds() []string {
	m := t.Map()
	var masters, others []string
	for _, n := range m.nodes {
		if n.Master == "" && !n.Failed {
			masters = append(masters, n.Address)
		} else {
			others = append(others, n.Address)
		}
	}
	for _, s := range t.at.Cluster.Seeds {
		if m.Node(s) == nil {
			others = append(others, s)
		}
	}
	for _, list := range [][]string{masters, others} {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	all := append(masters, others...)
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(all, t.hint); i > 0 {
		all[0], all[i] = all[i], all[0]
	}
	return all
}
