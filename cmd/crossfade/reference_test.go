package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
)

var update = flag.Bool("update", false, "write docs/reference.md anew")

// TestReference: the pages say what the program is made of.
func TestReference(t *testing.T) {
	for name, want := range map[string][]byte{"docs/reference.md": []byte(reference()), "docs/openapi.json": admin.OpenAPI()} {
		file := "../../" + name
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not as the program: make reference", name)
		}
	}
}

// reference is the page, in Markdown.
func reference() string {
	var b strings.Builder
	b.WriteString("# Reference\n\n<!-- Made by: make reference. Changes belong into the program. -->\n\n" +
		"[Settings](#settings) · [Verbs and their flags](#verbs-and-their-flags) · [Metrics](#metrics) ·\n" +
		"[The operator's address](#the-operators-address) · [Exit statuses](#exit-statuses)\n\n## Settings\n\n" +
		"Each key is a line of the file of `--config` (or `" + config.ConfigEnv + "`), a variable, and a flag of its own name:\n" +
		"`sync.workers` is `--sync.workers 8`, `CROSSFADE_SYNC_WORKERS=8`, and `workers: 8` below `sync:`. A flag beats the\n" +
		"environment, the environment beats the file, and an empty variable counts as not set. A variable's name is the key's\n" +
		"in capitals with `_` for dots; other names are listed. Settings are read at the start; what else can be done while\n" +
		"the sidecar runs is in the last column. Durations have units (`50ms`, `2s`, `1m30s`); numbers may be written `1000`,\n" +
		"`1_000` or `1k`; lists have commas; records are YAML. [config/example.yaml](../config/example.yaml) holds all of it.\n")
	section := "-"
	for _, s := range config.Settings() {
		first, _, nested := strings.Cut(s.Path, ".")
		if !nested {
			first = ""
		}
		if first != section {
			section = first
			heading := "`" + section + "`"
			if section == "" {
				heading = "By themselves"
			}
			fmt.Fprintf(&b, "\n### %s\n\n| key | variable | value | default | what it is | while it runs |\n|---|---|---|---|---|---|\n", heading)
		}
		row(&b, others(s.Flags, "--"), others(s.Env, ""), valueOf(s), code(s.Default), cell(s.Text), cell(s.Live))
	}
	b.WriteString("\n## Verbs and their flags\n\nFlags that are settings are not repeated here: `crossfade help VERB` lists those that mean something.\n\n" +
		"| verb | flag | value | what it is |\n|---|---|---|---|\n")
	for _, p := range pages() {
		row(&b, "`"+p.name+"`", "", "", cell(p.short))
		for _, f := range p.own {
			text := f.text
			if f.def != "" {
				text += " (" + f.def + ")"
			}
			row(&b, "", "`--"+f.name+"`", f.value, cell(text))
		}
	}
	b.WriteString("\n## Metrics\n\n`GET /metrics` at the operator's address. Beside these, it has `go_…` and `process_…` of the process itself.\n\n" +
		"| metric | type | labels | what it is |\n|---|---|---|---|\n")
	for _, m := range admin.Metrics() {
		row(&b, "`"+m.Name+"`", m.Type, strings.Join(m.Labels, ", "), cell(m.Help))
	}
	b.WriteString("\n## The operator's address\n\nIts paths. Where a token is set, all but these two want it: `" + strings.Join(admin.Probes(), "` and `") + "`.\n\n")
	b.WriteString("[openapi.json](openapi.json) describes all of it for programs, with every field of bodies and replies; a sidecar has it at\n" +
		"`/v1/openapi.json`. Who shows `admin.view_token` may GET and not POST. A body is JSON; an empty one means the defaults.\n\n" +
		"| method | path | what it does | fields of the body |\n|---|---|---|---|\n")
	for _, p := range admin.Paths() {
		fields := ""
		if len(p.Asks) > 0 {
			fields = "`" + strings.Join(p.Asks, "`, `") + "`"
		}
		row(&b, p.Method, "`"+p.Path+"`", cell(p.About), fields)
	}
	b.WriteString("\n`/healthz` answers 200 as long as the process lives; `/readyz` when clients are served, and 503 before. Neither asks the\n" +
		"servers: a server that is away is no reason to restart the sidecar.\n\n## Exit statuses\n\nOf every verb.\n\n| status | meaning |\n|---|---|\n")
	for _, s := range exitStatuses {
		row(&b, fmt.Sprint(s.code), cell(s.text))
	}
	return b.String()
}

func row(b *strings.Builder, cells ...string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// cell is a text of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`).Replace(text)
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// others are a name and its second ones.
func others(names []string, dash string) string {
	text := code(names[0])
	for _, name := range names[1:] {
		text += " " + code(dash+name)
	}
	return text
}

func valueOf(s config.Setting) string {
	if s.Choices == nil {
		return s.Kind
	}
	return "`" + strings.Join(s.Choices, "`, `") + "`"
}
