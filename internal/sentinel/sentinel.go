// Package sentinel finds the master that sentinels watch, and follows it through failovers.
// It owns the clients of the sentinels and the one that asks a master whether it is one, and it closes connections to a server that is the master no more.
// It never writes, never starts a failover, and never believes an address before the server there has said that it is the master.
package sentinel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/endpoint"
)

// lookEvery is how often sentinels and master are asked, beside what they say
// themselves: a message can be missed.
const lookEvery = time.Second

// errMoved means that the master changed while a connection was being made to it.
var errMoved = errors.New("the master has changed meanwhile")

// Follower knows where the master is. It is a config.Finder. Find asks when nothing is
// known; Run looks all the time, so that a failover is noticed whoever dials. Safe for
// concurrent use.
type Follower struct {
	at        config.Endpoint
	timeout   time.Duration
	log       *slog.Logger
	sentinels []watcher

	looking chan struct{} // holds one token: one look at a time, taken before mu
	epoch   int64         // of the configuration that names master; guarded by looking

	mu      sync.Mutex
	master  string        // "" while it is not known
	witness *redis.Client // asks the master; nil with ""
	doubted bool          // master is to be asked for again
	conns   map[weak.Pointer[net.TCPConn]]struct{}
	moved   []func(from, to string)
	said    string // the trouble that was logged last
	closed  bool
}

// watcher is one sentinel.
type watcher struct {
	address string
	client  *redis.SentinelClient
}

var _ config.Finder = (*Follower)(nil)

// Follow returns e with a follower for its finder, and that; nil where no sentinels watch
// e. Nothing is dialled yet. timeout bounds connecting and each question. The caller
// closes the follower when nobody dials e any more.
func Follow(e config.Endpoint, timeout time.Duration, log *slog.Logger) (config.Endpoint, *Follower) {
	if e.Watched == nil {
		return e, nil
	}
	f := &Follower{
		at: e, timeout: timeout, log: log, looking: make(chan struct{}, 1),
		conns: make(map[weak.Pointer[net.TCPConn]]struct{}),
	}
	for _, address := range e.Watched.Sentinels {
		f.sentinels = append(f.sentinels, watcher{address, redis.NewSentinelClient(f.options(e.OfSentinel(address)))})
	}
	e.Finder = f
	return e, f
}

// options are those of a client of ours to one server.
func (f *Follower) options(e config.Endpoint) *redis.Options {
	return &redis.Options{
		Network: e.Network, Addr: e.Address, Username: e.Username, Password: e.Password,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return endpoint.Dial(ctx, e, f.timeout)
		},
		Protocol:                 2,
		DisableIdentity:          true,
		ContextTimeoutEnabled:    true,
		MaxRetries:               -1,
		DialerRetries:            1,
		PoolSize:                 4,
		ReadTimeout:              f.timeout,
		WriteTimeout:             f.timeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// OnMove has f called whenever the master's address changes, after the connections that
// the finder keeps are closed: with "" for to while nobody is known to be the master, and
// "" for from when one is known again. f must not wait for long. It comes before Run.
func (f *Follower) OnMove(call func(from, to string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved = append(f.moved, call)
}

// Present implements config.Finder.
func (f *Follower) Present() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.master
}

// Name returns the master's name among the sentinels.
func (f *Follower) Name() string { return f.at.Watched.Name }

// Find implements config.Finder.
func (f *Follower) Find(ctx context.Context) (string, error) {
	f.mu.Lock()
	master, known := f.master, f.master != "" && !f.doubted
	f.mu.Unlock()
	if known {
		return master, nil
	}
	return f.look(ctx)
}

// Doubt implements config.Finder.
func (f *Follower) Doubt(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubted = f.doubted || f.master == address
}

// Keep implements config.Finder.
func (f *Follower) Keep(ctx context.Context, conn *net.TCPConn, address string) error {
	f.mu.Lock()
	if f.master != address || f.closed {
		f.mu.Unlock()
		return errMoved
	}
	// Known before the question: whoever finds another master from now on closes it.
	p := weak.Make(conn)
	f.conns[p] = struct{}{}
	runtime.AddCleanup(conn, f.forget, p)
	witness := f.witness
	f.mu.Unlock()
	if err := isMaster(ctx, witness); err != nil {
		if errors.As(err, new(demoted)) {
			f.settle(address, "", nil, err.Error())
		}
		return err
	}
	if f.Present() != address {
		return errMoved
	}
	return nil
}

func (f *Follower) forget(p weak.Pointer[net.TCPConn]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, p)
}

// look asks the sentinels, and the server that they name. Where they do not answer, the
// master that is known is as good as before: whether it still is one is asked of itself.
func (f *Follower) look(ctx context.Context) (string, error) {
	select {
	case f.looking <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-f.looking }()
	bounded, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	before := f.Present()
	best, all, err := f.ask(bounded)
	address := best.master
	if err == nil && best.epoch < f.epoch && !all { // only those have answered that have not heard of it yet
		if address = before; before == "" {
			err = fmt.Errorf("the sentinels that answer name %s as the master %q, which others have known to be over", best.master, f.Name())
		}
	}
	switch {
	case err != nil && before != "" && ctx.Err() == nil:
		f.complain("the sentinels do not say where the master is; going on with the one that is known", before, err)
		return before, nil
	case err != nil:
		return "", err
	case address == before:
		f.mu.Lock()
		f.doubted, f.said = false, ""
		f.mu.Unlock()
		f.epoch = max(f.epoch, best.epoch)
		return address, nil
	}
	f.epoch = best.epoch
	// Nobody is to write to the old one any more, whatever the new one says.
	f.settle(before, "", nil, "the sentinels name "+address)
	witness := redis.NewClient(f.options(f.at.At(address)))
	if err := isMaster(bounded, witness); err != nil {
		_ = witness.Close()
		return "", fmt.Errorf("the sentinels name %s as the master %q: %w", address, f.Name(), err)
	}
	f.settle("", address, witness, "")
	return address, nil
}

// settle changes what is known, if that is still from: connections to that one are
// closed, and it is told.
func (f *Follower) settle(from, to string, witness *redis.Client, why string) {
	f.mu.Lock()
	if f.master != from || from == to || f.closed {
		f.mu.Unlock()
		if witness != nil {
			_ = witness.Close()
		}
		return
	}
	old, conns, moved := f.witness, f.conns, f.moved
	f.master, f.witness, f.doubted, f.said = to, witness, false, ""
	f.conns = make(map[weak.Pointer[net.TCPConn]]struct{})
	f.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	for p := range conns {
		if conn := p.Value(); conn != nil {
			_ = conn.Close() // what was closed already stays so
		}
	}
	if to == "" {
		f.log.Warn("this is the master no more: its connections are closed", "name", f.Name(), "was", from, "because", why)
	} else {
		f.log.Info("the master", "name", f.Name(), "is", to)
	}
	for _, call := range moved {
		call(from, to)
	}
}

// complain logs trouble once.
func (f *Follower) complain(what, master string, err error) {
	f.mu.Lock()
	again := f.said == err.Error()
	f.said = err.Error()
	f.mu.Unlock()
	if !again {
		f.log.Warn(what, "name", f.Name(), "master", master, "error", err)
	}
}

// Close ends the follower. Connections that it has kept stay open, and new ones cannot be
// made. Run must have ended.
func (f *Follower) Close() {
	f.mu.Lock()
	witness := f.witness
	f.closed, f.witness, f.master = true, nil, ""
	f.mu.Unlock()
	if witness != nil {
		_ = witness.Close()
	}
	for _, s := range f.sentinels {
		_ = s.client.Close()
	}
}
