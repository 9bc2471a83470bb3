package migration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/value"
	"github.com/crossfade/crossfade/sync/verify"
)

// ShadowRead is a read that the target has answered differently.
type ShadowRead struct {
	DB      int      // of the source
	Keys    []string // that it names
	Command string
	Family  string // the group of commands that it is of
	// Again asks both servers once more, the source before and after the target. differs
	// says that the source has said the same twice and the target something else. nil:
	// that cannot be done.
	Again func(ctx context.Context) (differs bool, err error)
}

// ShadowOptions change how many reads the target is asked too; what is nil stays.
type ShadowOptions struct{ Percent *int }

// ShadowStatus is what is known of shadow reads: plain reads that the target is asked
// as well. Counts are since the start of the process.
type ShadowStatus struct {
	Percent int    `json:"percent"` // of the reads, as wished
	State   string `json:"state"`   // "off", "on", or "waiting"
	Why     string `json:"why,omitempty"`
	Equal   int64  `json:"equal"` // reads that both servers have answered alike
	// Clean counts those of them that came after the last difference.
	Clean int64 `json:"clean"`
	// Behind are reads whose replies differed for a moment: their keys are the same on
	// both servers. Differing are those of a key that was proved to differ, or that the
	// servers answer differently again and again although the keys are the same.
	// Unsettled are those of which nobody can say, and Open those that are being judged.
	Behind    int64           `json:"behind"`
	Differing int64           `json:"differing"`
	Unsettled int64           `json:"unsettled"`
	LeftOut   int64           `json:"left_out"` // of keys that are not copied
	Open      int             `json:"open"`
	Keys      int64           `json:"differing_keys"` // times that a key was proved to differ, or a reply
	Families  []ShadowFamily  `json:"families"`
	Examples  []ShadowExample `json:"examples"` // the latest ones, the newest first
}

// ShadowFamily counts the reads of one group of commands that were answered
// differently.
type ShadowFamily struct {
	Family    string `json:"family"`
	Behind    int64  `json:"behind"`
	Differing int64  `json:"differing"`
	Unsettled int64  `json:"unsettled"`
}

// ShadowExample is a key that was proved to differ, and the read that has shown it.
type ShadowExample struct {
	Time     time.Time  `json:"time"`
	Database int        `json:"database"` // of the source
	Key      string     `json:"key"`
	Command  string     `json:"command"`
	Kind     value.Kind `json:"kind"`
	Words    string     `json:"words"`
}

const (
	shadowOpen     = 4096 // reads that are being judged at a time
	shadowExamples = 20
	shadowRetry    = time.Second      // until a prover that has failed is made anew
	shadowAgain    = 3                // times that a read is asked again, all of which must differ
	shadowPatience = 10 * time.Second // … and for how long
)

// replyKind is the kind of a difference that is in no key.
const replyKind value.Kind = "reply"

// shadow is what a Migration has of shadow reads.
type shadow struct {
	mu       sync.Mutex
	percent  int
	why      string // nothing is asked now, or ""
	stint    *stint // nil while nothing is asked
	status   ShadowStatus
	families map[string]*ShadowFamily
	base     int64 // reads that were equal when the last difference was proved
	judging  sync.WaitGroup
}

// stint is one stretch of shadow reads, with who judges them. The maps are guarded by
// shadow.mu.
type stint struct {
	ctx     context.Context
	cancel  context.CancelFunc
	config  verify.Config
	provers map[int]*verify.Prover // by source database
	retryAt map[int]time.Time
	open    map[shadowKey][]*shadowCase
	cases   map[*shadowCase]struct{} // all that are not over
	again   chan *shadowCase         // whose keys are the same
}

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

// Shadow changes how many of a hundred reads the target is asked too, until the process
// ends, and returns how it stands.
func (m *Migration) Shadow(o ShadowOptions) ShadowStatus {
	if o.Percent != nil {
		m.shadow.mu.Lock()
		was := m.shadow.percent
		m.shadow.percent = max(0, min(100, *o.Percent))
		m.shadow.mu.Unlock()
		if was != *o.Percent {
			m.log.Info("shadow reads", "percent", *o.Percent, "before", was)
		}
		m.whileIdle(m.followShadow)
	}
	return m.shadowStatus()
}

// shadowWaits says why no read can be asked twice now, or "".
func (m *Migration) shadowWaits() string {
	r, mi := m.record(), m.activeMirror()
	switch {
	case r.Phase.Ended():
		return "the migration has ended"
	case r.Side == router.Target:
		return "the clients are on the target"
	case r.Servers[router.Target].Fence != nil && r.Servers[router.Target].Fence.Raised:
		return "the target is fenced since the rollback: clients may not read there"
	case r.oneWay():
		return r.noWayBack()
	case m.opt.Only.Typed():
		return "only keys of some types are copied (sync.types), and a read does not say of which type its keys are"
	case mi == nil:
		return "the copy has not begun"
	}
	if state := mi.Progress().State; state != mirror.Live && state != mirror.Behind {
		return "the copy is not live (" + string(state) + ")"
	}
	return ""
}

// followShadow begins and ends shadow reads, with verb held.
func (m *Migration) followShadow() {
	why := m.shadowWaits()
	s := &m.shadow
	s.mu.Lock()
	percent := s.percent
	s.why = why
	on := percent > 0 && why == ""
	if on && s.stint == nil {
		s.stint = m.newStint()
	}
	s.mu.Unlock()
	if !on {
		m.endShadow()
		return
	}
	m.traffic.Shadow(percent)
}

// endShadow ends shadow reads. It waits for nobody: what is open counts as not settled,
// and what a judge still says of it is passed over.
func (m *Migration) endShadow() {
	m.traffic.Shadow(0)
	s := &m.shadow
	s.mu.Lock()
	st := s.stint
	s.stint = nil
	if st != nil {
		for c := range st.cases {
			if c.outcome != verify.Differing {
				c.outcome = verify.Undecided
			}
			s.count(c.read.Family, c.outcome)
		}
	}
	s.mu.Unlock()
	if st != nil {
		st.cancel()
	}
}

func (m *Migration) newStint() *stint {
	st := &stint{
		config: m.comparison(router.Source), provers: make(map[int]*verify.Prover), retryAt: make(map[int]time.Time),
		open: make(map[shadowKey][]*shadowCase), cases: make(map[*shadowCase]struct{}), again: make(chan *shadowCase, 1),
	}
	st.config.Parallel, st.config.Batch = 2, walkBatch
	st.config.Pending = shadowOpen
	st.config.Repair = m.mark
	st.ctx, st.cancel = context.WithCancel(context.Background())
	m.shadow.judging.Go(func() { m.askAgain(st) })
	return st
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
// asked, with all that was written before across.
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
		arrived, err := m.settled(ctx, read.DB, read.Keys)
		if err != nil || slices.Contains(arrived, false) {
			return false
		}
		if differs, err := read.Again(ctx); err != nil || !differs {
			return false
		}
	}
	return true
}

func (m *Migration) shadowStatus() ShadowStatus {
	equal := m.traffic.Shadowed()
	s := &m.shadow
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Percent, out.Equal, out.Clean = s.percent, equal, equal-s.base
	out.Examples = append([]ShadowExample{}, out.Examples...)
	out.Families = []ShadowFamily{}
	for _, f := range s.families {
		out.Families = append(out.Families, *f)
	}
	slices.SortFunc(out.Families, func(a, b ShadowFamily) int { return strings.Compare(a.Family, b.Family) })
	switch {
	case s.percent == 0:
		out.State = "off"
	case s.stint == nil:
		out.State, out.Why = "waiting", s.why
	default:
		out.State, out.Open = "on", len(s.stint.cases)
	}
	return out
}

// shadowReasons says why shadow reads hold a cutover up.
func (m *Migration) shadowReasons(side router.Side) []string {
	want := int64(m.cfg.Shadow.CleanReads)
	if want == 0 || side == router.Target {
		return nil
	}
	st := m.shadowStatus()
	switch {
	case st.Percent == 0:
		return []string{"no reads are compared (crossfade shadow 10%), and shadow.clean_reads wants some without a difference"}
	case st.Clean < want:
		return []string{fmt.Sprintf("%d of %d shadow reads without a difference (shadow.clean_reads)", st.Clean, want)}
	}
	return nil
}
