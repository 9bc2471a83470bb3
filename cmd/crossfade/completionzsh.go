package main

import (
	"fmt"
	"strings"
)

// zshCompletion may be in a file of fpath named _crossfade, or be sourced.
func zshCompletion(all []page) string {
	var b strings.Builder
	b.WriteString(`#compdef crossfade
# Completion of crossfade for zsh, made by: crossfade completion zsh
_crossfade() {
	local -a verbs
	verbs=(
`)
	for _, p := range all {
		fmt.Fprintf(&b, "\t\t%s\n", quote(strings.ReplaceAll(p.name, ":", `\:`)+":"+p.short))
	}
	b.WriteString(`	)
	if ((CURRENT == 2)); then
		_describe -t verbs verb verbs
		return
	fi
	local verb=$words[2]
	shift words
	((CURRENT--))
	case $verb in
`)
	for _, p := range all {
		fmt.Fprintf(&b, "\t%s)\n\t\t_arguments", p.name)
		for _, f := range p.flags() {
			b.WriteString(" \\\n\t\t\t" + quote(zshFlag(f)))
		}
		if p.words != nil {
			b.WriteString(" \\\n\t\t\t" + quote("1: :("+strings.Join(p.words(), " ")+")"))
		}
		b.WriteString("\n\t\t;;\n")
	}
	b.WriteString(`	esac
}
if [[ ${funcstack[1]} == _crossfade ]]; then
	_crossfade "$@"
else
	compdef _crossfade crossfade
fi
`)
	return b.String()
}

// zshFlag is a specification of _arguments.
func zshFlag(f flagPage) string {
	text := strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`).Replace(f.text)
	if f.value == "" {
		// Without a value it is true: what is true already is only of use with one.
		if f.def == "true" {
			return fmt.Sprintf("--%s=-[%s]:bool:(false)", f.name, text)
		}
		return fmt.Sprintf("--%s[%s]", f.name, text)
	}
	action := " "
	switch {
	case len(f.choices) > 0:
		action = "(" + strings.Join(f.choices, " ") + ")"
	case f.file:
		action = "_files"
	}
	several := ""
	if f.list {
		several = "*"
	}
	return fmt.Sprintf("%s--%s=[%s]:%s:%s", several, f.name, text, f.value, action)
}

// quote is for bash and zsh.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
