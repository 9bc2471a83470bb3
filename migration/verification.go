package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/value"
	"github.com/crossfade/crossfade/sync/verify"
)

// VerifyOptions are the operator's wishes for a comparison.
type VerifyOptions struct {
	Sample float64 // share of the keys, 0 or 1: all
	Repair bool    // make equal what differs
}

// VerifyStatus is what is known about comparisons of both sides.
type VerifyStatus struct {
	// Running is where the operator's comparison is, nil without one.
	Running *verify.Progress `json:"running,omitempty"`
	// Last is the newest comparison that came to its end.
	Last *VerifySummary `json:"last"`
	// Background is the one that goes on all the time.
	Background BackgroundVerify `json:"background"`
}

// BackgroundVerify is the comparison that goes on all the time.
type BackgroundVerify struct {
	State    string           `json:"state"` // "off", "waiting" (for the copy, or for the next walk) or "comparing"
	Rate     int              `json:"keys_per_second"`
	Progress *verify.Progress `json:"progress,omitempty"`
	Walks    int64            `json:"walks"`  // through all keys, since the start
	Alarms   int64            `json:"alarms"` // keys that differed although the copy claimed to be live
	Alarm    string           `json:"alarm"`  // the newest one, or ""
	AlarmAt  *time.Time       `json:"alarm_at,omitempty"`
	Last     *VerifySummary   `json:"last"`
}

// VerifySummary is one comparison in short.
type VerifySummary struct {
	By        string         `json:"by"` // "operator" or "background"
	Ended     time.Time      `json:"ended"`
	Age       float64        `json:"age_seconds"` // since it began: what it saw may be that old
	Verdict   verify.Verdict `json:"verdict"`
	Sample    float64        `json:"sample"`
	Keys      int64          `json:"keys"`
	Differing int64          `json:"differing"` // those that were mended are not counted
	Repaired  int64          `json:"repaired"`
	Undecided int64          `json:"undecided"`
	Moving    int64          `json:"moving"`
	Stale     bool           `json:"stale"` // something was written since it began
	// Holds says that it found no difference in all keys, and that every change
	// since was followed: the sides are equal but for what is dirty.
	Holds bool `json:"holds"`
}

// verification is what a Migration knows about comparisons.
type verification struct {
	running sync.Mutex   // held for the length of the operator's
	silent  atomic.Int64 // changes that no notification told of

	mu       sync.Mutex
	operator *verify.Progress
	back     BackgroundVerify
	last     *verified // the newest one
	lastBack *verified // the newest one of the background
	whole    *verified // the newest one of all keys
	// known are those that left differences, as far as they came, each until one supersedes it.
	known []*verified
}

// verified is a comparison that came to its end, or to a difference, with what its worth
// rests on.
type verified struct {
	report  verify.Report
	mirror  *mirror.Mirror // that ran all the time; nil: not known, from before a restart
	gaps    int            // at its beginning
	changes int64          // at its beginning
}

// changed returns how many changes there were since, -1 when nobody knows.
func (v *verified) changed(m *Migration) int64 {
	mi := m.activeMirror()
	if mi == nil || mi != v.mirror {
		return -1
	}
	return mi.Changes() + m.verification.silent.Load() - v.changes
}

// holds returns why what was found is not known to be so still, or "".
func (v *verified) holds(m *Migration) string {
	mi := m.activeMirror()
	switch {
	case v.report.Sample < 1:
		return "it looked at a sample only"
	case !v.report.OK():
		return "it found " + v.report.Words()
	case mi == nil || mi != v.mirror:
		return "it was made before the restart or the switch"
	case mi.Progress().Gaps != v.gaps:
		return "changes may have been missed since"
	}
	return ""
}

func (v *verified) summary(m *Migration) *VerifySummary {
	if v == nil {
		return nil
	}
	r := v.report
	return &VerifySummary{
		By: r.By, Ended: r.Ended, Age: time.Since(r.Began).Seconds(), Verdict: r.Verdict, Sample: r.Sample, Keys: r.Keys,
		Differing: r.Left(), Repaired: r.Repaired, Undecided: r.Undecided, Moving: r.Moving,
		Stale: v.changed(m) != 0, Holds: v.holds(m) == "",
	}
}

// Verify compares both servers while traffic goes on: what it reports is proved. A
// key that differs is copied again when that is wished. It needs no other operation
// to be finished.
func (m *Migration) Verify(ctx context.Context, o VerifyOptions) (verify.Report, error) {
	v := &m.verification
	if !v.running.TryLock() {
		return verify.Report{}, &Refused{[]string{"another verification is under way; see crossfade status"}}
	}
	defer v.running.Unlock()
	if why := m.notComparable(); why != "" {
		return verify.Report{}, &Refused{[]string{why}}
	}
	mi := m.activeMirror()
	if mi == nil { // it has just gone
		return verify.Report{}, &Refused{[]string{"the copy is not running; see crossfade status"}}
	}
	if p := mi.Progress(); p.State != mirror.Live {
		return verify.Report{}, &Refused{[]string{"the copy is not live (" + string(p.State) + "), so what differs now says nothing; see crossfade status"}}
	}
	cfg := m.comparison(m.record().Side)
	cfg.Sample, cfg.Parallel = o.Sample, m.cfg.Verify.Parallel
	if o.Repair {
		cfg.Repair = m.mark
	}
	cfg.Progress = func(p verify.Progress) {
		v.mu.Lock()
		v.operator = &p
		v.mu.Unlock()
	}
	defer func() {
		v.mu.Lock()
		v.operator = nil
		v.mu.Unlock()
	}()
	return m.compared(ctx, cfg, "operator")
}

// notComparable says why both sides cannot be compared now, or "".
func (m *Migration) notComparable() string {
	r := m.record()
	switch {
	case len(m.databases().Sources()) == 0:
		return "the database map is not known yet; see crossfade status"
	case r.Phase.Ended():
		return "the migration has ended, the two sides go their own ways"
	case r.oneWay():
		return r.noWayBack()
	case m.activeMirror() == nil:
		return "the copy has not begun, so there is nothing to compare; to compare two servers without a copy: crossfade verify --direct"
	}
	return ""
}

// comparison is how both sides are compared while the applications are on one.
func (m *Migration) comparison(side router.Side) verify.Config {
	source, target := m.ids[router.Source].Pool(), m.ids[router.Target].Pool()
	return verify.Config{
		Source:    source.At,
		Target:    target.At,
		Databases: m.databases().Pairs(),
		Reverse:   side == router.Target,
		Settle:    250 * time.Millisecond,
		Ignore:    func(key string) bool { return strings.HasPrefix(key, mirror.KeyPrefix) },
		Settled:   m.settled,

		NoFieldExpiries: m.dropsFieldExpiries(),
		Only:            m.opt.Only,
	}
}

func (m *Migration) settled(ctx context.Context, db int, keys []string) ([]bool, error) {
	mi, ok := m.observed(db)
	if !ok {
		return nil, errors.New("nothing is copied now")
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
	defer cancel()
	return mi.Settled(ctx, db, keys)
}

// mark repairs keys: they go the way of all changes.
func (m *Migration) mark(_ context.Context, db int, keys []string) error {
	mi, ok := m.observed(db)
	if !ok {
		return errors.New("nothing is copied now")
	}
	mi.Mark(db, keys...)
	return nil
}

// compared runs a comparison and keeps what it found.
func (m *Migration) compared(ctx context.Context, cfg verify.Config, by string) (verify.Report, error) {
	mi := m.activeMirror()
	if mi == nil {
		return verify.Report{}, errors.New("nothing is copied now")
	}
	found := &verified{mirror: mi, gaps: mi.Progress().Gaps, changes: mi.Changes() + m.verification.silent.Load()}
	r, err := verify.Run(ctx, cfg)
	r.By, r.Source, r.Target = by, m.ids[router.Source].url.String(), m.ids[router.Target].url.String()
	if err != nil {
		r.Error = err.Error()
	}
	found.report = r
	found.report.Changes = found.changed(m)
	found.report.Stale = found.report.Changes != 0
	m.verification.learn(found)
	if err != nil {
		return found.report, err
	}
	m.keepVerified(found)
	return found.report, nil
}

// knownMost bounds how many are kept, with the names of what they left.
const knownMost = 8

// learn keeps what found says of differences. A sample that meets none says nothing
// about those that another one has met, nor does one that was broken off.
func (v *verification) learn(found *verified) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known = slices.DeleteFunc(v.known, func(before *verified) bool { return found.report.Supersedes(before.report) })
	if found.report.Left() == 0 {
		return
	}
	if v.known = append(v.known, found); len(v.known) > knownMost {
		v.known = slices.Delete(v.known, 1, 2) // any one of them keeps a cutover refused
	}
}

func (m *Migration) keepVerified(found *verified) {
	v := &m.verification
	v.mu.Lock()
	v.last = found
	if found.report.Sample >= 1 {
		v.whole = found
	}
	if found.report.By == "background" {
		v.lastBack = found
		v.back.Walks++
	}
	v.mu.Unlock()
	if err := verify.Write(m.verifyPath(), found.report); err != nil {
		m.log.Error("the report of the verification is not kept", "error", err)
	}
}

// verifyPath is where reports are written, without .json and .txt.
func (m *Migration) verifyPath() string {
	if m.cfg.Verify.Report != "" {
		return m.cfg.Verify.Report
	}
	return m.cfg.State + ".verify"
}

// recallVerified takes up the report of an earlier process: to be shown, but it
// vouches for nothing any more.
func (m *Migration) recallVerified() {
	r, ok, err := verify.Read(m.verifyPath())
	if err != nil {
		m.log.Warn("the report of the last verification cannot be read", "error", err)
	}
	if !ok || r.Source != m.ids[router.Source].url.String() || r.Target != m.ids[router.Target].url.String() {
		return
	}
	v := &m.verification
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = &verified{report: r}
}

// LastVerification returns the newest report, with what is known now about changes
// since; ok is false without any.
func (m *Migration) LastVerification() (r verify.Report, ok bool) {
	m.verification.mu.Lock()
	last := m.verification.last
	m.verification.mu.Unlock()
	if last == nil {
		return verify.Report{}, false
	}
	r = last.report
	r.Changes = last.changed(m)
	r.Stale = r.Changes != 0
	return r, true
}

// noteStale has the report's file say so when something was written since.
func (m *Migration) noteStale() {
	v := &m.verification
	v.mu.Lock()
	last := v.last
	v.mu.Unlock()
	if last == nil || last.report.Stale {
		return
	}
	changes := last.changed(m)
	if changes == 0 {
		return
	}
	stale := *last
	stale.report.Changes, stale.report.Stale = changes, true
	v.mu.Lock()
	same := v.last == last
	if same {
		v.last = &stale
	}
	v.mu.Unlock()
	if !same {
		return
	}
	if err := verify.Write(m.verifyPath(), stale.report); err != nil {
		m.log.Error("the report of the verification does not say that it is stale", "error", err)
	}
}

func (m *Migration) verifyStatus() VerifyStatus {
	v := &m.verification
	v.mu.Lock()
	s := VerifyStatus{Running: v.operator, Background: v.back}
	last, back := v.last, v.lastBack
	v.mu.Unlock()
	s.Last, s.Background.Last = last.summary(m), back.summary(m)
	s.Background.Rate = m.cfg.Verify.Rate
	switch {
	case s.Background.Rate == 0:
		s.Background.State = "off"
	case s.Background.State == "":
		s.Background.State = "waiting"
	}
	return s
}

// verifyReasons says why a switch does not go with what was compared.
func (m *Migration) verifyReasons() []string {
	v := &m.verification
	v.mu.Lock()
	known, whole := v.known, v.whole
	v.mu.Unlock()
	switch gate := m.cfg.Verify.Gate; {
	case gate == "off":
		return nil
	case len(known) > 0:
		known := known[len(known)-1]
		return []string{fmt.Sprintf("a verification (%s) found %d keys that differ, and none of all keys has found them equal since; run crossfade verify --repair (or set verify.gate: off)",
			known.report.Ended.Local().Format(time.DateTime), known.report.Left())}
	case gate == "known":
		return nil
	case whole == nil:
		return []string{"no verification has looked at all keys yet (verify.gate: passed); run crossfade verify"}
	case whole.holds(m) != "":
		return []string{"the last verification of all keys does not count (verify.gate: passed): " + whole.holds(m) + "; run crossfade verify"}
	case time.Since(whole.report.Began) > m.cfg.Verify.MaxAge:
		return []string{fmt.Sprintf("the last verification of all keys is older than %v (verify.max_age); run crossfade verify", m.cfg.Verify.MaxAge)}
	}
	return nil
}

// errPaused is the cause with which a walk ends that may not go on now.
var errPaused = errors.New("the copy is not live any more, or a switch is under way")

// verifyAlways compares both sides as long as the copy is live, until ctx ends.
func (m *Migration) verifyAlways(ctx context.Context) {
	if m.cfg.Verify.Rate == 0 {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	m.backState("waiting", nil)
	for next := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Now().Before(next) || !m.mayWalk() {
			continue
		}
		began := time.Now()
		walk, cancel := context.WithCancelCause(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			m.walkOnce(walk)
		}()
		for walking := true; walking; {
			select {
			case <-ended:
				walking = false
			case <-tick.C:
				if !m.mayWalk() {
					cancel(errPaused)
				}
			}
		}
		cancel(nil)
		m.backState("waiting", nil)
		next = began.Add(m.cfg.Verify.Interval)
		if wait := time.Now().Add(time.Second); next.Before(wait) && m.cfg.Verify.Interval > time.Second {
			next = wait
		}
	}
}

// mayWalk reports whether the copy claims to be live and nothing is being switched.
func (m *Migration) mayWalk() bool {
	r := m.record()
	if r.Phase.Switching() || r.Phase == Committing || r.Phase == Committed || m.notComparable() != "" {
		return false
	}
	mi := m.activeMirror()
	return mi != nil && mi.Progress().State == mirror.Live
}

func (m *Migration) backState(state string, p *verify.Progress) {
	v := &m.verification
	v.mu.Lock()
	defer v.mu.Unlock()
	v.back.State, v.back.Progress = state, p
}

// Gentle figures: the walk has all the time in the world.
const (
	walkBatch   = 128
	walkBig     = 128 << 10
	walkPending = 5000
)

// walkOnce is one walk in the background.
func (m *Migration) walkOnce(ctx context.Context) {
	cfg := m.comparison(m.record().Side)
	cfg.Parallel, cfg.Big, cfg.Pending = 1, walkBig, walkPending
	cfg.Batch = max(1, min(walkBatch, m.cfg.Verify.Rate/4))
	cfg.Limits = throttle.Limits{Keys: int64(m.cfg.Verify.Rate), Bytes: int64(m.cfg.Verify.ByteRate)}
	cfg.Repair = m.mark
	cfg.OnDiffer = m.alarm
	cfg.Progress = func(p verify.Progress) { m.backState("comparing", &p) }
	r, err := m.compared(ctx, cfg, "background")
	switch {
	case ctx.Err() != nil:
	case err != nil:
		m.log.Warn("the comparison in the background was interrupted", "error", err)
	case r.Left() > 0:
		m.log.Error("keys differ and could not be mended by copying them again", "keys", r.Left(), "report", m.verifyPath()+".txt")
	}
}

// alarm counts a key that differs although the copy claims to be live.
func (m *Migration) alarm(db int, key string, d value.Diff) {
	words := fmt.Sprintf("key %q of database %d differed although the copy was live (%s): %s", key, db, d.Kind, d.Words)
	now := time.Now()
	v := &m.verification
	v.mu.Lock()
	v.back.Alarms++
	n := v.back.Alarms
	v.back.Alarm, v.back.AlarmAt = words, &now
	v.mu.Unlock()
	if n <= 100 || n%1000 == 0 { // a flood says nothing more
		m.log.Error("verification: "+words, "alarms", n)
	}
}
