package config

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Window is one entry of sync.schedule, as it is written.
type Window struct {
	// Days are such as "Mon-Fri", or "Sat,Sun"; empty is every day.
	Days string `koanf:"days"`
	// Hours are such as "08:00-18:00"; empty is the whole day.
	Hours          string `koanf:"hours"`
	KeysPerSecond  string `koanf:"keys_per_second"`
	BytesPerSecond string `koanf:"bytes_per_second"`
	// Pause stops scans: "true" or "false".
	Pause string `koanf:"pause"`
}

// Hours is a Window that was read.
type Hours struct {
	Days        [7]bool // by time.Weekday: on which it begins
	From, To    int     // minutes since midnight; To up to 24*60, and below From on the next day
	Keys, Bytes int     // a second; 0 is no bound
	Pause       bool
	Name        string
}

// Windows reads Schedule and TimeZone. All problems are reported; their texts begin
// with the key.
func (s Sync) Windows() (list []Hours, zone *time.Location, problems []error) {
	zone, err := zoneOf("sync.time_zone", s.TimeZone)
	if err != nil {
		problems = append(problems, err)
	}
	for i, w := range s.Schedule {
		h, more := w.read()
		for _, err := range more {
			problems = append(problems, fmt.Errorf("sync.schedule: entry %d: %w", i+1, err))
		}
		list = append(list, h)
	}
	return list, zone, problems
}

// zoneOf reads a time zone; it is this machine's where there is an error.
func zoneOf(key, name string) (*time.Location, error) {
	if name == "" {
		return time.Local, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return time.Local, fmt.Errorf("%s: %q is not known: give a name such as Europe/Berlin or UTC, or nothing for this machine's", key, brief(name))
	}
	return zone, nil
}

func (w Window) read() (h Hours, problems []error) {
	note := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	var err error
	h.Days, err = readDays(w.Days)
	note(err)
	h.From, h.To, err = readHours(w.Hours)
	note(err)
	h.Keys, err = readRate("keys_per_second", w.KeysPerSecond)
	note(err)
	h.Bytes, err = readRate("bytes_per_second", w.BytesPerSecond)
	note(err)
	if w.Pause != "" {
		if h.Pause, err = parseBool(w.Pause); err != nil {
			note(fmt.Errorf("pause: %q %w", brief(w.Pause), err))
		}
	}
	if len(problems) == 0 && !h.Pause && h.Keys == 0 && h.Bytes == 0 && w.KeysPerSecond == "" && w.BytesPerSecond == "" {
		note(errors.New("says nothing of what is to be then: give keys_per_second, bytes_per_second (0 is no bound) or pause: true"))
	}
	h.Name = cmp.Or(strings.TrimSpace(w.Days), "daily") + " " + cmp.Or(strings.TrimSpace(w.Hours), "00:00-24:00")
	return h, problems
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// readDays reads "Mon-Fri,Sun". Fri-Mon goes over the week's end.
func readDays(text string) (days [7]bool, err error) {
	wrong := fmt.Errorf("days: %q is not understood: write such as Mon-Fri or Sat,Sun", brief(text))
	if strings.TrimSpace(text) == "" {
		return [7]bool{true, true, true, true, true, true, true}, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, span := strings.Cut(part, "-")
		if !span {
			last = first
		}
		a, ok1 := readDay(first)
		b, ok2 := readDay(last)
		if !ok1 || !ok2 {
			return days, wrong
		}
		for d := a; ; d = (d + 1) % 7 {
			days[d] = true
			if d == b {
				break
			}
		}
	}
	return days, nil
}

// readDay takes Mon, Monday and what lies between.
func readDay(text string) (day int, ok bool) {
	text = strings.ToLower(strings.TrimSpace(text))
	for i, name := range dayNames {
		if full := strings.ToLower(time.Weekday(i).String()); len(text) >= 3 && strings.HasPrefix(text, name) && strings.HasPrefix(full, text) {
			return i, true
		}
	}
	return 0, false
}

// readHours reads "22:00-06:30".
func readHours(text string) (from, to int, err error) {
	if strings.TrimSpace(text) == "" {
		return 0, 24 * 60, nil
	}
	a, b, span := strings.Cut(text, "-")
	from, ok1 := readClock(a)
	to, ok2 := readClock(b)
	switch {
	case !span || !ok1 || !ok2 || from == 24*60:
		return 0, 0, fmt.Errorf("hours: %q is not understood: write such as 08:00-18:00, or 22:00-06:00 for a night", brief(text))
	case from == to:
		return 0, 0, fmt.Errorf("hours: %q is no time at all: write 00:00-24:00 for a whole day", brief(text))
	}
	return from, to, nil
}

func readClock(text string) (minutes int, ok bool) {
	h, m, colon := strings.Cut(strings.TrimSpace(text), ":")
	hour, err1 := strconv.ParseUint(h, 10, 8)
	minute, err2 := strconv.ParseUint(m, 10, 8)
	minutes = int(60*hour + minute)
	return minutes, colon && len(m) == 2 && err1 == nil && err2 == nil && minute < 60 && minutes <= 24*60
}

func readRate(key, text string) (int, error) {
	if strings.TrimSpace(text) == "" {
		return 0, nil
	}
	n, err := parseInt(text)
	if err == nil && n < 0 {
		err = errors.New("is negative: 0 is no bound")
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %q %w", key, brief(text), err)
	}
	return n, nil
}
