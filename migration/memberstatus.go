package migration

import (
	"context"

	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/verify"
)

// onlyProxies is what a verb gets that is not a member's to carry out.
const onlyProxies = "this sidecar only proxies (role: proxy): ask the one that copies"

// Status returns what this process knows. It does no I/O.
func (m *Member) Status() Status {
	m.mu.Lock()
	r, route, state, problem := m.rec.clone(), m.route, m.state, m.problem
	unheard := m.unheard
	if m.over || m.opt.Meeting == nil { // of the target its own troubles tell
		unheard = absence{}
	}
	m.mu.Unlock()
	s := Status{
		ID: r.ID, Phase: r.Phase, Side: route.Side, Epoch: route.Epoch, Role: "proxy", State: string(state),
		Source: m.ids[router.Source].url.String(), Target: m.ids[router.Target].url.String(),
		LeaveOut: append([]int{}, r.LeaveOut...), LastCutover: r.LastCutover, Dropped: r.Dropped,
		Reasons: []string{onlyProxies}, Gates: []Gate{}, Databases: []DatabaseStatus{}, Errors: []mirror.Error{}, Big: []BigKeyStatus{},
		Uncopied: []UncopiedKey{}, Replicas: []ReplicaStatus{}, Strays: []string{},
		Limits: Limits{MaxStallMS: ms(m.cfg.Cutover.MaxStall), MaxLagMS: ms(m.cfg.Cutover.MaxLag)},
	}
	if s.Phase == "" {
		s.Phase = Idle
	}
	if state != fleet.Open && problem == "" {
		problem = "a switch is under way"
	}
	s.Reasons = append(unheard.why("the fleet does not hear of this sidecar, nor this one of a switch, of which its clients find out by the fence"), s.Reasons...)
	s.Reasons = append(r.missed(m.opt.Meeting), s.Reasons...)
	if problem != "" {
		s.Reasons = append([]string{problem}, s.Reasons...)
	}
	for _, db := range route.Map.Sources() {
		to, _ := route.Map.Place(db)
		s.Databases = append(s.Databases, DatabaseStatus{Source: db, Target: to.DB, Prefix: to.Prefix})
	}
	for _, k := range r.Servers {
		if k.Fence != nil && k.Fence.Raised {
			s.Fence = string(k.Fence.Level)
		}
	}
	return s
}

func refusedHere() error { return &Refused{[]string{onlyProxies}} }

// Cutover is refused: it is for the sidecar that copies, as all that follows.
func (m *Member) Cutover(context.Context, SwitchOptions) (Report, error) {
	return Report{}, refusedHere()
}

// Rollback is refused.
func (m *Member) Rollback(context.Context, SwitchOptions) (Report, error) {
	return Report{}, refusedHere()
}

// Abort is refused.
func (m *Member) Abort(context.Context) error { return refusedHere() }

// Complete is refused.
func (m *Member) Complete(context.Context, CompleteOptions) ([]string, error) {
	return nil, refusedHere()
}

// Throttle says that nothing is copied.
func (m *Member) Throttle(ThrottleOptions) throttle.Status { return throttle.Status{} }

// Verify is refused.
func (m *Member) Verify(context.Context, VerifyOptions) (verify.Report, error) {
	return verify.Report{}, refusedHere()
}

// Shadow says that nothing is compared.
func (m *Member) Shadow(ShadowOptions) ShadowStatus { return ShadowStatus{} }

// LastVerification says that there was none.
func (m *Member) LastVerification() (verify.Report, bool) { return verify.Report{}, false }

// Look is refused.
func (m *Member) Look(context.Context) (CheckReport, error) { return CheckReport{}, refusedHere() }

// LastLook says that there was none.
func (m *Member) LastLook() (CheckReport, bool) { return CheckReport{}, false }
