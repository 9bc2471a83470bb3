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
	// says that the source has said the same twice, and the target something else. arrived
	// is asked between the source's first reply and the target's, and says whether all that
	// was written to the keys before is across: if not, nothing is proved. nil: it cannot
	// be asked.
	Again func(ctx context.Context, arrived func() (bool, error)) (differs bool, err error)
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
