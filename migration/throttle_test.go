package migration

import (
	"log/slog"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/router"
)

func scheduled(windows ...config.Window) *Migration {
	m := &Migration{log: slog.New(slog.DiscardHandler)}
	m.cfg.Sync.Schedule, m.cfg.Sync.TimeZone, m.cfg.Sync.KeysPerSecond = windows, "UTC", 7
	m.plan = scheduleOf(m.cfg)
	return m
}

// A pause of the schedule is not for the way back; its limits are.
func TestThrottleOfTheSchedule(t *testing.T) {
	m := scheduled(config.Window{Days: "Mon-Fri", Hours: "08:00-18:00", Pause: "true"}, config.Window{Days: "Sat", KeysPerSecond: "5"})
	at := func(text string) time.Time {
		when, err := time.Parse(time.DateTime, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, test := range []struct {
		at     string
		side   router.Side
		paused bool
		keys   int64
	}{
		{"2026-11-27 07:00:00", router.Source, false, 7}, // a Friday
		{"2026-11-27 09:00:00", router.Source, true, 7},
		{"2026-11-27 09:00:01", router.Target, false, 7},
		{"2026-11-27 09:00:02", router.Source, true, 7},
		{"2026-11-27 18:00:00", router.Source, false, 7},
		{"2026-11-28 12:00:00", router.Target, false, 5},
	} {
		m.rec.Side = test.side
		m.keepSchedule(at(test.at))
		if m.scan.Paused != test.paused || m.scan.Keys != test.keys {
			t.Errorf("%s, clients on the %v: %+v", test.at, test.side, m.scan)
		}
	}
	yes := true
	if m.Throttle(ThrottleOptions{Paused: &yes}); !m.scan.Paused {
		t.Error("an operator's pause does not hold behind a switch")
	}
}

// To find out that a schedule never changes takes a look at a whole week.
func TestThrottleWithoutChangesIsSeldomLookedAt(t *testing.T) {
	m := scheduled(config.Window{KeysPerSecond: "5"})
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	m.keepSchedule(now)
	if m.scan.Keys != 5 || !m.scan.Until.IsZero() {
		t.Fatalf("%+v", m.scan)
	}
	m.scan.Window = "as it was"
	m.keepSchedule(now.Add(guardEvery))
	if m.scan.Window != "as it was" {
		t.Error("it was looked at again")
	}
	m.keepSchedule(now.Add(planEvery))
	if m.scan.Window == "as it was" {
		t.Error("it is never looked at again")
	}
}
