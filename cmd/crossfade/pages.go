package main

import (
	"context"
	"flag"
	"io"
	"strings"

	"github.com/crossfade/crossfade/config"
)

// page is what there is to say about a verb: the same as its help, as data.
type page struct {
	*verb
	own, settings []flagPage
}

// flagPage is one flag of a verb.
type flagPage struct {
	name    string
	value   string   // what it takes: FILE, duration, …; empty for those that take nothing
	text    string   // without the default
	def     string   // the default, where it is worth a word
	choices []string // the only values, where there are few
	file    bool     // it names a file
	list    bool     // it may be given several times
}

// pages asks each verb for its help.
func pages() []page {
	settings := settingsByFlag()
	var all []page
	for _, v := range verbs() {
		p := page{verb: v}
		// All that a verb does with --help is to tell its flags, or to print a text.
		_ = v.run(context.Background(), &session{
			verb: v, args: []string{"--help"}, stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard,
			learn: func(f *flags) {
				own, known := f.lists()
				for _, one := range own {
					p.own = append(p.own, pageOf(one, settings))
				}
				for _, one := range known {
					p.settings = append(p.settings, pageOf(one, settings))
				}
			},
		})
		all = append(all, p)
	}
	return all
}

// settingsByFlag returns the configuration's keys under all names that they have.
func settingsByFlag() map[string]config.Setting {
	byFlag := map[string]config.Setting{}
	for _, s := range config.Settings() {
		for _, name := range s.Flags {
			byFlag[name] = s
		}
	}
	return byFlag
}

func pageOf(f *flag.Flag, settings map[string]config.Setting) flagPage {
	value, text := flag.UnquoteUsage(f)
	p := flagPage{name: f.Name, value: value, text: text, file: value == "FILE"}
	if hasDefault(f) {
		p.def = f.DefValue
	}
	if b, is := f.Value.(interface{ IsBoolFlag() bool }); is && b.IsBoolFlag() {
		p.value = ""
	}
	if s, is := settings[f.Name]; is {
		p.choices = s.Choices
		p.list = s.Kind == "list" || s.Kind == "numbers" || s.Kind == "map"
		p.file = strings.HasSuffix(s.Path, "_file") || s.Path == "state" || s.Path == "audit.file" || s.Path == "verify.report"
		if p.value != "" {
			p.value = s.Kind
		}
	}
	return p
}

// flags returns all of them, the verb's own first.
func (p page) flags() []flagPage { return append(append([]flagPage{}, p.own...), p.settings...) }
