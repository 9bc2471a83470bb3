package config

import (
	"fmt"
	"strings"
	"time"
)

// Moment reads when a switch is to be made: a time with its zone, as RFC 3339 has it
// (2026-11-26T03:00:00Z), or a time of day (03:00), which is the next one by the clock
// of TimeZone.
func (c Cutover) Moment(text string, now time.Time) (time.Time, error) {
	text = strings.TrimSpace(text)
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		if !at.After(now) {
			return at, fmt.Errorf("%s is past", text)
		}
		return at, nil
	}
	zone, err := zoneOf("cutover.time_zone", c.TimeZone)
	if err != nil {
		return time.Time{}, err
	}
	for _, form := range []string{"15:04", "15:04:05"} {
		clock, err := time.Parse(form, text)
		if err != nil {
			continue
		}
		today := now.In(zone)
		for days := range 2 {
			at := time.Date(today.Year(), today.Month(), today.Day()+days, clock.Hour(), clock.Minute(), clock.Second(), 0, zone)
			if at.After(now) {
				return at, nil
			}
		}
	}
	if strings.Contains(text, "T") {
		return time.Time{}, fmt.Errorf("%q is not understood: write 2026-11-26T03:00:00Z, or +01:00 instead of Z", brief(text))
	}
	return time.Time{}, fmt.Errorf("%q is not understood: write 2026-11-26T03:00:00Z, or a time of day such as 03:00", brief(text))
}
