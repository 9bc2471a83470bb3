package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// outcome is how a test ended.
type outcome byte

const (
	missing outcome = iota // it did not run, or not to its end
	passed
	failed
	skipped
)

func (o outcome) String() string {
	return [...]string{"did not run", "passed", "failed", "was skipped"}[o]
}

// results are the outcomes of one run. A test is named "group: name"; what is
// run again is a group. The zero value is ready.
type results struct {
	order []string
	by    map[string]outcome
	why   map[string]string // of what has failed, where the suite tells
	took  time.Duration
}

// add notes a test. Tests of the same name are told apart by their turn.
func (r *results) add(group, name string, how outcome, why string) {
	if r.by == nil {
		r.by, r.why = make(map[string]outcome), make(map[string]string)
	}
	test := group + ": " + name
	for n := 2; r.by[test] != missing; n++ {
		test = group + ": " + name + " (" + strconv.Itoa(n) + ")"
	}
	r.order = append(r.order, test)
	r.by[test] = how
	if why != "" {
		r.why[test] = why
	}
}

func (r *results) of(test string) outcome { return r.by[test] }

func (r *results) count(how outcome) int {
	n := 0
	for _, o := range r.by {
		if o == how {
			n++
		}
	}
	return n
}

// difference is a test that passes directly but not through the proxy.
type difference struct {
	test    string
	through outcome
	why     string
	reason  string // from the list; empty when it is not there
	race    bool   // the list says that it fails now and then
	again   bool   // it passed when it was run once more
}

// differences compares two runs, in the order of the first.
func differences(direct, through *results, known []exception) []difference {
	var out []difference
	for _, test := range direct.order {
		how := through.of(test)
		if direct.of(test) != passed || how == passed {
			continue
		}
		d := difference{test: test, through: how, why: through.why[test]}
		for _, e := range known {
			if e.matches(test) {
				d.reason, d.race = e.reason, e.race
			}
		}
		out = append(out, d)
	}
	return out
}

// undecided names those that may pass another time, and have not: without a reason, or listed as a
// race, which is true only of what passes now and then.
func undecided(found []difference) []string {
	var out []string
	for _, d := range found {
		if (d.reason == "" || d.race) && !d.again {
			out = append(out, d.test)
		}
	}
	return out
}

// note takes down which of the tests that were run again have passed.
func note(found []difference, tests []string, got *results) {
	for i := range found {
		if slices.Contains(tests, found[i].test) && got.of(found[i].test) == passed {
			found[i].again = true
		}
	}
}

func groupsOf(tests []string) []string {
	var out []string
	for _, t := range tests {
		group, _, _ := strings.Cut(t, ": ")
		if !slices.Contains(out, group) {
			out = append(out, group)
		}
	}
	return out
}

// exception is a test that may differ or is not run at all, and why.
type exception struct {
	mode   string // of the proxy; empty for each
	test   string // a * stands for anything
	out    bool   // left out: it runs neither directly nor through the proxy
	race   bool   // it passes now and then, and so is tried again
	reason string
}

type exceptions []exception

func (e exception) matches(test string) bool {
	head, tail, star := strings.Cut(e.test, "*")
	if !star {
		return test == e.test
	}
	return len(test) >= len(head)+len(tail) && strings.HasPrefix(test, head) && strings.HasSuffix(test, tail)
}

func (list exceptions) of(mode string) []exception {
	var out []exception
	for _, e := range list {
		if !e.out && (e.mode == "" || e.mode == mode) {
			out = append(out, e)
		}
	}
	return out
}

// leftOut are those that are not to be run.
func (list exceptions) leftOut() []exception {
	return slices.DeleteFunc(slices.Clone(list), func(e exception) bool { return !e.out })
}

//go:embed exceptions
var lists embed.FS

// readExceptions reads exceptions/NAME.txt: a line for a test, "shared:" or
// "pinned:" before it where only one mode is meant, and indented lines with the
// reason below it. Several tests may share one reason. # begins a comment. "race:" is before
// a test, or such a mode, that passes now and then. "left out:" is before a test that is not
// to be run; how that is done is up to the suite.
func readExceptions(name string) (exceptions, error) {
	file := path.Join("exceptions", name+".txt")
	text, err := lists.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseExceptions(file, string(text))
}

func parseExceptions(file, text string) (exceptions, error) {
	var out exceptions
	open := 0 // the first that has no reason yet
	told := true
	for line := range strings.Lines(text) {
		word := strings.TrimSpace(line)
		switch {
		case word == "", word[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if open == len(out) && told {
				return nil, fmt.Errorf("%s: a reason without a test: %s", file, word)
			}
			told = true
			for i := open; i < len(out); i++ {
				out[i].reason = strings.TrimSpace(out[i].reason + " " + word)
			}
		default:
			if told {
				open, told = len(out), false
			}
			e := exception{}
			word, e.race = strings.CutPrefix(word, "race: ")
			e.test = word
			for _, mode := range []string{"shared", "pinned"} {
				if rest, ok := strings.CutPrefix(word, mode+": "); ok {
					e.mode, e.test = mode, rest
				}
			}
			if rest, ok := strings.CutPrefix(word, "left out: "); ok {
				e.out, e.test = true, rest
			}
			out = append(out, e)
		}
	}
	if !told {
		return nil, fmt.Errorf("%s: no reason for %s", file, out[open].test)
	}
	return out, nil
}

func printCounts(name string, r *results) {
	fmt.Printf("  %-16s %5d passed %4d failed %5d skipped %4.0f s\n",
		name, r.count(passed), r.count(failed), r.count(skipped), r.took.Seconds())
}

// printLeftOut prints what does not run, and why.
func printLeftOut(list []exception) {
	for _, e := range list {
		fmt.Printf("    left out: %s\n", e.test)
		wrap("      ", e.reason)
	}
}

// printAll prints the differences and says how many have no reason. Of those it
// prints a few only: hundreds mean that the suite broke off.
func printAll(found []difference) int {
	const most = 20
	bad, again := 0, 0
	for _, d := range found {
		switch {
		case d.reason != "" && !d.again:
		case d.again:
			if again++; again > most {
				continue
			}
		default:
			if bad++; bad > most {
				continue
			}
		}
		d.print()
	}
	if again > most {
		fmt.Printf("    and %d more that passed when run again\n", again-most)
	}
	if bad > most {
		fmt.Printf("    and %d more that DIFFER\n", bad-most)
	}
	return bad
}

func (d difference) print() {
	switch {
	case d.again:
		fmt.Printf("    passed when run again: %s\n", d.test)
	case d.race:
		fmt.Printf("    listed as a race, but never passed in %d runs: %s\n", 1+tries, d.test)
		wrap("      ", d.reason)
		return
	case d.reason != "":
		fmt.Printf("    listed: %s\n", d.test)
		wrap("      ", d.reason)
		return
	default:
		fmt.Printf("    DIFFERS: %s\n", d.test)
	}
	wrap("      ", strings.TrimSpace("it "+d.through.String()+". "+d.why))
}

// wrap prints text in lines of at most 80 columns.
func wrap(indent, text string) {
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) > 79 && line != indent {
			fmt.Println(strings.TrimRight(line, " "))
			line = indent
		}
		line += word + " "
	}
	fmt.Println(strings.TrimRight(line, " "))
}
