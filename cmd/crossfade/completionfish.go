package main

import (
	"fmt"
	"strings"
)

// fishCompletion is to be in a file crossfade.fish of the completions.
func fishCompletion(all []page) string {
	var b strings.Builder
	b.WriteString(`# Completion of crossfade for fish, made by: crossfade completion fish
function __crossfade_verb
	set -l words (commandline -opc)
	if test (count $words) -lt 2
		test "$argv[1]" = none
	else
		test "$words[2]" = "$argv[1]"
	end
end
function __crossfade_first
	set -l words (commandline -opc)
	test (count $words) -eq 2; and test "$words[2]" = "$argv[1]"
end
complete -c crossfade -f
`)
	for _, p := range all {
		fmt.Fprintf(&b, "complete -c crossfade -n '__crossfade_verb none' -a %s -d %s\n", p.name, fishQuote(p.short))
	}
	for _, p := range all {
		if p.words != nil {
			fmt.Fprintf(&b, "complete -c crossfade -n '__crossfade_first %s' -a %s\n", p.name, fishQuote(strings.Join(p.words(), " ")))
		}
		for _, f := range p.flags() {
			fmt.Fprintf(&b, "complete -c crossfade -n '__crossfade_verb %s' %s -d %s\n", p.name, fishFlag(f), fishQuote(f.text))
		}
	}
	return b.String()
}

func fishFlag(f flagPage) string {
	name := "-l " + f.name
	switch {
	case f.value == "" && f.def == "true":
		return "-a --" + f.name + "=false"
	case f.value == "":
		return name
	case len(f.choices) > 0:
		return name + " -x -a " + fishQuote(strings.Join(f.choices, " "))
	case f.file:
		return name + " -r -F"
	}
	return name + " -x"
}

// fishQuote: there a backslash counts inside of quotes.
func fishQuote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
}
