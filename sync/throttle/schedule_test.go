package throttle

import (
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// weekdays has Monday to Friday.
var weekdays = [7]bool{false, true, true, true, true, true, false}

func days(list ...time.Weekday) (d [7]bool) {
	for _, w := range list {
		d[w] = true
	}
	return d
}

func TestSchedule(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	s := NewSchedule([]Window{
		{Days: weekdays, From: 8 * 60, To: 18 * 60, Limits: Limits{Keys: 2000}, Name: "work"},
		{Days: days(time.Friday, time.Saturday), From: 22 * 60, To: 6 * 60, Paused: true, Name: "night"},
		{Days: days(time.Sunday), From: 0, To: 24 * 60, Limits: Limits{Bytes: 1}, Name: "sunday"},
	}, berlin, Limits{Keys: 7})
	for _, test := range []struct{ at, window, next string }{
		{"2026-11-25 07:59", "", "2026-11-25 08:00"}, // a Wednesday
		{"2026-11-25 08:00", "work", "2026-11-25 18:00"},
		{"2026-11-25 17:59", "work", "2026-11-25 18:00"},
		{"2026-11-25 18:00", "", "2026-11-26 08:00"},
		{"2026-11-27 21:00", "", "2026-11-27 22:00"},
		{"2026-11-27 23:00", "night", "2026-11-28 06:00"}, // Friday's
		{"2026-11-28 05:59", "night", "2026-11-28 06:00"},
		{"2026-11-28 12:00", "", "2026-11-28 22:00"},
		{"2026-11-29 05:00", "night", "2026-11-29 06:00"}, // Saturday's comes first
		{"2026-11-29 06:00", "sunday", "2026-11-30 00:00"},
		{"2026-11-29 23:59", "sunday", "2026-11-30 00:00"},
		{"2026-11-30 00:00", "", "2026-11-30 08:00"},
	} {
		at, err := time.ParseInLocation("2006-01-02 15:04", test.at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		plan := s.At(at.UTC())
		if plan.Window != test.window {
			t.Errorf("%s: window %q, not %q", test.at, plan.Window, test.window)
		}
		if plan.Window == "" && plan.Limits.Keys != 7 || plan.Window == "work" && plan.Limits.Keys != 2000 || plan.Paused && plan.Limits.Keys != 7 || plan.Paused != (plan.Window == "night") {
			t.Errorf("%s: %+v", test.at, plan)
		}
		if next := s.Next(at).In(berlin).Format("2006-01-02 15:04"); next != test.next {
			t.Errorf("%s: next change at %s, not %s", test.at, next, test.next)
		}
	}
}

// TestClocksThatJump goes by the wall: an hour that is not there opens nothing, one that
// is there twice opens it twice.
func TestClocksThatJump(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	all := [7]bool{true, true, true, true, true, true, true}
	s := NewSchedule([]Window{{Days: all, From: 2 * 60, To: 3 * 60, Paused: true, Name: "backup"}}, berlin, Limits{})
	length := func(day string) (minutes int, opened int) {
		from, err := time.ParseInLocation("2006-01-02", day, berlin)
		if err != nil {
			t.Fatal(err)
		}
		was := false
		for at := from; at.Before(from.AddDate(0, 0, 1)); at = at.Add(time.Minute) {
			open := s.At(at).Paused
			if open {
				minutes++
			}
			if open && !was {
				opened++
			}
			was = open
		}
		return minutes, opened
	}
	for day, want := range map[string]int{"2026-03-28": 60, "2026-03-29": 0, "2026-10-24": 60, "2026-10-25": 120} {
		if minutes, _ := length(day); minutes != want {
			t.Errorf("%s: open for %d minutes, not %d", day, minutes, want)
		}
	}
	// Next agrees with At, minute by minute, over both jumps.
	for _, day := range []string{"2026-03-28", "2026-10-24"} {
		at, _ := time.ParseInLocation("2006-01-02", day, berlin)
		for range 6 {
			next := s.Next(at)
			for m := at; m.Before(next); m = m.Add(time.Minute) {
				if s.At(m) != s.At(at) {
					t.Fatalf("%v: changes before %v", m, next)
				}
			}
			if s.At(next) == s.At(at) {
				t.Fatalf("nothing changes at %v", next)
			}
			at = next
		}
	}
	// A window over a whole working day is an hour shorter or longer then.
	s = NewSchedule([]Window{{Days: all, From: 0, To: 24 * 60, Name: "day"}}, berlin, Limits{})
	if next := s.Next(time.Now()); !next.IsZero() {
		t.Errorf("a window that is always open ends at %v", next)
	}
	if NewSchedule(nil, berlin, Limits{}) != nil {
		t.Error("a schedule without windows")
	}
}
