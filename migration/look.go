package migration

import (
	"context"
	"time"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
)

// CheckReport is one look at both servers by a running sidecar.
type CheckReport struct {
	From     router.Side         `json:"from"` // the side that the next switch would leave
	Began    time.Time           `json:"began"`
	Ended    time.Time           `json:"ended"`
	OK       bool                `json:"ok"` // no failure
	Findings []preflight.Finding `json:"findings"`
}

// Checked is a CheckReport in short.
type Checked struct {
	From  router.Side `json:"from"`
	Ended time.Time   `json:"ended"`
	OK    bool        `json:"ok"`
	Pass  int         `json:"pass"` // findings
	Warn  int         `json:"warn"`
	Fail  int         `json:"fail"`
}

// Look makes the checks of the next switch and remembers what they found: all of them
// before a cutover, as crossfade check does, and before a rollback those that it makes
// itself. It changes nothing; small keys of ours are written and taken away again.
func (m *Migration) Look(ctx context.Context) (CheckReport, error) {
	if !m.operator.TryLock() {
		return CheckReport{}, errBusy
	}
	defer m.operator.Unlock()
	r := m.record()
	if r.Phase.Ended() {
		return CheckReport{}, &Refused{[]string{"the migration has ended (" + string(r.Phase) + "): there is no next switch to check for"}}
	}
	stage := preflight.StageCheck
	if r.Side == router.Target {
		stage = preflight.StageCutover
	}
	report := CheckReport{From: r.Side, Began: time.Now()}
	report.Findings = append([]preflight.Finding{}, preflight.Run(ctx, m.env(r.Side), stage)...)
	report.Findings = append(report.Findings, meetingFindings(ctx, m.crew.store)...)
	report.Findings = append(report.Findings, fleetFindings(m.crew.members(), m.opt.Version)...)
	report.Ended, report.OK = time.Now(), !preflight.Failed(report.Findings)
	m.mu.Lock()
	m.looked = &report
	m.mu.Unlock()
	return report, nil
}

// LastLook returns the newest one; false before the first.
func (m *Migration) LastLook() (CheckReport, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.looked == nil {
		return CheckReport{}, false
	}
	return *m.looked, true
}

func (m *Migration) checked() *Checked {
	r, ok := m.LastLook()
	if !ok {
		return nil
	}
	c := &Checked{From: r.From, Ended: r.Ended, OK: r.OK}
	for _, f := range r.Findings {
		switch f.Level {
		case preflight.Fail:
			c.Fail++
		case preflight.Warn:
			c.Warn++
		default:
			c.Pass++
		}
	}
	return c
}
