package migration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/verify"
)

type shadowKey struct {
	db  int
	key string
}

// shadowCase is a read that is being judged: it is over when all its keys are.
type shadowCase struct {
	read    ShadowRead
	at      time.Time
	left    int
	outcome verify.Outcome // the worst so far
}

// Differed takes a read that the target has answered differently. That proves nothing:
// its keys are judged as in a verification.
func (m *Migration) Differed(read ShadowRead) {
	keys := slices.DeleteFunc(read.Keys, func(k string) bool {
		return strings.HasPrefix(k, mirror.KeyPrefix) || !m.opt.Only.Name(k)
	})
	slices.Sort(keys)
	read.Keys = slices.Compact(keys)
	s := &m.shadow
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(read.Keys) == 0 {
		s.status.LeftOut++
		return
	}
	st := s.stint
	if st == nil || len(st.cases) >= shadowOpen {
		s.count(read.Family, verify.Undecided)
		return
	}
	p := m.prover(st, read.DB)
	if p == nil {
		s.count(read.Family, verify.Undecided)
		return
	}
	c := &shadowCase{read: read, at: time.Now(), left: 1}
	st.cases[c] = struct{}{}
	for _, key := range read.Keys {
		s.ask(st, p, c, key)
	}
	s.note(st, c, verify.Level) // the 1 of above
}

// ask adds a case to those about a key, with mu held.
func (s *shadow) ask(st *stint, p *verify.Prover, c *shadowCase, key string) {
	k := shadowKey{c.read.DB, key}
	c.left++
	if list, open := st.open[k]; open {
		st.open[k] = append(list, c)
		return
	}
	switch p.Suspect(key) {
	case verify.Queued:
		st.open[k] = []*shadowCase{c}
	case verify.Known: // it was proved to differ, and is not yet mended
		s.note(st, c, verify.Differing)
	default:
		s.note(st, c, verify.Undecided)
	}
}

// note adds what was found of one of a case's keys, with mu held.
func (s *shadow) note(st *stint, c *shadowCase, o verify.Outcome) {
	if o == verify.Differing || c.outcome == verify.Level {
		c.outcome = o
	}
	if c.left--; c.left > 0 {
		return
	}
	if c.outcome == verify.Level && c.read.Again != nil {
		select {
		case st.again <- c:
			return
		default: // there are too many to ask each again
		}
	}
	s.over(st, c)
}

// over ends a case, with mu held.
func (s *shadow) over(st *stint, c *shadowCase) {
	delete(st.cases, c)
	s.count(c.read.Family, c.outcome)
}

// count counts a read that is judged, with mu held.
func (s *shadow) count(family string, o verify.Outcome) {
	f := s.families[family]
	if f == nil {
		f = &ShadowFamily{Family: family}
		s.families[family] = f
	}
	switch o {
	case verify.Level:
		f.Behind++
		s.status.Behind++
	case verify.Differing:
		f.Differing++
		s.status.Differing++
	default:
		f.Unsettled++
		s.status.Unsettled++
	}
}

// prover returns who judges a database's keys, with mu held; nil when that cannot be
// done now.
func (m *Migration) prover(st *stint, db int) *verify.Prover {
	if p := st.provers[db]; p != nil {
		return p
	}
	if time.Now().Before(st.retryAt[db]) {
		return nil
	}
	p, err := verify.NewProver(st.config, db, func(f verify.Found) { m.proved(st, db, f) })
	if err != nil {
		return nil // the database has left the map
	}
	st.provers[db] = p
	m.shadow.judging.Go(func() {
		if err := p.Run(st.ctx); err != nil {
			m.log.Warn("shadow reads cannot be judged for a moment", "database", db, "error", err)
		}
		m.shadow.mu.Lock()
		defer m.shadow.mu.Unlock()
		delete(st.provers, db)
		st.retryAt[db] = time.Now().Add(shadowRetry)
		if m.shadow.stint != st {
			return // counted already
		}
		for k, list := range st.open {
			if k.db == db {
				delete(st.open, k)
				for _, c := range list {
					m.shadow.note(st, c, verify.Undecided)
				}
			}
		}
	})
	return p
}

// proved takes a verdict about a key.
func (m *Migration) proved(st *stint, db int, f verify.Found) {
	equal := m.traffic.Shadowed()
	s := &m.shadow
	s.mu.Lock()
	if s.stint != st {
		s.mu.Unlock()
		return
	}
	k := shadowKey{db, f.Key}
	list := st.open[k]
	delete(st.open, k)
	if f.Outcome != verify.Differing {
		// Those that came after the look may have seen what it has not.
		old := list[:0:0]
		for _, c := range list {
			if !c.at.After(f.Looked) {
				old = append(old, c)
				continue
			}
			c.left--
			if p := st.provers[db]; p != nil {
				s.ask(st, p, c, f.Key)
			} else {
				c.left++
				old = append(old, c)
			}
		}
		list = old
	}
	command := ""
	for _, c := range list {
		command = c.read.Command
		s.note(st, c, f.Outcome)
	}
	tell := int64(0)
	e := ShadowExample{Time: time.Now(), Database: db, Key: f.Key, Command: command, Kind: f.Diff.Kind, Words: f.Diff.Words}
	if f.Outcome == verify.Differing {
		tell = s.differs(e, equal)
	}
	s.mu.Unlock()
	m.tellOfShadow(e, tell)
}

// differs notes a difference that is proved, with mu held, and returns the how manieth
// it is.
func (s *shadow) differs(e ShadowExample, equal int64) int64 {
	s.base = equal
	s.status.Keys++
	s.status.Examples = append([]ShadowExample{e}, s.status.Examples[:min(len(s.status.Examples), shadowExamples-1)]...)
	return s.status.Keys
}

// tellOfShadow logs the n-th difference; 0 is none.
func (m *Migration) tellOfShadow(e ShadowExample, n int64) {
	if n > 0 && (n <= 100 || n%1000 == 0) { // a flood says nothing more
		m.log.Error(fmt.Sprintf("shadow reads: %s of key %q of database %d differs (%s): %s", strings.ToUpper(e.Command), e.Key, e.Database, e.Kind, e.Words), "differences", n)
	}
}

// askAgain asks some of those reads again whose keys have turned out to be the same:
// where servers of two versions, say, word a reply differently, that is no change on
// its way.
func (m *Migration) askAgain(st *stint) {
	for {
		var c *shadowCase
		select {
		case <-st.ctx.Done():
			return
		case c = <-st.again:
		}
		differs := m.differsAgain(st, c.read)
		equal := m.traffic.Shadowed()
		e := ShadowExample{Time: time.Now(), Database: c.read.DB, Key: c.read.Keys[0], Command: c.read.Command, Kind: replyKind,
			Words: "the servers answer it differently, although the key is the same on both"}
		tell := int64(0)
		s := &m.shadow
		s.mu.Lock()
		if s.stint == st {
			if differs {
				c.outcome = verify.Differing
				tell = s.differs(e, equal)
			}
			s.over(st, c)
		}
		s.mu.Unlock()
		m.tellOfShadow(e, tell)
	}
}

// differsAgain reports whether both servers give different replies as often as they are
// asked, with all across that was written before the source's. (Asked before it only, a
// key that is written all the time looks different now and then.)
func (m *Migration) differsAgain(st *stint, read ShadowRead) bool {
	ctx, cancel := context.WithTimeout(st.ctx, shadowPatience)
	defer cancel()
	for n := range shadowAgain {
		if n > 0 {
			select {
			case <-ctx.Done():
				return false
			case <-time.After(st.config.Settle):
			}
		}
		differs, err := read.Again(ctx, func() (bool, error) {
			arrived, err := m.settled(ctx, read.DB, read.Keys)
			return !slices.Contains(arrived, false), err
		})
		if err != nil || !differs {
			return false
		}
	}
	return true
}
