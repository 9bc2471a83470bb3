package acl

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	actionWidth = 8  // "create  "
	nameWidth   = 12 // a longer name has the line for itself
	kindWidth   = 11 // "passwords  "
	whenWidth   = 6  // "then  "
)

// Text shows a plan to people in at most width columns, and no less than 60.
func (p Plan) Text(width int) string {
	width = max(width, 60)
	var b strings.Builder
	for _, s := range p.Steps {
		s.write(&b, width)
	}
	if len(p.Steps) == 0 {
		b.WriteString("no users\n")
	}
	for _, n := range p.Notes {
		b.WriteString("\n")
		for _, line := range wrap(n, width) {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func (s Step) write(b *strings.Builder, width int) {
	const indent = actionWidth + nameWidth
	head := pad(string(s.Action), actionWidth) + pad(printable(s.Name), nameWidth)
	name := printable(s.Name)
	if utf8.RuneCountInString(name) >= nameWidth {
		for i, line := range wrap(name, width-actionWidth) {
			if i == 0 {
				fmt.Fprintf(b, "%s%s\n", pad(string(s.Action), actionWidth), line)
			} else {
				fmt.Fprintf(b, "%*s%s\n", actionWidth, "", line)
			}
		}
		head = strings.Repeat(" ", indent)
	}
	line := func(label string, size int, text string) {
		for _, part := range wrap(printable(text), width-indent-size) {
			b.WriteString(strings.TrimRight(head+pad(label, size)+part, " ") + "\n")
			head, label = strings.Repeat(" ", indent), ""
		}
	}
	for _, why := range s.Why {
		line("", 0, why)
	}
	for _, d := range s.Differences {
		of := d.Of
		if s.Action == Create {
			line(of, kindWidth, d.Then)
			continue
		}
		for _, when := range [][2]string{{"now", d.Now}, {"then", d.Then}} {
			text := when[1]
			if text == "" {
				text = "none"
			}
			line(pad(of, kindWidth)+when[0], kindWidth+whenWidth, text)
			of = ""
		}
	}
	for _, l := range s.Lost {
		line("lost", kindWidth, l.Rule+": "+l.What)
	}
	for _, n := range s.Notes {
		if s.Action != Keep { // they are not news then
			line("note", kindWidth, n)
		}
	}
	if strings.TrimSpace(head) != "" {
		b.WriteString(strings.TrimRight(head, " ") + "\n")
	}
}

// pad fills up with spaces.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-utf8.RuneCountInString(text), 0))
}

// wrap breaks at spaces, and a word that is longer than a line where the line ends.
func wrap(text string, width int) []string {
	var lines []string
	var line []rune
	for word := range strings.FieldsSeq(text) {
		w := []rune(word)
		if len(line) > 0 && len(line)+1+len(w) > width {
			lines, line = append(lines, string(line)), nil
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		line = append(line, w...)
		for len(line) > width {
			lines, line = append(lines, string(line[:width])), line[width:]
		}
	}
	return append(lines, string(line))
}

// printable keeps a server's words from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, text)
}
