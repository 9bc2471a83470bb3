// Package witness runs clients of every kind against a Redis and checks each reply, byte for byte, against what it must be.
// It owns its clients, their connections, the keys under its prefix and the record of what is unknown.
// It never sends a command twice, never shares a key between two clients and never forgives a reply out of place.
package witness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// User is somebody a client may log in as. Password "" is for a client that does
// not. Denied is a key that the user may not touch, "" when there is none.
type User struct{ Name, Password, Denied string }

// Config says where the clients connect and what they are. Addrs and Prefix are
// required.
type Config struct {
	Addrs     []string      // client i connects to the i-th, in turn
	Clients   int           // default 8
	Prefix    string        // of all keys; must not have been used before
	Databases []int         // default {0}; at most 4
	Users     []User        // default: nobody logs in
	Seed      uint64        // of all that is random
	Patience  time.Duration // until a reply that does not come is a violation; default 20 s
	Big       int           // bytes of the largest values; default 1 MiB
	Switches  bool          // the server may be changed for another meanwhile: WATCH may fail for nothing
}

// Crowd is a set of clients and what they have seen.
type Crowd struct {
	cfg   Config
	names atomic.Int64 // lives begun
	runs  atomic.Uint64
	stats Stats
	dbAt  map[int]int // database → its place in a state

	mu         sync.Mutex
	strict     map[string]bool
	unknown    []*life // lives that ended with something outstanding
	violations []error
}

// Stats counts what was done so far.
type Stats struct {
	Lives    atomic.Int64 // connections lived to their end
	Lost     atomic.Int64 // … that were ended by another than the client
	Commands atomic.Int64 // answered, and rightly
	Unknown  atomic.Int64 // outstanding when their connection ended
}

// New returns a crowd. It starts nothing.
func New(cfg Config) *Crowd {
	if cfg.Clients == 0 {
		cfg.Clients = 8
	}
	if len(cfg.Databases) == 0 {
		cfg.Databases = []int{0}
	}
	if len(cfg.Users) == 0 {
		cfg.Users = []User{{}}
	}
	if cfg.Patience == 0 {
		cfg.Patience = 20 * time.Second
	}
	if cfg.Big == 0 {
		cfg.Big = 1 << 20
	}
	c := &Crowd{cfg: cfg, strict: make(map[string]bool), dbAt: make(map[int]int)}
	for i, db := range cfg.Databases {
		c.dbAt[db] = i
	}
	return c
}

// Stats returns the counts, which go on.
func (c *Crowd) Stats() *Stats { return &c.stats }

// Strict says whether the loss of a connection to addr is a violation, for
// clients that connect from now on.
func (c *Crowd) Strict(addr string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strict[addr] = on
}

func (c *Crowd) isStrict(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.strict[addr]
}

// violate notes something wrong.
func (c *Crowd) violate(l *life, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.violations) < 20 {
		c.violations = append(c.violations, fmt.Errorf("%s (%s): %w", l.name, l.kind, fmt.Errorf(format, args...)))
	}
}

// Violations returns what was wrong so far, joined; nil when nothing was.
func (c *Crowd) Violations() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.violations...)
}

// Run has all clients live one life after another until ctx ends, and returns
// when each has ended its last.
func (c *Crowd) Run(ctx context.Context) {
	var wg sync.WaitGroup
	run := c.runs.Add(1) // each has other lives
	for i := range c.cfg.Clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(c.cfg.Seed+run<<32, uint64(i)))
			for ctx.Err() == nil && !c.hopeless() {
				c.live(ctx, c.cfg.Addrs[i%len(c.cfg.Addrs)], rng)
			}
		})
	}
	wg.Wait()
}

// hopeless reports whether enough is wrong.
func (c *Crowd) hopeless() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.violations) >= 20
}

// Verify compares what the lives that ended badly have left on a server with what
// may be there, and removes it. It is called when nothing is on its way any more.
// The error joins what is wrong; those lives are looked at again by the next call.
func (c *Crowd) Verify(ctx context.Context, client func(db int) *redis.Client) error {
	c.mu.Lock()
	lives := c.unknown
	c.unknown = nil
	c.mu.Unlock()
	var wrong []*life
	var errs []error
	for _, l := range lives {
		if err := l.verify(ctx, client); err != nil {
			wrong = append(wrong, l)
			if len(errs) < 10 {
				errs = append(errs, fmt.Errorf("%s (%s): %w", l.name, l.kind, err))
			}
		}
	}
	c.mu.Lock()
	c.unknown = append(c.unknown, wrong...)
	c.mu.Unlock()
	return errors.Join(errs...)
}
