package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/crossfade/crossfade/migration/fleet"
)

const (
	pulse     = time.Second            // between two questions whether a watch is still there
	silence   = 3 * time.Second        // without a sign of it, after which it is lost
	pulseTime = 100 * time.Millisecond // to ask; the answer comes by the watch
)

// word is what stands at the key of the present word.
type word struct {
	fleet.Word
	key string
	mod int64  // the revision that has written it, as transactions compare it; 0: none is there
	rev int64  // the revision at which that was so
	in  uint64 // the cluster's id; 0 where nobody asks for it
}

// hearing is what is known of the word without asking.
type hearing struct {
	mu    sync.Mutex
	there word  // the newest; it may be old, unless a watch is there
	live  bool  // a watch keeps it
	deaf  error // why none does, although one was there; nil otherwise
}

// note takes what was read or written.
func (h *hearing) note(w word) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.there.key != w.key || h.there.rev < w.rev {
		h.there = w
	}
}

func (h *hearing) known(key string) word {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.there.key != key {
		return word{key: key}
	}
	return h.there
}

// begin notes that a watch is there, behind what was read.
func (h *hearing) begin(w word) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.there, h.live, h.deaf = w, true, nil // whatever is known: etcd may have lost all it had
}

// end notes why a watch is there no more; nil: it is not wanted.
func (h *hearing) end(deaf error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live, h.deaf = false, deaf
}

// forget is for what is not so any more. A watch finds out by itself.
func (h *hearing) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.live {
		h.there = word{}
	}
}

// without returns the word where a watch keeps it, and an error where one was lost: who waits
// for words does not wait for an etcd that is away. false: it has to be asked for.
func (h *hearing) without(key string) (fleet.Word, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live && h.there.key == key {
		return h.there.Word, true, nil
	}
	return fleet.Word{}, h.deaf != nil, h.deaf
}

// Say implements fleet.Store. What is known is tried first: a coordinator mostly follows
// itself.
func (s *Store) Say(ctx context.Context, w fleet.Word) error {
	text, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("writing a word: %w", err)
	}
	var refused error
	err = s.with(ctx, "speaking in", func(ctx context.Context, c *clientv3.Client, base string) error {
		return s.leases.keep(ctx, c, func(lease clientv3.LeaseID) (err error) {
			refused, err = s.say(ctx, c, base+wordKey, w, clientv3.OpPut(base+wordKey, string(text), clientv3.WithLease(lease)))
			return err
		})
	})
	if err != nil {
		return err
	}
	return refused
}

// say writes by put unless a word is there that must stay; refused is why.
func (s *Store) say(ctx context.Context, c *clientv3.Client, key string, w fleet.Word, put clientv3.Op) (refused, err error) {
	there := s.hears.known(key)
	for fresh := false; ; fresh = true {
		replaces, why := w.Replaces(there.Word)
		switch {
		case !replaces && fresh:
			return why, nil
		case !replaces: // what was known may be old
			if there, err = s.read(ctx, c, key); err != nil {
				return nil, err
			}
			continue
		}
		got, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", there.mod)).Then(put).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return nil, err
		}
		if got.Succeeded {
			s.hears.note(word{Word: w, key: key, mod: got.Header.Revision, rev: got.Header.Revision})
			return nil, nil
		}
		s.hears.forget()
		if there, err = wordIn(key, (*clientv3.GetResponse)(got.Responses[0].GetResponseRange()), got.Header.Revision); err != nil {
			return nil, err
		}
	}
}

// read asks for the word.
func (s *Store) read(ctx context.Context, c *clientv3.Client, key string) (word, error) {
	got, err := c.Get(ctx, key)
	if err != nil {
		return word{}, err
	}
	w, err := wordIn(key, got, got.Header.Revision)
	w.in = got.Header.ClusterId
	return w, err
}

func wordIn(key string, got *clientv3.GetResponse, rev int64) (word, error) {
	w := word{key: key, rev: rev}
	if len(got.Kvs) == 0 {
		return w, nil
	}
	w.mod = got.Kvs[0].ModRevision
	return w, json.Unmarshal(got.Kvs[0].Value, &w.Word)
}

// Heard implements fleet.Store.
func (s *Store) Heard(ctx context.Context) (fleet.Word, error) {
	if base, err := s.base(); err == nil {
		if w, known, err := s.hears.without(base + wordKey); known {
			return w, s.failed("listening to", err)
		}
	}
	var w word
	err := s.with(ctx, "asking", func(ctx context.Context, c *clientv3.Client, base string) (err error) {
		if w, err = s.read(ctx, c, base+wordKey); err == nil {
			s.hears.note(w)
		}
		return err
	})
	return w.Word, err
}

// Listen implements fleet.Store. While it listens, Heard asks nobody.
func (s *Store) Listen(ctx context.Context, woken func()) error {
	err := s.listen(ctx, woken)
	if ctx.Err() != nil {
		s.hears.end(nil)
		return context.Cause(ctx)
	}
	s.hears.end(err)
	return s.failed("listening to", err)
}

var (
	errEnded  = errors.New("the watch has ended")
	errForgot = errors.New("it has forgotten what it had, or is another one")
	errSilent = fmt.Errorf("nothing was heard of it for %v", silence)
)

func (s *Store) listen(ctx context.Context, woken func()) error {
	base, err := s.base()
	if err != nil {
		return err
	}
	key := base + wordKey
	first, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c, err := s.connect(first)
	if err != nil {
		return err
	}
	there, err := s.read(first, c, key)
	if err != nil {
		return err
	}
	watching, end := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer end()
	patience := time.AfterFunc(silence, end) // Watch returns once it is there
	// From this revision on, and not the next: of a watch for what is yet to come there is no sign.
	changes := c.Watch(watching, key, clientv3.WithRev(there.rev), clientv3.WithCreatedNotify())
	if !patience.Stop() {
		return errSilent
	}
	s.hears.begin(there)
	woken()
	return s.heed(watching, c, there, changes, woken)
}

// heed keeps up with a watch until it is lost. A connection that is lost is one that is made
// again by itself, unless that takes long; so etcd is asked for a sign of life.
func (s *Store) heed(watching context.Context, c *clientv3.Client, there word, changes clientv3.WatchChan, woken func()) error {
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	newest := there.rev
	for last := time.Now(); ; {
		select {
		case r, open := <-changes:
			if err := r.Err(); err != nil {
				return err
			}
			if !open {
				return errEnded
			}
			// The watch waits for what is long to come; newer versions give no sign of that.
			if r.Header.GetRevision() < newest || r.Header.GetClusterId() != there.in {
				return errForgot
			}
			last, newest = time.Now(), r.Header.GetRevision()
			for _, e := range r.Events {
				if err := s.heardOf(there.key, e); err != nil {
					return err
				}
				woken()
			}
		case <-tick.C:
			if time.Since(last) > silence {
				return errSilent
			}
			ctx, cancel := context.WithTimeout(watching, pulseTime)
			_ = c.RequestProgress(ctx)
			cancel()
		case <-watching.Done():
			return errEnded
		}
	}
}

// heardOf takes one change of the word.
func (s *Store) heardOf(key string, e *clientv3.Event) error {
	w := word{key: key, rev: e.Kv.ModRevision}
	if e.Type == clientv3.EventTypePut {
		w.mod = e.Kv.ModRevision
		if err := json.Unmarshal(e.Kv.Value, &w.Word); err != nil {
			return err
		}
	}
	s.hears.note(w)
	return nil
}
