package config

import (
	"strings"
	"testing"
)

func TestSchedule(t *testing.T) {
	s := Sync{TimeZone: "UTC", Schedule: []Window{
		{Days: "Mon-Fri", Hours: "08:00-18:00", KeysPerSecond: "2k", BytesPerSecond: "20MB"},
		{Days: "Sat, Sunday", Hours: "22:00-06:30", Pause: "true"},
		{Days: "fri-mon", KeysPerSecond: "0"},
	}}
	list, zone, problems := s.Windows()
	if len(problems) > 0 || zone.String() != "UTC" {
		t.Fatal(problems, zone)
	}
	want := []Hours{
		{Days: [7]bool{1: true, 2: true, 3: true, 4: true, 5: true}, From: 480, To: 1080, Keys: 2000, Bytes: 20_000_000, Name: "Mon-Fri 08:00-18:00"},
		{Days: [7]bool{0: true, 6: true}, From: 1320, To: 390, Pause: true, Name: "Sat, Sunday 22:00-06:30"},
		{Days: [7]bool{0: true, 1: true, 5: true, 6: true}, From: 0, To: 1440, Name: "fri-mon 00:00-24:00"},
	}
	for i := range want {
		if list[i] != want[i] {
			t.Errorf("entry %d: %+v, not %+v", i, list[i], want[i])
		}
	}
}

func TestScheduleMistakes(t *testing.T) {
	for _, w := range []Window{
		{Days: "Mo-Fr", Pause: "true"}, {Days: "Mondays", Pause: "true"}, {Days: "Mon-", Pause: "true"},
		{Hours: "8-18", Pause: "true"}, {Hours: "08:00", Pause: "true"}, {Hours: "24:00-01:00", Pause: "true"},
		{Hours: "08:00-24:01", Pause: "true"}, {Hours: "08:00-08:00", Pause: "true"}, {Hours: "08:0-09:00", Pause: "true"},
		{KeysPerSecond: "many"}, {BytesPerSecond: "-1"}, {Pause: "maybe"}, {Days: "Mon"}, {Pause: "false"},
	} {
		if _, _, problems := (Sync{Schedule: []Window{w}}).Windows(); len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), "sync.schedule: entry 1: ") {
			t.Errorf("%+v: %v", w, problems)
		}
	}
	if _, _, problems := (Sync{TimeZone: "Mars/Olympus"}).Windows(); len(problems) != 1 {
		t.Errorf("a time zone: %v", problems)
	}
}

// TestScheduleInAFile reads it where people write it.
func TestScheduleInAFile(t *testing.T) {
	tr := newTree()
	l, problems := parseFile(tr, "f", []byte("sync:\n  time_zone: Europe/Berlin\n  schedule:\n    - {days: Mon-Fri, hours: 08:00-18:00, keys_per_second: 2000, pause: no}\n"))
	c, more := merge(tr, []layer{l})
	if problems = append(problems, more...); len(problems) > 0 {
		t.Fatal(problems)
	}
	if len(c.Sync.Schedule) != 1 || c.Sync.Schedule[0].Hours != "08:00-18:00" || c.Sync.Schedule[0].KeysPerSecond != "2000" {
		t.Errorf("%+v", c.Sync.Schedule)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.Sync.Schedule[0].Hours = "x"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), `sync.schedule: entry 1: hours: "x"`) {
		t.Error(err)
	}
}
