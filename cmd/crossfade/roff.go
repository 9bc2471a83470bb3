package main

import "strings"

// roff writes in the macros of man(7).
type roff struct{ strings.Builder }

func (m *roff) line(text string) { m.WriteString(text + "\n") }

func (m *roff) section(name string) { m.line(".SH " + name) }

// text writes a line that is none of roff's own.
func (m *roff) text(line string) { m.line(escape(line)) }

// prose is a paragraph. Lines end where sentences do, for roff to space.
func (m *roff) prose(text string) {
	m.line(".PP")
	m.text(strings.Join(strings.Fields(text), " "))
}

// long is a verb's text: paragraphs, and what is indented as it stands.
func (m *roff) long(text string) {
	var prose, example []string
	flush := func() {
		if len(prose) > 0 {
			m.prose(strings.Join(prose, " "))
		}
		if len(example) > 0 {
			m.example(example)
		}
		prose, example = nil, nil
	}
	for line := range strings.Lines(strings.TrimLeft(text, "\n")) {
		line = strings.TrimRight(line, "\n")
		switch indented := strings.HasPrefix(line, "  "); {
		case line == "":
			flush()
		case indented:
			if len(prose) > 0 {
				flush()
			}
			example = append(example, strings.TrimPrefix(line, "  "))
		default:
			if len(example) > 0 {
				flush()
			}
			prose = append(prose, line)
		}
	}
	flush()
}

func (m *roff) example(lines []string) {
	m.line(".PP")
	m.line(".RS 4")
	m.line(".nf")
	for _, line := range lines {
		m.text(line)
	}
	m.line(".fi")
	m.line(".RE")
}

// item is a tagged paragraph.
func (m *roff) item(tag, text string) {
	m.line(".TP")
	m.line(`\fB` + escape(tag) + `\fR`)
	m.text(text)
}

// option is one of flags, under all its names.
func (m *roff) option(names []string, value, text string) {
	var tags []string
	for _, name := range names {
		tags = append(tags, `\fB`+escape("--"+name)+`\fR`)
	}
	tag := strings.Join(tags, ", ")
	if value != "" {
		tag += ` \fI` + escape(value) + `\fR`
	}
	m.line(".TP")
	m.line(tag)
	m.text(strings.Join(strings.Fields(text), " "))
}

// escape keeps a text from being taken for roff's requests and escapes, and its hyphens
// from becoming others that cannot be searched for or copied.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\(ga", "~", `\(ti`, "^", `\(ha`, "…", "...").Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}

// macroArg is an argument of a macro.
func macroArg(text string) string { return `"` + strings.ReplaceAll(escape(text), `"`, `\(dq`) + `"` }
