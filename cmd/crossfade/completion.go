package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// shells are those that a completion can be written for.
var shells = map[string]func([]page) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}

func shellNames() []string { return slices.Sorted(maps.Keys(shells)) }

func completionVerb() *verb {
	return &verb{name: "completion", short: "print a completion for bash, zsh or fish", words: shellNames, run: completion, long: `
  bash: source <(crossfade completion bash)
        or write it to ~/.local/share/bash-completion/completions/crossfade
  zsh:  crossfade completion zsh > "${fpath[1]}/_crossfade"
  fish: crossfade completion fish > ~/.config/fish/completions/crossfade.fish

The Debian package has all three in their places.`}
}

func completion(_ context.Context, s *session) error {
	if isHelp(s.args) {
		return s.printHelp()
	}
	if len(s.args) != 1 || shells[s.args[0]] == nil {
		return usage(errors.New("completion: name one shell: bash, fish or zsh; see crossfade help completion"))
	}
	_, err := io.WriteString(s.stdout, shells[s.args[0]](pages()))
	return err
}

// isHelp is for verbs that have no flags.
func isHelp(args []string) bool {
	return len(args) == 1 && (args[0] == "--help" || args[0] == "-h" || args[0] == "-help")
}

// printHelp is the help of a verb that has no flags. It returns flag.ErrHelp, or the
// error of writing.
func (s *session) printHelp() error {
	text := "crossfade " + s.verb.name + ": " + s.verb.short + "\n"
	if s.verb.long != "" {
		text += "\n" + strings.TrimLeft(s.verb.long, "\n") + "\n"
	}
	if _, err := io.WriteString(s.stdout, text); err != nil {
		return err
	}
	return flag.ErrHelp
}

// bashCompletion needs nothing of the bash-completion package.
func bashCompletion(all []page) string {
	var b strings.Builder
	b.WriteString(`# Completion of crossfade for bash, made by: crossfade completion bash
_crossfade() {
	local current=${COMP_WORDS[COMP_CWORD]} before= flag= words=
	if ((COMP_CWORD > 0)); then before=${COMP_WORDS[COMP_CWORD-1]}; fi
	COMPREPLY=()
	# --flag=value comes as three words.
	if [[ $current == = ]]; then
		flag=$before current=
	elif [[ $before == = ]] && ((COMP_CWORD > 1)); then
		flag=${COMP_WORDS[COMP_CWORD-2]}
	else
		flag=$before
	fi
	if ((COMP_CWORD == 1)); then
		words='`)
	for i, p := range all {
		b.WriteString(spaceBefore(i) + p.name)
	}
	b.WriteString(`'
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
		return
	fi
	case $flag in
`)
	values, files, others := bySort(all)
	for _, words := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "\t%s)\n\t\tmapfile -t COMPREPLY < <(compgen -W '%s' -- \"$current\")\n\t\treturn\n\t\t;;\n", dashed(values[words], "|"), words)
	}
	fmt.Fprintf(&b, "\t%s)\n\t\tcompopt -o filenames 2>/dev/null\n\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n\t\treturn\n\t\t;;\n", dashed(files, "|"))
	fmt.Fprintf(&b, "\t%s)\n\t\treturn\n\t\t;;\n\tesac\n\tcase ${COMP_WORDS[1]} in\n", dashed(others, "|"))
	for _, p := range all {
		fmt.Fprintf(&b, "\t%s)\n", p.name)
		if p.words != nil {
			fmt.Fprintf(&b, "\t\tif ((COMP_CWORD == 2)); then words='%s '; fi\n", strings.Join(p.words(), " "))
		}
		if list := p.flags(); len(list) > 0 {
			fmt.Fprintf(&b, "\t\twords+='%s'\n", strings.Join(written(list), " "))
		}
		b.WriteString("\t\t;;\n")
	}
	b.WriteString("\tesac\n\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n}\ncomplete -F _crossfade crossfade\n")
	return b.String()
}

func spaceBefore(i int) string {
	if i == 0 {
		return ""
	}
	return " "
}

// bySort parts the flags of all verbs that take something: by the few words that they
// take, those that take a file, and the others.
func bySort(all []page) (values map[string][]string, files, others []string) {
	values = map[string][]string{}
	for _, p := range all {
		for _, f := range p.flags() {
			switch words := strings.Join(f.choices, " "); {
			case words != "":
				values[words] = append(values[words], f.name)
			case f.value == "":
			case f.file:
				files = append(files, f.name)
			default:
				others = append(others, f.name)
			}
		}
	}
	return values, files, others
}

// dashed writes the flags as they are written, each once.
func dashed(names []string, between string) string {
	list := slices.Compact(slices.Sorted(slices.Values(names)))
	for i, name := range list {
		list[i] = "--" + name
	}
	return strings.Join(list, between)
}

// written is what one writes of each flag; a switch that is on can only be put off.
func written(list []flagPage) []string {
	var texts []string
	for _, f := range list {
		text := "--" + f.name
		if f.value == "" && f.def == "true" {
			text += "=false"
		}
		texts = append(texts, text)
	}
	return texts
}
