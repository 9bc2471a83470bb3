package fleet

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/crossfade/crossfade/internal/endpoint"
)

// outage is a time in which a node could do nothing, as far as anybody has tried.
type outage struct {
	from, last time.Time
	away       bool // it takes no connections
	silent     bool // it refuses nothing and answers nothing
}

// goesOn reports whether what happens now is a part of it.
func (o outage) goesOn(now time.Time, patience time.Duration) bool {
	return o.silent || now.Sub(o.last) <= patience
}

// down notes that a node cannot be reached, or says that it cannot do anything.
func (f *Fleet) down(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outages[address] = f.outage(address, time.Now())
}

// refuses is down for one that takes no connection.
func (f *Fleet) refuses(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.outage(address, time.Now())
	o.away = true
	f.outages[address] = o
}

// outage is that of a node, which has begun at a moment if it is a new one. mu is held.
func (f *Fleet) outage(address string, began time.Time) outage {
	now := time.Now()
	o := f.outages[address]
	if !o.goesOn(now, f.opts.Patience) {
		o = outage{from: began}
	}
	o.last = now
	return o
}

// silent notes that a node has answered nothing since a moment, though it was asked. To find
// that out takes long, so from now on one goroutine does, and nobody else asks it until it
// has answered that.
func (f *Fleet) silent(address string, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.outage(address, since)
	o.silent = true
	f.outages[address] = o
	if !f.asked[address] && !f.closed {
		f.asked[address] = true
		f.wg.Go(func() { f.awaitWord(address) })
	}
}

// isSilent reports whether a node answers nothing, as far as is known.
func (f *Fleet) isSilent(address string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.outages[address].silent
}

// staysSilent is isSilent for the one who asks, who asks no more where it is false.
func (f *Fleet) staysSilent(address string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.outages[address].silent {
		delete(f.asked, address)
		return false
	}
	return true
}

// awaitWord asks a silent node until it says something or refuses a connection, or is no
// master any more.
func (f *Fleet) awaitWord(address string) {
	for f.staysSilent(address) && f.ctx.Err() == nil {
		err := f.askSilent(address)
		switch {
		case f.ctx.Err() != nil:
		case err == nil, !contains(masters(f.topo.Map()), address):
			f.up(address)
		case !tookTooLong(err): // to ask it takes no time any more
			f.mu.Lock()
			if o, out := f.outages[address]; out {
				o.silent, o.last = false, time.Now()
				f.outages[address] = o
			}
			f.mu.Unlock()
		}
		select {
		case <-time.After(hopMost):
		case <-f.ctx.Done():
		}
	}
}

// askSilent returns nil where a node answers anything.
func (f *Fleet) askSilent(address string) error {
	ctx, cancel := context.WithTimeout(f.ctx, f.opts.DialTimeout)
	defer cancel()
	sock, err := endpoint.Dial(ctx, f.topo.At(address), f.opts.DialTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = sock.Close() }()
	defer context.AfterFunc(ctx, func() { _ = sock.SetDeadline(time.Now()) })()
	if _, err := sock.Write(words("PING")); err != nil {
		return err
	}
	_, err = sock.Read(make([]byte, 1))
	return err
}

func tookTooLong(err error) bool {
	var slow net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout()
}

// up is the end of down, and of silent.
func (f *Fleet) up(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.outages, address)
}

// out reports whether a node could do nothing when somebody tried last, and that was lately.
func (f *Fleet) out(address string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, out := f.outages[address]
	return out && o.goesOn(time.Now(), f.opts.Patience)
}

// isAway reports whether nobody can connect to a node, as far as is known. mu is held.
func (f *Fleet) isAway(address string) bool {
	o := f.outages[address]
	now := time.Now()
	// One that is silent may be busy, and then says later on what it was told.
	return (o.away || o.silent && now.Sub(o.from) > f.opts.Patience) && o.goesOn(now, f.opts.Patience)
}

// until is up to when a command may wait for a node: what comes late in an outage does not
// wait any more.
func (f *Fleet) until(address string) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	o, out := f.outages[address]
	if !out || !o.goesOn(now, f.opts.Patience) {
		o.from = now
	}
	return o.from.Add(f.opts.Patience)
}
