package migration

import (
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/throttle"
)

// Status is what `crossfade status --json` prints. Names and units are stable.
type Status struct {
	ID    string      `json:"id"`
	Phase Phase       `json:"phase"`
	Side  router.Side `json:"side"` // where the applications' commands go
	Epoch uint64      `json:"epoch"`
	// Role is "proxy" for a sidecar that only proxies, and State what it does with its
	// clients; both are "" for one that copies.
	Role  string `json:"role,omitempty"`
	State string `json:"state,omitempty"`

	// Ready says that a switch could be made now: a cutover while side is
	// source, a rollback while it is target. Reasons say why not.
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
	// Gates are the conditions that could be judged, one by one. The reasons are those of
	// the ones that are shut.
	Gates  []Gate `json:"gates"`
	Limits Limits `json:"limits"` // of a switch that is given none of its own

	Source string `json:"source"` // addresses, without secrets
	Target string `json:"target"`
	// NoWayBack says why there is no way back, or will be none after a cutover; "" where
	// there is one, as far as is known.
	NoWayBack string `json:"no_way_back,omitempty"`
	// SourceMaster and TargetMaster are where sentinels say that the servers are now, ""
	// where none watch them, or while it is not known.
	SourceMaster string `json:"source_master,omitempty"`
	TargetMaster string `json:"target_master,omitempty"`
	// TargetNodes are those of a cluster, as far as they are known.
	TargetNodes []NodeStatus     `json:"target_nodes,omitempty"`
	Databases   []DatabaseStatus `json:"databases"`
	LeaveOut    []int            `json:"leave_out"`
	Only        string           `json:"only,omitempty"` // which keys are copied, "" for all
	Big         []BigKeyStatus   `json:"big_keys"`       // that are being copied, the first ones

	// Uncopied are keys that cannot be copied, the first ones; each database says how
	// many there are.
	Uncopied []UncopiedKey `json:"uncopied_keys"`

	Throttle throttle.Status `json:"throttle"` // of scans

	Dirty int     `json:"dirty"`  // keys whose copy is stale, all databases
	LagMS float64 `json:"lag_ms"` // of the newest heartbeat, write to read back
	// LagP50MS and LagP99MS are percentiles of the latest 300 heartbeats, OldestMS the
	// age of the oldest change that is not yet on the other server.
	LagP50MS float64 `json:"lag_p50_ms"`
	LagP99MS float64 `json:"lag_p99_ms"`
	OldestMS float64 `json:"oldest_change_ms"`
	// Beats are the heartbeats that have arrived since the copy began, and LagSumMS the
	// sum of their lags.
	Beats    int     `json:"heartbeats"`
	LagSumMS float64 `json:"lag_sum_ms"`
	Gaps     int     `json:"gaps"`   // times that changes may have been missed, since the start
	Resync   string  `json:"resync"` // why the databases are scanned again, or ""

	// Feed is what tells of changes: notifications or tracking.
	Feed string `json:"feed,omitempty"`
	// FeedUp says that it is there, and was proved to tell of changes of late.
	FeedUp bool `json:"feed_up"`
	// Views is how the notifications and the proxy's own view of writes differ.
	Views mirror.Views `json:"views"`

	Fence string `json:"fence"` // level of the fence that is up, or ""
	// FenceLost counts how often it was found gone, since the start; it is raised again.
	FenceLost int64    `json:"fence_lost"`
	Checked   *Checked `json:"checked"` // the newest look at both servers, nil before one
	// Replicas are those of the server that was left, which are fenced with it, or should be.
	Replicas []ReplicaStatus `json:"replicas"`
	// Strays are clients of the server that was left, past the proxy: the fence refuses them.
	Strays []string `json:"strays"`
	// Members are the sidecars that only proxy.
	Members     []MemberStatus `json:"members,omitempty"`
	Verify      VerifyStatus   `json:"verify"`
	Shadow      ShadowStatus   `json:"shadow"`
	LastCutover *Report        `json:"last_cutover"`
	// Switches counts attempts since the start, by verb and by how they have ended.
	Switches map[string]map[Outcome]int64 `json:"switches"`
	// Waiting is a switch that waits for its moment, Dropped one that was not made.
	Waiting *WaitingStatus `json:"waiting"`
	Dropped *Dropped       `json:"dropped"`
	Errors  []mirror.Error `json:"errors"`
}

// DatabaseStatus is one database's progress.
type DatabaseStatus struct {
	Source   int     `json:"source"` // database numbers
	Target   int     `json:"target"`
	Prefix   string  `json:"prefix,omitempty"` // of its keys in the target's database
	Total    int64   `json:"total"`            // keys, at the beginning of the current scan
	Scanned  int64   `json:"scanned"`          // keys, by the current scan
	Copied   int64   `json:"copied"`           // since the sidecar started, scan and changes
	Equal    int64   `json:"equal"`            // of the scans, on both servers already: not written, since the sidecar started
	Removed  int64   `json:"removed"`
	Bytes    int64   `json:"bytes"`
	Dirty    int     `json:"dirty"`
	InFlight int     `json:"in_flight"`        // of the dirty ones, and of a scan's, being copied now
	OldestMS float64 `json:"oldest_change_ms"` // age of the oldest change that is not yet copied
	Percent  float64 `json:"percent"`
	Rate     float64 `json:"keys_per_second"`
	ETA      float64 `json:"eta_seconds"`
	Done     bool    `json:"done"`                   // nothing is left to scan
	Uncopied int     `json:"uncopied"`               // keys that cannot be copied
	Lossy    int     `json:"without_field_expiries"` // hashes that were copied without the expiries of their fields
}

// UncopiedKey is a key that cannot be copied.
type UncopiedKey struct {
	Database int    `json:"database"` // of the source
	Key      string `json:"key"`
	Why      string `json:"why"`
}

// BigKeyStatus is a big key that is being copied, or waits for it.
type BigKeyStatus struct {
	Database int     `json:"database"` // of the source
	Key      string  `json:"key"`
	Type     string  `json:"type"`
	Bytes    int64   `json:"bytes"` // written, since the sidecar started
	Size     int64   `json:"size"`  // in memory, as the server says, or a guess where it does not
	Percent  float64 `json:"percent"`
	Wait     float64 `json:"wait_seconds"` // until its turn, for one that was copied not long ago
}

// Report is one attempt to switch.
type Report struct {
	From   router.Side `json:"from"`
	To     router.Side `json:"to"`
	DryRun bool        `json:"dry_run,omitempty"`
	// Rehearsal: steps were taken under a hold, but for the fence, and taken back.
	Rehearsal bool      `json:"rehearsal,omitempty"`
	MaxStall  float64   `json:"max_stall_ms"` // for how long clients might wait
	Started   time.Time `json:"started"`
	Finished  time.Time `json:"finished"`
	OK        bool      `json:"ok"`
	Error     string    `json:"error,omitempty"`
	Stall     StallMS   `json:"stall_ms"` // how long sessions with work waited
	Sessions  int       `json:"sessions"` // that had work and waited
	Held      float64   `json:"held_ms"`  // from the hold to the release
	// Estimate is, of a rehearsal, for how long the switch itself would have held.
	Estimate float64    `json:"estimate_ms,omitempty"`
	Fence    FenceLevel `json:"fence"`
	OneWay   bool       `json:"one_way,omitempty"` // there is no way back from it
	// AskOneWay: only who says that this is accepted (SwitchOptions.OneWay) gets it.
	AskOneWay bool       `json:"ask_one_way,omitempty"`
	Steps     []StepTime `json:"steps"`
	Checked   int        `json:"checked"` // keys compared while both sides were frozen
	Findings  []string   `json:"findings,omitempty"`
	// Fleet is what other sidecars have done, where there are any.
	Fleet *FleetReport `json:"fleet,omitempty"`
}

// StallMS is in milliseconds.
type StallMS struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// StepTime is how long a step took.
type StepTime struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
	// Estimated: it was not taken; the time is that of its round trips.
	Estimated bool `json:"estimated,omitempty"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Status returns the present state. It does no I/O and may be called often.
func (m *Migration) Status() Status {
	m.mu.Lock()
	r, problems, report, mi := m.rec.clone(), m.problems, m.report, m.mirror
	pairs, scan := m.dbmap, m.scan
	var waits []string
	if m.waiting != nil {
		waits = m.waiting.why
	}
	m.mu.Unlock()
	s := Status{
		ID: r.ID, Phase: r.Phase, Side: r.Side, Epoch: r.Epoch,
		Source: m.ids[router.Source].url.String(), Target: m.ids[router.Target].url.String(),
		LeaveOut: r.LeaveOut, LastCutover: report, Only: m.opt.Only.String(),
		Reasons: []string{}, Gates: []Gate{}, Limits: m.limitsOf(), Databases: []DatabaseStatus{}, Errors: []mirror.Error{}, Big: []BigKeyStatus{},
		Uncopied: []UncopiedKey{},
	}
	s.TargetNodes = nodesOf(m.ids[router.Target].Pool())
	s.SourceMaster, s.TargetMaster = m.ids[router.Source].master(), m.ids[router.Target].master()
	if !r.Phase.Ended() {
		s.NoWayBack = m.noReturn()
	}
	if s.LeaveOut == nil {
		s.LeaveOut = []int{}
	}
	if s.LastCutover == nil {
		s.LastCutover = r.LastCutover
	}
	if a := r.Appointment; a != nil {
		s.Waiting = a.status(waits)
	}
	s.Dropped = r.Dropped
	for _, k := range r.Servers {
		if k.Fence != nil && k.Fence.Raised {
			s.Fence = string(k.Fence.Level)
		}
	}
	s.FenceLost, s.Switches = m.fenceLost.count.Load(), m.switches.all()
	s.Replicas, s.Strays, s.Members = m.replicaStatus(r), m.strayNames(), m.crew.members()
	if mi == nil {
		for _, db := range pairs.Sources() {
			to, _ := pairs.Place(db)
			s.Databases = append(s.Databases, DatabaseStatus{Source: db, Target: to.DB, Prefix: to.Prefix})
		}
	} else {
		p := mi.Progress()
		s.Dirty, s.LagMS, s.Gaps, s.Resync = p.Dirty, ms(p.Lag), p.Gaps, p.Reason
		s.LagP50MS, s.LagP99MS, s.OldestMS = ms(p.Recent.P50), ms(p.Recent.P99), ms(p.Oldest)
		s.Beats, s.LagSumMS = p.Recent.All, ms(p.Recent.Sum)
		s.Errors = append(s.Errors, p.Errors...)
		m.mu.Lock()
		scan = m.throttled(mi.Throttle().Status())
		m.mu.Unlock()
		s.Feed, s.FeedUp, s.Views = p.Feed, p.Hears, p.Views
		for _, d := range p.Databases {
			s.Databases = append(s.Databases, databaseStatus(d))
		}
		for _, k := range p.Stuck {
			s.Uncopied = append(s.Uncopied, UncopiedKey{Database: k.Database, Key: k.Key, Why: k.Why})
		}
		for _, k := range p.Big {
			s.Big = append(s.Big, BigKeyStatus{Database: k.Database, Key: k.Key, Type: k.Type, Bytes: k.Bytes, Size: k.Size, Percent: k.Percent, Wait: k.Wait.Seconds()})
		}
	}
	s.Throttle = scan
	problems = append(m.deniedUsers(r), problems...)
	if doubt := m.seat.doubts(); doubt != "" {
		problems = append([]string{doubt}, problems...)
	}
	s.Gates = append(s.Gates, gate("course", "nothing keeps the migration from going on", problems...))
	s.Gates = append(s.Gates, m.gates(r, mi)...)
	s.Reasons = append(s.Reasons, shut(s.Gates)...)
	s.Ready = len(s.Reasons) == 0
	s.Verify = m.verifyStatus()
	s.Shadow = m.shadowStatus()
	s.Checked = m.checked()
	return s
}

func databaseStatus(d mirror.Database) DatabaseStatus {
	return DatabaseStatus{
		Source: d.Source, Target: d.Place.DB, Prefix: d.Place.Prefix, Total: d.Total, Scanned: d.Scanned, Copied: d.Copied, Equal: d.Equal, Removed: d.Removed,
		Bytes: d.Bytes, Dirty: d.Dirty, InFlight: d.InHand, OldestMS: ms(d.Oldest), Percent: d.Percent(), Rate: d.Rate(), ETA: d.ETA().Seconds(), Done: d.ScanComplete,
		Uncopied: d.Stuck, Lossy: d.Lossy,
	}
}

// tooSlow reports whether clients would wait for a big key for longer than a
// switch may take: one that is due for a whole copy again, and that takes long.
func tooSlow(k mirror.BigKey, maxStall time.Duration) bool { return k.Cost > maxStall/2 }

func percents(dbs []mirror.Database) string {
	var parts []string
	for _, d := range dbs {
		if !d.ScanComplete {
			parts = append(parts, fmt.Sprintf("database %d %.1f %%", d.Source, d.Percent()))
		}
	}
	return strings.Join(parts, ", ")
}
