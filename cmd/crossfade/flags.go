package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration"
)

// flags are a verb's own flags beside those of the configuration.
type flags struct {
	*session
	set    *flag.FlagSet
	own    []string // names, in the order of their definition
	takes  []string // prefixes of the configuration's flags that have a meaning here; nil: all
	config *config.Flags
}

// doorFlags lead to a running sidecar.
var doorFlags = []string{"admin", "config"}

// flagsOf begins the flags of a verb. takes are the flags of the configuration that
// have a meaning for it, with those below them; none means all.
func (s *session) flagsOf(takes ...string) *flags {
	set := flag.NewFlagSet(s.verb.name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return &flags{session: s, set: set, takes: takes}
}

// parse reads the flags and the configuration; define the verb's own before. All
// errors are of usage. It prints the help and returns flag.ErrHelp when asked to.
func (f *flags) parse() (config.Config, error) {
	f.set.VisitAll(func(known *flag.Flag) { f.own = append(f.own, known.Name) })
	f.config = config.Bind(f.set)
	rest, err := f.config.Parse(f.args)
	if errors.Is(err, flag.ErrHelp) {
		if f.learn != nil {
			f.learn(f)
			return config.Config{}, err
		}
		_, _ = io.WriteString(f.stdout, f.help())
		return config.Config{}, err
	}
	see := "; see crossfade help " + f.verb.name
	if err != nil {
		return config.Config{}, usage(fmt.Errorf("%s: %w%s", f.verb.name, err, see))
	}
	if len(rest) > 0 {
		return config.Config{}, usage(fmt.Errorf("%s: %q was not expected: it takes flags only%s", f.verb.name, shortened(rest[0]), see))
	}
	var useless error
	f.set.Visit(func(given *flag.Flag) {
		if useless == nil && !f.has(given.Name) {
			useless = usage(fmt.Errorf("%s: --%s means nothing here: the sidecar that is asked (--admin) has its own settings%s", f.verb.name, given.Name, see))
		}
	})
	if useless != nil {
		return config.Config{}, useless
	}
	c, err := f.config.Load(f.environ)
	if err != nil {
		return config.Config{}, usage(problems(err))
	}
	if _, err := migration.Only(c); err != nil {
		return config.Config{}, usage(problems(err))
	}
	return c, nil
}

// problems gives several of them a heading.
func problems(err error) error {
	text := strings.TrimSpace(err.Error())
	if n := strings.Count(text, "\n") + 1; n > 1 {
		return fmt.Errorf("%d problems in the configuration:\n%s", n, text)
	}
	return fmt.Errorf("in the configuration: %s", text)
}

// has reports whether a flag means something for the verb.
func (f *flags) has(name string) bool {
	if f.takes == nil || slices.Contains(f.own, name) {
		return true
	}
	return slices.ContainsFunc(f.takes, func(t string) bool { return name == t || strings.HasPrefix(name, t+".") })
}

// given reports whether one of the flags was written on the command line.
func (f *flags) given(names ...string) bool {
	found := false
	f.set.Visit(func(g *flag.Flag) { found = found || slices.Contains(names, g.Name) })
	return found
}

// givenNames returns the flags that were written on the command line.
func (f *flags) givenNames() (names []string) {
	f.set.Visit(func(g *flag.Flag) { names = append(names, g.Name) })
	return names
}

// client returns the way to the sidecar that the configuration names.
func client(c config.Config) (*admin.Client, error) {
	door, err := admin.NewClient(c.Admin)
	if err != nil {
		return nil, usage(err)
	}
	return door, nil
}

// again is how to call another verb for the same sidecar.
func (f *flags) again(verb string) string {
	text := "crossfade " + verb
	for _, name := range []string{"config", "admin", "admin.address", "admin.token_file"} {
		if g := f.set.Lookup(name); f.given(name) && g != nil {
			value := g.Value.String()
			if name != "config" {
				value = f.argument(name)
			}
			text += " --" + name + " " + value
		}
	}
	return text
}

// argument returns what was written for a flag.
func (f *flags) argument(name string) string {
	value := ""
	for i, arg := range f.args {
		word, text, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case word != name || !strings.HasPrefix(arg, "-"):
		case joined:
			value = text
		case i+1 < len(f.args):
			value = f.args[i+1]
		}
	}
	return value
}

// help is the verb's page.
func (f *flags) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "crossfade %s [flags]: %s\n", f.verb.name, f.verb.short)
	if f.verb.long != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(f.verb.long))
	}
	own, settings := f.lists()
	writeFlags(&b, "Flags:", own)
	writeFlags(&b, "Settings (flag, CROSSFADE_… in the environment, or the file of --config):", settings)
	return b.String()
}

// lists returns the verb's own flags and the settings that mean something for it, the
// short names first: they are what people write.
func (f *flags) lists() (own, settings []*flag.Flag) {
	f.set.VisitAll(func(known *flag.Flag) {
		switch {
		case slices.Contains(f.own, known.Name):
			own = append(own, known)
		case f.has(known.Name):
			settings = append(settings, known)
		}
	})
	slices.SortStableFunc(settings, func(x, y *flag.Flag) int {
		return cmp.Compare(strings.Count(x.Name, "."), strings.Count(y.Name, "."))
	})
	return own, settings
}

func writeFlags(b *strings.Builder, heading string, list []*flag.Flag) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", heading)
	for _, known := range list {
		name, text := flag.UnquoteUsage(known)
		fmt.Fprintf(b, "  --%s %s\n", known.Name, name)
		if hasDefault(known) {
			text += " (default " + known.DefValue + ")"
		}
		for _, line := range wrap(text, 72) {
			fmt.Fprintf(b, "        %s\n", line)
		}
	}
}

// hasDefault reports whether a flag's default is worth a word.
func hasDefault(f *flag.Flag) bool {
	return f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0"
}

// wrap breaks a text at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
