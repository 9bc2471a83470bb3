package admin

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	guessesAtOnce = 10              // wrong tokens that one address may show in a row
	guessEvery    = 6 * time.Second // and then one in this time
	guessers      = 4096            // addresses that are remembered
)

// guesses bounds how many wrong tokens are looked at, for each address they come from.
// Whoever shows none has not guessed. Safe for concurrent use.
type guesses struct {
	now func() time.Time

	mu sync.Mutex
	// until is, by address, when all that was guessed will be forgotten: each wrong token
	// moves it on by guessEvery.
	until map[netip.Addr]time.Time
}

func newGuesses() *guesses {
	return &guesses{now: time.Now, until: map[netip.Addr]time.Time{}}
}

// from is the address that counts for a request: of IPv6 the network, of which anybody has
// as many addresses as they like. It is invalid on a unix socket, which only one user can open.
func (g *guesses) from(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	if a = a.Unmap().WithZone(""); a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// may reports whether a token from there is looked at.
func (g *guesses) may(from netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.until[from].Sub(g.now()) <= (guessesAtOnce-1)*guessEvery
}

// wrong notes one, and reports whether it is the first in a while.
func (g *guesses) wrong(from netip.Addr) (first bool) {
	if !from.IsValid() {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	before, known := g.until[from]
	if !known && len(g.until) >= guessers {
		g.forget(now)
	}
	if first = !before.After(now); first {
		before = now
	}
	g.until[from] = before.Add(guessEvery)
	return first
}

// forget makes room: all that is over, or else any one.
func (g *guesses) forget(now time.Time) {
	for a, until := range g.until {
		if !until.After(now) {
			delete(g.until, a)
		}
	}
	for a := range g.until {
		if len(g.until) < guessers {
			return
		}
		delete(g.until, a)
	}
}
