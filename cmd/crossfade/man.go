package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/crossfade/crossfade/config"
)

func manVerb() *verb {
	return &verb{name: "man", short: "print the manual page", run: man, long: `
  crossfade man | man -l -
  crossfade man > /usr/local/share/man/man1/crossfade.1`}
}

func man(_ context.Context, s *session) error {
	if isHelp(s.args) {
		return s.printHelp()
	}
	if len(s.args) > 0 {
		return usage(errors.New("man: it takes no arguments; see crossfade help man"))
	}
	_, err := io.WriteString(s.stdout, manPage(pages(), config.Settings()))
	return err
}

// manPage is crossfade(1), in the macros of man(7).
func manPage(all []page, settings []config.Setting) string {
	m := &roff{}
	m.line(`.\" Made by: crossfade man`)
	m.line(".TH CROSSFADE 1 \"\" " + macroArg("crossfade "+buildVersion()))
	m.line(".ad l")
	m.section("NAME")
	m.text("crossfade - move a live Redis to another behind a proxy, and back")
	m.section("SYNOPSIS")
	m.line(".B crossfade")
	m.line(".I verb")
	m.line(`[\fIflags\fR]`)
	m.section("DESCRIPTION")
	m.prose("Crossfade moves a live Redis to another. Clients connect to it instead of the source, it copies everything, and a cutover " +
		"moves them without losing a write. A rollback takes them back, with all that they wrote meanwhile.")
	m.prose("crossfade run is the sidecar; the verbs that ask a running one find it by --admin or CROSSFADE_ADMIN.")
	m.example([]string{"crossfade check --source redis://OLD --target redis://NEW", "crossfade run --source redis://OLD --target redis://NEW", "crossfade cutover"})
	m.section("VERBS")
	for _, p := range all {
		m.line(".SS " + macroArg("crossfade "+p.name))
		m.prose(strings.ToUpper(p.short[:1]) + p.short[1:] + ".")
		m.long(p.long)
		for _, f := range p.own {
			m.flag(f)
		}
		if text := settingsOf(p); text != "" {
			m.prose(text)
		}
	}
	m.section("SETTINGS")
	m.prose("Each is a flag, a variable of the environment or a line of a YAML file, in this order of precedence: --sync.workers 8, " +
		"CROSSFADE_SYNC_WORKERS=8, or workers: 8 below sync. They are read at the start only. Durations have units (50ms, 2s, 1m30s); " +
		"numbers may be written 1000, 1_000 or 1k.")
	for _, s := range settings {
		m.setting(s)
	}
	m.files()
	m.section("EXIT STATUS")
	for _, s := range exitStatuses {
		m.item(fmt.Sprint(s.code), s.text)
	}
	m.section("SEE ALSO")
	m.line(`.BR redis\-server (1),`)
	m.line(`.BR redis\-cli (1)`)
	return m.String()
}

// settingsOf says which settings mean something for a verb.
func settingsOf(p page) string {
	if len(p.settings) == 0 {
		return ""
	}
	var names []string
	for _, f := range p.settings {
		names = append(names, "--"+f.name)
	}
	if len(names) > 40 {
		return "And all settings, see below."
	}
	return "And of the settings: " + strings.Join(names, ", ") + "."
}

func (m *roff) flag(f flagPage) {
	text := f.text
	if f.def != "" {
		text += " (default " + f.def + ")"
	}
	m.option([]string{f.name}, f.value, text)
}

func (m *roff) setting(s config.Setting) {
	value, text := s.Kind, s.Text
	if s.Choices != nil {
		value = strings.Join(s.Choices, "|")
	}
	if s.Default != "" {
		text += " Default: " + s.Default + "."
	}
	if s.Live != "" {
		text += " While it runs: " + s.Live + "."
	}
	m.option(s.Flags, value, text)
}

func (m *roff) files() {
	m.section("ENVIRONMENT")
	m.item(config.ConfigEnv, "The configuration file, as --config.")
	m.item("CROSSFADE_SECTION_KEY", "The setting section.key. An empty variable counts as not set. Passwords are better in CROSSFADE_SOURCE_PASSWORD and "+
		"CROSSFADE_TARGET_PASSWORD, or in files, than on the command line.")
	m.section("FILES")
	m.item("crossfade.state", "What must be known after a restart (--state). Keep it until the migration is complete and clients are pointed elsewhere.")
	m.item("crossfade.state.audit", "Who did what when (audit.file).")
	m.item("crossfade.state.verify.json, crossfade.state.verify.txt", "The report of the latest comparison (verify.report).")
	m.item("crossfade.sock", "Where the verbs find the sidecar (--admin).")
}
