// Package linear has many clients work on the same few keys at the same time, notes when
// each operation began and ended and what it answered, and asks porcupine whether one single
// server could have answered so: whether the history is linearizable.
// It owns its clients and the keys under its prefix. It never sends an operation again, and
// never changes what it checks.
package linear

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"
)

// Config says where and what to do. Only Addrs is required.
type Config struct {
	Addrs              []string // host:port of each; clients take them in turn and stay there
	Username, Password string
	Databases          []int   // default {0}
	Clients            int     // default 8
	Keys               int     // objects of each kind and database; default 1
	Prefix             string  // of all keys, which must not be there yet; default "linear"
	Protocol           int     // 2 or 3; default 3
	Rate               float64 // operations a second and client; default 200
	Seed               uint64
	OpTimeout          time.Duration // until an unanswered operation counts as unknown; default 15 s
}

// History is what clients did. Its methods may be called from any goroutine, Check once
// Run has returned.
type History struct {
	cfg     Config
	begun   time.Time
	objects []*object
	names   atomic.Int64 // of clients: one that has an unknown outcome goes on by another
	values  atomic.Int64
	ops     atomic.Int64
	unknown atomic.Int64

	mu     sync.Mutex
	errors []error // the first few
}

// object is one thing that can be checked by itself.
type object struct {
	kind *kind
	db   int
	keys []string

	mu  sync.Mutex
	ops []porcupine.Operation
}

// New returns a history of nothing.
func New(cfg Config) *History {
	if len(cfg.Databases) == 0 {
		cfg.Databases = []int{0}
	}
	if cfg.Clients == 0 {
		cfg.Clients = 8
	}
	if cfg.Keys == 0 {
		cfg.Keys = 1
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "linear"
	}
	if cfg.Protocol == 0 {
		cfg.Protocol = 3
	}
	if cfg.Rate == 0 {
		cfg.Rate = 200
	}
	if cfg.OpTimeout == 0 {
		cfg.OpTimeout = 15 * time.Second
	}
	h := &History{cfg: cfg, begun: time.Now()}
	for _, db := range cfg.Databases {
		for _, k := range kinds {
			for i := range cfg.Keys {
				// One slot for what is in one transaction.
				tag := fmt.Sprintf("%s:{%s-%d}", cfg.Prefix, k.name, i)
				h.objects = append(h.objects, &object{kind: k, db: db, keys: []string{tag + ":a", tag + ":b"}})
			}
		}
	}
	return h
}

// Ops returns how many operations were done, and of how many the outcome is not known.
func (h *History) Ops() (done, unknown int64) { return h.ops.Load(), h.unknown.Load() }

// Errors returns the first errors that clients met; those of unknown outcome are among them.
func (h *History) Errors() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.errors...)
}

// Run has the clients work until ctx ends, and finish what they have begun. It may be
// called again.
func (h *History) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range h.cfg.Clients {
		wg.Go(func() { h.client(ctx, i) })
	}
	wg.Wait()
}

func (h *History) client(ctx context.Context, i int) {
	name := int(h.names.Add(1))
	rng := rand.New(rand.NewPCG(h.cfg.Seed, uint64(name)))
	clients := make(map[int]*redis.Client)
	for _, db := range h.cfg.Databases {
		c := redis.NewClient(&redis.Options{
			Addr: h.cfg.Addrs[i%len(h.cfg.Addrs)], Username: h.cfg.Username, Password: h.cfg.Password, DB: db, Protocol: h.cfg.Protocol,
			PoolSize: 1, MaxRetries: -1, DialTimeout: h.cfg.OpTimeout, ReadTimeout: h.cfg.OpTimeout, WriteTimeout: h.cfg.OpTimeout,
			ContextTimeoutEnabled: true,
		})
		defer func() { _ = c.Close() }()
		clients[db] = c
	}
	pause := time.Duration(float64(time.Second) / h.cfg.Rate)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		o := h.objects[rng.IntN(len(h.objects))]
		in := o.kind.choose(rng)
		in.value = h.values.Add(1)
		// What has begun is finished: only its own deadline ends it.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.OpTimeout)
		call := time.Since(h.begun)
		out, err := in.do(bounded, clients[o.db], o.keys)
		ret := time.Since(h.begun)
		cancel()
		h.ops.Add(1)
		op := porcupine.Operation{ClientId: name, Input: in, Output: out, Call: int64(call), Return: int64(ret)}
		if err != nil {
			h.note(fmt.Errorf("%s of %s in database %d: %w", in.verb.name, o.keys[0], o.db, err))
			h.unknown.Add(1)
			// It may still run at any time, and be anything.
			op.Output, op.Return = answer{unknown: true}, math.MaxInt64
			name = int(h.names.Add(1))
		}
		o.mu.Lock()
		o.ops = append(o.ops, op)
		o.mu.Unlock()
	}
}

func (h *History) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.errors) < 10 {
		h.errors = append(h.errors, err)
	}
}

// Check returns an error that names the objects whose history no single server could have
// given. patience is for all of them together: what could not be checked in it is an
// error as well.
func (h *History) Check(patience time.Duration) error {
	end := time.Now().Add(patience)
	var errs []error
	for _, o := range h.objects {
		if err := o.check(max(time.Until(end), time.Millisecond)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (o *object) check(patience time.Duration) error {
	switch o.explained(o.ops, patience) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%s %s in database %d: %d operations were not checked within %v", o.kind.name, o.keys[0], o.db, len(o.ops), patience)
	}
	return fmt.Errorf("%s %s in database %d: no order of its operations explains %s", o.kind.name, o.keys[0], o.db, o.words(o.culprit()))
}

func (o *object) explained(ops []porcupine.Operation, patience time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(porcupine.Model{
		Init:  func() any { return o.kind.init },
		Step:  func(state, in, out any) (bool, any) { return o.kind.step(state, in.(request), out.(answer)) },
		Equal: func(a, b any) bool { return a == b },
	}, ops, patience)
}

// culprit returns the first answer that cannot be explained by all that was begun before it.
func (o *object) culprit() porcupine.Operation {
	ops := slices.Clone(o.ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	n := sort.Search(len(ops)-1, func(n int) bool {
		until := ops[n].Return
		var known []porcupine.Operation
		for _, op := range ops {
			if op.Call > until {
				continue
			}
			if op.Return > until {
				op.Output, op.Return = answer{unknown: true}, math.MaxInt64
			}
			known = append(known, op)
		}
		return o.explained(known, 10*time.Second) != porcupine.Ok
	})
	return ops[n]
}

func (o *object) words(op porcupine.Operation) string {
	return fmt.Sprintf("%s (client %d, from %.3f to %.3f ms)", describe(op.Input.(request), op.Output.(answer)), op.ClientId, float64(op.Call)/1e6, float64(op.Return)/1e6)
}
