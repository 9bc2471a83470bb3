// Package history writes to a Redis with many clients at once, notes what was acknowledged, and finds what is wrong afterwards.
// It owns its writers, their connections, the keys under its prefix and the record of every operation's outcome.
// It never retries an operation, never touches keys of others and never changes the server that it checks.
package history

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is one sort of operation.
type Kind string

// The kinds of operations. Each has keys of its own.
const (
	Incr     Kind = "incr"    // INCR of a counter that all writers share
	HIncrBy  Kind = "hincrby" // HINCRBY … 1 of a field that all writers share
	RPush    Kind = "rpush"   // RPUSH of a unique id
	ZAdd     Kind = "zadd"    // ZADD of a unique member
	XAdd     Kind = "xadd"    // XADD of a unique payload
	Register Kind = "set"     // SET, GET and DEL of a key that one writer has for itself
	SetEx    Kind = "setex"   // the same with SETEX: value and expiry
	Transfer Kind = "multi"   // MULTI: an amount from one account to another, and its id into a journal
	Script   Kind = "eval"    // EVAL: increments a counter and appends an id
)

// AllKinds returns every kind.
func AllKinds() []Kind {
	return []Kind{Incr, HIncrBy, RPush, ZAdd, XAdd, Register, SetEx, Transfer, Script}
}

// Config says where and what to write. Only Addr is required.
type Config struct {
	Addr               string   // host:port, usually the proxy's
	Addrs              []string // … of several: the writers take them in turn; Addr may be empty then
	Username, Password string
	Databases          []int  // default {0}; each writer uses all of them
	Writers            int    // default 4, each with one connection a database
	Keys               int    // keys a kind and database (registers: a writer too); default 4
	Prefix             string // of all keys; must not have been used before; default a random one
	Protocol           int    // 2 or 3; default 3
	MaxRate            int    // operations a second and writer; 0: as fast as it can
	// Turn waits until a writer may begin its next operation, or ctx ends; it has MaxRate's
	// place where one clock paces many. nil: nobody is asked.
	Turn         func(ctx context.Context, writer int)
	Kinds        []Kind        // default all
	OpTimeout    time.Duration // until an unanswered operation counts as unknown; default 15 s
	TTL          time.Duration // of SETEX keys, whole seconds; default 1 h; they must outlive Verify
	TTLTolerance time.Duration // how far an expiry may be off; default 100 ms
	ItemsPerKey  int           // ids until a list, set or stream is left for a new one; default 4096
	MaxItems     int64         // ids in all; then only kinds of constant size go on; default 2 million
	Refusals     []string      // further error prefixes that mean "did certainly not happen"
	Log          *slog.Logger  // default: discarded
}

// History is the record of one set of writers. Run writes, Verify checks.
type History struct {
	cfg     Config
	bad     error // of the configuration
	spaces  []*space
	writers []*writer
	items   atomic.Int64 // ids handed out
	stats   counts
	busy    atomic.Bool // Run or Verify is at work

	mu    sync.Mutex
	found findings // what the writers saw themselves, while writing
}

// New returns a history with its defaults filled in. It starts nothing;
// a wrong configuration is reported by Run and Verify.
func New(cfg Config) *History {
	h := &History{}
	h.cfg, h.bad = cfg.withDefaults()
	if h.bad != nil {
		return h
	}
	for _, db := range h.cfg.Databases {
		h.spaces = append(h.spaces, newSpace(db, h.cfg))
	}
	for i := range h.cfg.Writers {
		h.writers = append(h.writers, newWriter(h, i))
	}
	return h
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Databases) == 0 {
		c.Databases = []int{0}
	}
	if len(c.Kinds) == 0 {
		c.Kinds = AllKinds()
	}
	if c.Prefix == "" {
		c.Prefix = "history:" + strings.ToLower(rand.Text()[:8])
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	orElse(&c.Writers, 4)
	orElse(&c.Keys, 4)
	orElse(&c.Protocol, 3)
	orElse(&c.OpTimeout, 15*time.Second)
	orElse(&c.TTL, time.Hour)
	orElse(&c.TTLTolerance, 100*time.Millisecond)
	orElse(&c.ItemsPerKey, 4096)
	orElse(&c.MaxItems, 2_000_000)
	var errs []error
	if c.Addr == "" && len(c.Addrs) > 0 {
		c.Addr = c.Addrs[0]
	}
	if c.Addr == "" {
		errs = append(errs, errors.New("history: no address"))
	}
	if c.TTL%time.Second != 0 || c.TTL < 0 {
		errs = append(errs, fmt.Errorf("history: TTL %v: must be whole seconds", c.TTL))
	}
	if c.Writers < 0 || c.Keys < 0 || c.ItemsPerKey < 0 || c.MaxRate < 0 {
		errs = append(errs, errors.New("history: writers, keys, items and rate must not be negative"))
	}
	seen := make(map[int]bool)
	for _, db := range c.Databases {
		if seen[db] {
			errs = append(errs, fmt.Errorf("history: database %d is named twice", db))
		}
		seen[db] = true
	}
	for _, k := range c.Kinds {
		if !known(k) {
			errs = append(errs, fmt.Errorf("history: unknown kind %q", k))
		}
	}
	return c, errors.Join(errs...)
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func known(k Kind) bool {
	for _, other := range AllKinds() {
		if k == other {
			return true
		}
	}
	return false
}

// errBusy keeps Run and Verify apart: a check beside writers means nothing.
var errBusy = errors.New("history: Run or Verify is already at work")

// Run writes until ctx is cancelled. It returns when all writers have stopped,
// each outstanding operation having been acknowledged, refused or, after
// OpTimeout at the latest, given up as unknown. It may be called again; the
// record goes on. The error says that not a single operation succeeded.
func (h *History) Run(ctx context.Context) error {
	if h.bad != nil {
		return h.bad
	}
	if !h.busy.CompareAndSwap(false, true) {
		return errBusy
	}
	defer h.busy.Store(false)
	before := h.stats.acked.Load()
	var wg sync.WaitGroup
	for _, w := range h.writers {
		wg.Go(func() { w.run(ctx) })
	}
	wg.Wait()
	if h.stats.acked.Load() == before {
		return fmt.Errorf("history: write to %s: no operation succeeded; last error: %s", h.cfg.Addr, h.Stats().LastError)
	}
	return nil
}

// Prefix returns the prefix of all keys of this history.
func (h *History) Prefix() string { return h.cfg.Prefix }

// violate notes something wrong that a writer saw in a reply.
func (h *History) violate(v Violation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.found.add(v)
}
