package preflight

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	markWidth  = 6  // "pass  "
	checkWidth = 15 // "notifications  "
	narrowest  = 40
)

// Table shows findings to people: a row each, in their order, wrapped at width
// columns, with what to do under it. A line that is a command is never wrapped,
// so that it can be copied.
func Table(findings []Finding, width int) string {
	width = max(width, narrowest)
	indent := strings.Repeat(" ", markWidth+checkWidth)
	var b strings.Builder
	for _, f := range findings {
		b.WriteString(pad(mark(f.Level), markWidth) + pad(f.Check, checkWidth))
		for i, line := range wrap(printable(f.What), width-len(indent)) {
			if i > 0 {
				b.WriteString(indent)
			}
			b.WriteString(line + "\n")
		}
		for i, part := range strings.Split(f.Do, "\n") {
			if part == "" {
				continue
			}
			lead := "  "
			if i == 0 {
				lead = "→ "
			}
			lines := []string{printable(part)}
			if !isCommand(part) {
				lines = wrap(lines[0], width-len(indent)-2)
			}
			for j, line := range lines {
				if j > 0 {
					lead = "  "
				}
				b.WriteString(indent + lead + line + "\n")
			}
		}
	}
	return b.String()
}

func isCommand(line string) bool {
	return strings.HasPrefix(line, "redis-cli ") || strings.HasPrefix(line, "crossfade ")
}

func mark(l Level) string {
	if l == Pass {
		return string(l)
	}
	return strings.ToUpper(string(l))
}

// pad fills up with spaces; what is too long is followed by one.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-utf8.RuneCountInString(text), 1))
}

// wrap breaks at spaces. A word longer than a line has a line of its own.
func wrap(text string, width int) []string {
	var lines []string
	line, length := "", 0
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case length == 0:
			line, length = word, n
		case length+1+n <= width:
			line, length = line+" "+word, length+1+n
		default:
			lines = append(lines, line)
			line, length = word, n
		}
	}
	return append(lines, line)
}

// printable keeps a server's words from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
