package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Hook is one entry of hooks, as it is written.
type Hook struct {
	// On are the events that it is told of, see HookEvents; "all" is all of them.
	On []string `koanf:"on"`
	// Run is a program with its arguments, URL where to POST instead.
	Run []string `koanf:"run"`
	URL Secret   `koanf:"url"`
	// Timeout is a duration; empty: 5s.
	Timeout string `koanf:"timeout"`
	// Veto is "true" or "false": whether its refusal ends an attempt.
	Veto string `koanf:"veto"`
}

// HookEvents are what a hook may be told of: the phases, and what happens beside them.
var HookEvents = []string{
	"preflight", "copying", "tailing", "resync", "prepared", "holding", "soft_fenced", "hard_fenced", "verifying",
	"committing", "committed", "reverse_tailing", "reverse_lost", "rolled_back", "aborting", "cancelled", "completed",
	"waiting", "dropped", "switched", "aborted", "rehearsed",
}

// VetoEvent is the only one at which a hook may refuse: nobody waits yet, and nothing
// is decided.
const VetoEvent = "prepared"

// Told is a Hook that was read.
type Told struct {
	On      []string // without "all"
	Run     []string
	URL     Secret
	Timeout time.Duration
	Veto    bool
}

const (
	hookTimeout = 5 * time.Second
	vetoTimeout = time.Minute // the fence on the other server is not looked after meanwhile
)

// HookList reads Hooks. All problems are reported; their texts begin with the key.
func (c Config) HookList() (list []Told, problems []error) {
	for i, h := range c.Hooks {
		told, more := h.read()
		for _, err := range more {
			problems = append(problems, fmt.Errorf("hooks: entry %d: %w", i+1, err))
		}
		list = append(list, told)
	}
	return list, problems
}

func (h Hook) read() (t Told, problems []error) {
	note := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	t = Told{Run: h.Run, URL: h.URL, Timeout: hookTimeout}
	for _, name := range h.On {
		switch {
		case name == "all":
			t.On = append(t.On, HookEvents...)
		case slices.Contains(HookEvents, name):
			t.On = append(t.On, name)
		default:
			note("on: %q is not known: did you mean %q? Give some of all, %s", brief(name), nearest(name, HookEvents), strings.Join(HookEvents, ", "))
		}
	}
	if len(h.On) == 0 {
		note("on: missing: give some of all, %s", strings.Join(HookEvents, ", "))
	}
	switch u, err := url.Parse(h.URL.Reveal()); {
	case (len(h.Run) > 0) == (h.URL != ""):
		problems = append(problems, errors.New("give either run, a program with its arguments, or url"))
	case h.URL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == ""):
		problems = append(problems, errors.New("url: not one of http:// or https:// with a host"))
	}
	if h.Timeout != "" {
		d, err := parseDuration(h.Timeout)
		switch {
		case err != nil:
			note("timeout: %q %w", brief(h.Timeout), err)
		case d < time.Millisecond || d > 10*time.Minute:
			note("timeout: %v is out of range: give 1ms to 10m", d)
		}
		t.Timeout = d
	}
	if h.Veto != "" {
		veto, err := parseBool(h.Veto)
		if err != nil {
			note("veto: %q %w", brief(h.Veto), err)
		}
		t.Veto = veto
	}
	if t.Veto && !slices.Equal(h.On, []string{VetoEvent}) {
		note("veto: only a hook on [%s] alone can have one: later clients wait, and then it is decided", VetoEvent)
	}
	if t.Veto && t.Timeout > vetoTimeout {
		note("timeout: %v is too long where an attempt waits for the answer: give 1m at most", t.Timeout)
	}
	return t, problems
}
