package config

import (
	"strings"
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 26, 2, 30, 0, 0, time.UTC)
	for _, tt := range []struct{ text, zone, want string }{
		{"2026-11-26T03:00:00Z", "", "2026-11-26T03:00:00Z"},
		{"2026-11-26T04:00:00+01:00", "", "2026-11-26T03:00:00Z"},
		{" 03:00 ", "UTC", "2026-11-26T03:00:00Z"},
		{"02:30", "UTC", "2026-11-27T02:30:00Z"}, // this very moment is no time to come
		{"02:30:01", "UTC", "2026-11-26T02:30:01Z"},
		{"02:00", "UTC", "2026-11-27T02:00:00Z"},
		{"04:00", "Europe/Berlin", "2026-11-26T03:00:00Z"},
		{"00:15", "America/New_York", "2026-11-26T05:15:00Z"}, // still the day before there
	} {
		got, err := Cutover{TimeZone: tt.zone}.Moment(tt.text, now)
		if err != nil || got.UTC().Format(time.RFC3339) != tt.want {
			t.Errorf("%s in %q: %v, %v; want %s", tt.text, tt.zone, got, err, tt.want)
		}
	}
	for text, want := range map[string]string{
		"2026-11-26T02:30:00Z": "is past", "2026-11-26T03:00": "or +01:00 instead of Z", "": "is not understood", "3": "is not understood",
		"25:00": "is not understood", "03:60": "is not understood", "tomorrow": "a time of day such as 03:00",
	} {
		if _, err := (Cutover{TimeZone: "UTC"}).Moment(text, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := (Cutover{TimeZone: "Mars/Olympus"}).Moment("03:00", now); err == nil || !strings.Contains(err.Error(), "cutover.time_zone") {
		t.Error(err)
	}
}
