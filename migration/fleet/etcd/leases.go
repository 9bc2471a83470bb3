package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/crossfade/crossfade/migration/fleet"
)

// A heartbeat is a lease that is renewed, which costs etcd no write. What a member says of
// itself stands at a key of its own, and is written when that changes. Nothing stays for ever:
// all of it is under leases, should nobody come to clear it.
const (
	aliveFor    = 3                // seconds that a member lives after its last renewal, of which there are three in that time
	keptFor     = 24 * 60 * 60     // seconds that all else stays at most, and at least half of it
	keptAnew    = 12 * time.Hour   // after which that has a new lease
	countsEvery = 10 * time.Second // between two writes for counts alone
)

// leases are those of this process.
type leases struct {
	beating chan struct{} // held by who says or takes back something of a member; guards presences

	mu      sync.Mutex // guards what follows
	kept    clientv3.LeaseID
	granted time.Time // kept
	of      map[string]*presence
}

// presence is what this process has said of a member.
type presence struct {
	said    fleet.Member
	at      time.Time                               // when
	lease   clientv3.LeaseID                        // its own
	renewed <-chan *clientv3.LeaseKeepAliveResponse // closed once that is lost; nil: it is
	left    atomic.Bool                             // all was taken away, and nothing was said since
}

// lives reports whether its lease is still renewed.
func (p *presence) lives() bool {
	for p.renewed != nil {
		select {
		case _, open := <-p.renewed:
			if !open {
				p.renewed = nil
			}
		default:
			return true
		}
	}
	return false
}

// news reports whether m says more than counts that have changed.
func (p *presence) news(m fleet.Member) bool {
	was := p.said
	was.Beat, was.Inside, was.Commands = m.Beat, m.Inside, m.Commands
	return was != m
}

// hold takes beating until free.
func (l *leases) hold(ctx context.Context) error {
	select {
	case l.beating <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *leases) free() { <-l.beating }

// keep runs a write under the lease for what is to stay, and again under a new one where etcd
// does not know that any more.
func (l *leases) keep(ctx context.Context, c *clientv3.Client, write func(clientv3.LeaseID) error) error {
	for again := false; ; again = true {
		lease, err := l.lasting(ctx, c)
		if err != nil {
			return err
		}
		if err = write(lease); again || !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		l.mu.Lock()
		if l.kept == lease {
			l.kept = clientv3.NoLease
		}
		l.mu.Unlock()
	}
}

// lasting returns the lease for what is to stay.
func (l *leases) lasting(ctx context.Context, c *clientv3.Client) (clientv3.LeaseID, error) {
	l.mu.Lock()
	lease, old := l.kept, time.Since(l.granted) > keptAnew
	l.mu.Unlock()
	if lease != clientv3.NoLease && !old {
		return lease, nil
	}
	got, err := c.Grant(ctx, keptFor)
	if err != nil {
		return clientv3.NoLease, err
	}
	l.mu.Lock()
	l.kept, l.granted = got.ID, time.Now()
	l.mu.Unlock()
	return got.ID, nil
}

// comes returns what was said of a member of which something is about to be said.
func (l *leases) comes(id string) *presence {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of[id]
	if p == nil {
		p = &presence{}
		l.of[id] = p
	}
	p.left.Store(false)
	return p
}

// there returns those of whom something may be there. Of its own, a process knows when it has
// taken all away.
func (l *leases) there(ids []string) (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if p := l.of[id]; p == nil || !p.left.Load() {
			list = append(list, id)
		}
	}
	return list
}

// goes returns the leases of members of whom all was taken away, which nobody needs any more.
func (l *leases) goes(ids []string) (own []clientv3.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		p := l.of[id]
		if p == nil {
			continue
		}
		if p.lives() {
			own = append(own, p.lease)
		}
		p.renewed = nil
		p.left.Store(true)
	}
	return own
}

// forget is for keys that were removed.
func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.of)
}

// Beat implements fleet.Store.
func (s *Store) Beat(ctx context.Context, m fleet.Member) error {
	return s.with(ctx, "telling of this sidecar in", func(ctx context.Context, c *clientv3.Client, base string) error {
		if err := s.leases.hold(ctx); err != nil {
			return err
		}
		defer s.leases.free()
		p := s.leases.comes(m.ID)
		if p.lives() && !p.news(m) && time.Since(p.at) < countsEvery {
			return nil
		}
		err := s.tell(ctx, c, base, p, m)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			p.renewed = nil // the next one has a new lease
		}
		return err
	})
}

// tell writes what a member says, under a lease that lives.
func (s *Store) tell(ctx context.Context, c *clientv3.Client, base string, p *presence, m fleet.Member) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if p.renewed == nil {
		got, err := c.Grant(ctx, aliveFor)
		if err != nil {
			return err
		}
		p.lease = got.ID
	}
	err = s.leases.keep(ctx, c, func(lease clientv3.LeaseID) error {
		_, err := c.Txn(ctx).Then(
			clientv3.OpPut(base+membersKey+m.ID, string(text), clientv3.WithLease(lease)),
			clientv3.OpPut(base+aliveKey+m.ID, "", clientv3.WithLease(p.lease)), // again: somebody may have removed it
		).Commit()
		return err
	})
	if err != nil {
		return err
	}
	p.said, p.at = m, time.Now()
	if p.renewed == nil {
		p.renewed, err = c.KeepAlive(context.Background(), p.lease) // until the client is closed
	}
	return err
}

// mostOps is how many keys one transaction removes: etcd takes 128 unless told otherwise.
const mostOps = 120

// Leave implements fleet.Store.
func (s *Store) Leave(ctx context.Context, ids ...string) error {
	ids = s.leases.there(ids)
	if len(ids) == 0 {
		return nil
	}
	return s.with(ctx, "removing members from", func(ctx context.Context, c *clientv3.Client, base string) error {
		if err := s.leases.hold(ctx); err != nil {
			return err
		}
		defer s.leases.free()
		kinds := []string{membersKey, aliveKey, answersKey}
		for some := range slices.Chunk(ids, mostOps/len(kinds)) {
			var ops []clientv3.Op
			for _, id := range some {
				for _, kind := range kinds {
					ops = append(ops, clientv3.OpDelete(base+kind+id))
				}
			}
			if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
				return err
			}
			for _, lease := range s.leases.goes(some) {
				_, _ = c.Revoke(ctx, lease) // it ends soon in any case
			}
		}
		return nil
	})
}
