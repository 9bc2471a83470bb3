package throttle

import "time"

// Window is a time of the week with limits of its own.
type Window struct {
	Days [7]bool // by time.Weekday: on which it begins
	// From and To are by the clock on the wall, minutes since midnight. To may be 24*60,
	// and one that is not after From is on the next day.
	From, To int
	Limits   Limits
	Paused   bool
	Name     string // for people
}

// Schedule says which limits there are when. It does not change and is safe for
// concurrent use. nil has no windows.
type Schedule struct {
	windows   []Window
	zone      *time.Location
	otherwise Limits
}

// NewSchedule returns a schedule of windows, of which the first that is open counts;
// outside of all of them the limits are otherwise. zone is whose clock is looked at.
func NewSchedule(windows []Window, zone *time.Location, otherwise Limits) *Schedule {
	if len(windows) == 0 {
		return nil
	}
	return &Schedule{windows: windows, zone: zone, otherwise: otherwise}
}

// Plan is what a schedule says at one moment.
type Plan struct {
	Limits Limits // also while Paused: for whom that does not hold
	Paused bool
	Window string // its name, "" outside of all
}

// At returns what is to be at t.
func (s *Schedule) At(t time.Time) Plan {
	if i := s.open(t); i >= 0 {
		w := s.windows[i]
		p := Plan{Limits: w.Limits, Paused: w.Paused, Window: w.Name}
		if p.Paused && p.Limits == (Limits{}) {
			p.Limits = s.otherwise
		}
		return p
	}
	return Plan{Limits: s.otherwise}
}

// open returns which window counts at t, -1 for none.
func (s *Schedule) open(t time.Time) int {
	local := t.In(s.zone)
	day, minute := local.Weekday(), 60*local.Hour()+local.Minute()
	for i, w := range s.windows {
		before := (day + 6) % 7
		switch {
		case w.From < w.To && w.Days[day] && w.From <= minute && minute < w.To,
			w.From >= w.To && w.Days[day] && w.From <= minute,
			w.From >= w.To && w.Days[before] && minute < w.To:
			return i
		}
	}
	return -1
}

// weekAndMore is how far Next looks: a window that opens on one day of the week.
const weekAndMore = 8 * 24 * time.Hour

// Next returns when another window begins to count, or none does, after t; zero when
// that is never. It goes by the clock on the wall, which jumps in spring and in autumn.
func (s *Schedule) Next(t time.Time) time.Time {
	now := s.open(t)
	for at := t.Truncate(time.Minute).Add(time.Minute); at.Before(t.Add(weekAndMore)); at = at.Add(time.Minute) {
		if s.open(at) != now {
			return at.In(s.zone)
		}
	}
	return time.Time{}
}
