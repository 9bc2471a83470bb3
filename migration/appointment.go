package migration

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/crossfade/crossfade/router"
)

// Appointment is a switch that waits for its moment. It is in the record before
// anybody waits, so it outlives the process.
type Appointment struct {
	From router.Side `json:"from"`
	Made time.Time   `json:"made"`
	// At is when it may begin, Until when it is given up. Zero: at once, and never.
	At    time.Time `json:"at,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// WhenReady has it wait until the copy is close, and again after a refusal.
	WhenReady bool          `json:"when_ready,omitempty"`
	MaxStall  time.Duration `json:"max_stall"` // ns, as MaxLag
	MaxLag    time.Duration `json:"max_lag"`
	Retries   int           `json:"retries"` // attempts after the first one
	Failed    int           `json:"failed"`  // attempts that were taken back for their stall
	OneWay    bool          `json:"one_way,omitempty"`
	// UnderWay says that an attempt was begun. A process that finds it so at its start
	// has ended in the middle of one.
	UnderWay bool `json:"under_way,omitempty"`
}

func (a Appointment) verb() string { return verbOf(a.From) }

func verbOf(from router.Side) string {
	if from == router.Target {
		return "rollback"
	}
	return "cutover"
}

// Dropped is an appointment that was not kept.
type Dropped struct {
	Verb string    `json:"verb"`
	Made time.Time `json:"made"`
	At   time.Time `json:"at"` // when it was dropped
	Why  string    `json:"why"`
}

// appointmentOf returns what the operator's wishes ask to wait for; nil: nothing.
func (m *Migration) appointmentOf(from router.Side, o SwitchOptions, now time.Time) (*Appointment, error) {
	waits := o.WhenReady || o.At != "" || o.Retries != nil && *o.Retries > 0
	if o.DryRun || o.Rehearse {
		if waits {
			return nil, &Refused{[]string{"a dry run and a rehearsal wait for nothing: ask for them alone"}}
		}
		return nil, nil
	}
	if !waits && m.postponed(from) == "" {
		return nil, nil
	}
	a := &Appointment{
		From: from, Made: now, WhenReady: o.WhenReady, MaxStall: o.MaxStall, MaxLag: o.MaxLag, Retries: m.cfg.Cutover.Retries,
		OneWay: o.OneWay,
	}
	if o.Retries != nil {
		a.Retries = *o.Retries
	}
	begin := now
	if o.At != "" {
		at, err := m.cfg.Cutover.Moment(o.At, now)
		if err != nil {
			return nil, &Refused{[]string{"at: " + err.Error()}}
		}
		a.At, begin = at, at
	}
	timeout := m.cfg.Cutover.Timeout
	if o.Timeout != nil {
		timeout = *o.Timeout
	}
	if timeout > 0 {
		a.Until = begin.Add(timeout)
	}
	return a, nil
}

// postponed says why a switch has to wait although it could be made, or "".
func (m *Migration) postponed(from router.Side) string {
	file := m.cfg.Cutover.PostponeFile
	if file == "" || from != router.Source {
		return ""
	}
	_, err := os.Stat(file)
	switch {
	case err == nil:
		return fmt.Sprintf("the file %s exists (cutover.postpone_file)", file)
	case errors.Is(err, os.ErrNotExist):
		return ""
	}
	return fmt.Sprintf("nobody can tell whether the file of cutover.postpone_file exists: %v", err)
}

// WaitingStatus is a switch that waits for its moment.
type WaitingStatus struct {
	Verb     string     `json:"verb"` // cutover or rollback
	Since    time.Time  `json:"since"`
	For      []string   `json:"for"`             // what it waits for now
	At       *time.Time `json:"at,omitempty"`    // not before
	Until    *time.Time `json:"until,omitempty"` // given up then
	Failed   int        `json:"failed_attempts"`
	Retries  int        `json:"retries"` // attempts after the first one
	MaxStall float64    `json:"max_stall_ms"`
	MaxLag   float64    `json:"max_lag_ms"`
}

func (a Appointment) status(why []string) *WaitingStatus {
	s := &WaitingStatus{
		Verb: a.verb(), Since: a.Made, For: append([]string{}, why...), Failed: a.Failed, Retries: a.Retries,
		MaxStall: ms(a.MaxStall), MaxLag: ms(a.MaxLag),
	}
	if !a.At.IsZero() {
		s.At = &a.At
	}
	if !a.Until.IsZero() {
		s.Until = &a.Until
	}
	return s
}
