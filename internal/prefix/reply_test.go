package prefix

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/resp"
)

// stripped has a reply pass in pieces of these lengths.
func stripped(begin func(s *Stripper), reply string, cuts ...byte) string {
	var s Stripper
	begin(&s)
	var out []byte
	for i := 0; len(reply) > 0; i++ {
		n := len(reply)
		if len(cuts) > 0 {
			n = min(n, int(cuts[i%len(cuts)])+1)
		}
		out = s.Feed(out, []byte(reply[:n]))
		reply = reply[n:]
	}
	return string(out)
}

// wire is a reply that is written with _ as the end of a line.
func wire(text string) string { return strings.ReplaceAll(text, "_", "\r\n") }

func TestStripped(t *testing.T) {
	for _, c := range []struct {
		form       Reply
		from, want string
	}{
		{Nothing, "$4_c3:a_", "$4_c3:a_"},
		{Name, "$4_c3:a_", "$1_a_"},
		{Name, "$3_c3:_", "$0__"},
		{Name, "$-1_", "$-1_"},
		{Name, "$2_c3_", "$2_c3_"},
		{Name, "$4_d3:a_", "$4_d3:a_"},
		{Name, "-ERR c3:_", "-ERR c3:_"},
		{Names, "*2_$4_c3:a_$13_c3:0123456789_", "*2_$1_a_$10_0123456789_"},
		{Names, "*0_", "*0_"},
		{Names, "-NOPERM x_", "-NOPERM x_"},
		{Scanned, "*2_$1_0_*2_$4_c3:a_$4_c3:b_", "*2_$1_0_*2_$1_a_$1_b_"},
		{Scanned, "*2_$4_c3:0_*0_", "*2_$4_c3:0_*0_"},
		{Popped, "*2_$4_c3:a_$4_c3:v_", "*2_$1_a_$4_c3:v_"},
		{Popped, "*2_$4_c3:a_*1_$4_c3:v_", "*2_$1_a_*1_$4_c3:v_"},
		{Popped, "*3_$4_c3:a_$1_m_,1.5_", "*3_$1_a_$1_m_,1.5_"},
		{Popped, "*-1_", "*-1_"},
		{Streams, "*1_*2_$4_c3:a_*1_*2_$3_1-1_*2_$4_c3:f_$1_v_", "*1_*2_$1_a_*1_*2_$3_1-1_*2_$4_c3:f_$1_v_"},
		{Streams, "%1_$4_c3:a_*1_*2_$3_1-1_*2_$4_c3:f_$1_v_", "%1_$1_a_*1_*2_$3_1-1_*2_$4_c3:f_$1_v_"},
		{Streams, "-NOGROUP No such key 'c3:a' or consumer group 'g' in XREADGROUP with GROUP option_", "-NOGROUP No such key 'a' or consumer group 'g' in XREADGROUP with GROUP option_"},
		{Complaint, "-NOGROUP No such consumer group 'g' for key name 'c3:a'_", "-NOGROUP No such consumer group 'g' for key name 'a'_"},
		{Complaint, "$4_c3:a_", "$4_c3:a_"},
		{Moved, ":1_", ":1_"},
		{Moved, "-ERR no such key_", ":0_"},
		{Moved, "-ERR other_", "-ERR other_"},
	} {
		begin := func(s *Stripper) { s.Begin(with, c.form) }
		for _, cuts := range [][]byte{nil, {0}, {1}, {2, 0}} {
			if got := stripped(begin, wire(c.from), cuts...); got != wire(c.want) {
				t.Errorf("%s in pieces of %v becomes %q, want %s", c.from, cuts, got, c.want)
			}
		}
	}
	exec := func(s *Stripper) {
		s.BeginList([]Element{{Nothing, with}, {Popped, with}, {Moved, with}, {Names, "c4:"}, {Streams, with}})
	}
	from := wire("*6_$4_c3:x_*2_$4_c3:a_$4_c3:v_-ERR no such key_*2_$4_c4:a_$4_c3:a_%1_$4_c3:a_*0_$4_c3:a_")
	want := wire("*6_$4_c3:x_*2_$1_a_$4_c3:v_:0_*2_$1_a_$4_c3:a_%1_$1_a_*0_$4_c3:a_")
	for _, cuts := range [][]byte{nil, {0}, {1}, {2, 0}, {7, 1}} {
		if got := stripped(exec, from, cuts...); got != want {
			t.Errorf("a transaction in pieces of %v becomes %q, want %q", cuts, got, want)
		}
	}
}

// reference strips a whole reply by taking it apart.
func reference(form Reply, of []Reply, el string) string {
	typ, _, rest, ok := resp.Header([]byte(el))
	kids := resp.Elements([]byte(el))
	if form == Name || form == Complaint || form == Moved || !ok || len(kids) == 0 || !looksInto(form, typ) {
		return leaf(form, el)
	}
	out := el[:len(el)-len(rest)]
	for i, k := range kids {
		child := whatever
		switch {
		case form == Names, form == Popped && i == 0, form == Streams && typ == '%' && i%2 == 0:
			child = Name
		case form == Scanned && i == 1:
			child = Names
		case form == Streams && typ != '%':
			child = Popped
		case form == list && i < len(of):
			child = of[i]
		}
		out += reference(child, nil, string(k))
	}
	return out
}

func leaf(form Reply, el string) string {
	text, _, ok := resp.Text([]byte(el))
	switch {
	case form == Name && ok && el[0] == '$' && strings.HasPrefix(string(text), with):
		return fmt.Sprintf("$%d\r\n%s\r\n", len(text)-len(with), text[len(with):])
	case form == Moved && el == "-ERR no such key\r\n":
		return ":0\r\n"
	case (form == Complaint || form == Streams) && strings.HasPrefix(el, "-NOGROUP "):
		for _, n := range named2 {
			if i := strings.LastIndex(el, n); i >= 0 && strings.HasPrefix(el[i+len(n):], with) {
				return el[:i+len(n)] + el[i+len(n)+len(with):]
			}
		}
	}
	return el
}

var named2 = []string{"-NOGROUP No such key '", " for key name '"}

// FuzzStripper compares what passes in pieces with what is taken apart as a whole.
func FuzzStripper(f *testing.F) {
	for _, text := range []string{"*2_$1_0_*2_$4_c3:a_$4_c3:b_", "%1_$4_c3:a_*1_*2_$3_1-1_*2_$4_c3:f_$1_v_", "*3_*2_$4_c3:a_$4_c3:v_-ERR no such key_*1_$4_c3:a_", "$4_c3:a_", "*1_*2_$4_c3:a_*0_", "-NOGROUP No such consumer group 'g' for key name 'c3:a'_", "*2_$4_c3:a_*-1_"} {
		for form := range whatever {
			f.Add([]byte(wire(text)), byte(form), []byte{3, 4, 5}, []byte{1})
		}
	}
	f.Fuzz(func(t *testing.T, reply []byte, form byte, of, cuts []byte) {
		if len(reply) > longestLine {
			return
		}
		var forms []Reply
		var elements []Element
		for _, o := range of {
			forms = append(forms, Reply(o)%list)
			elements = append(elements, Element{Reply(o) % list, with})
		}
		begin := func(s *Stripper) {
			if form := Reply(form) % whatever; form == list {
				s.BeginList(elements)
			} else {
				s.Begin(with, form)
			}
		}
		got := stripped(begin, string(reply), cuts...)
		var fr resp.Framer
		n, done, err := fr.Feed(reply)
		if err != nil || !done || n != len(reply) || strings.ContainsAny(string(reply), "|?") || odd(reply) || pushedInto(reply) {
			return // it must not panic; that is all
		}
		if want := reference(Reply(form)%whatever, forms, string(reply)); got != want {
			t.Fatalf("%q of the form %d (%v) in pieces of %v becomes %q, want %q", reply, form, forms, cuts, got, want)
		}
	})
}

// pushedInto reports whether something was pushed into the middle of a reply: a Stripper is
// given replies without.
func pushedInto(el []byte) bool {
	els, pushed := resp.Split(el)
	return pushed != nil || slices.ContainsFunc(els, pushedInto)
}

// odd reports whether a length is written as no server does, or a line or bytes end as none ends them.
func odd(reply []byte) bool {
	for len(reply) > 0 {
		before, rest, _ := strings.Cut(string(reply), "\n")
		line, ended := strings.CutSuffix(before, "\r")
		if !ended {
			return true
		}
		reply = []byte(rest)
		if len(line) < 2 || strings.IndexByte("*$%~>!=", line[0]) < 0 {
			continue
		}
		n, ok := resp.Integer([]byte(line[1:]))
		switch {
		case !ok:
			return true
		case n < 0 || strings.IndexByte("$!=", line[0]) < 0:
			continue
		case n+2 > int64(len(reply)) || string(reply[n:n+2]) != "\r\n":
			return true
		}
		reply = reply[n+2:]
	}
	return false
}

func TestStrippingDoesNotAllocate(t *testing.T) {
	var s Stripper
	var dst []byte
	keys := []byte(wire("*2_$1_0_*3_$4_c3:a_$4_c3:b_$13_c3:0123456789_"))
	strip := func() {
		s.Begin(with, Scanned)
		dst = s.Feed(dst[:0], keys)
	}
	strip()
	if n := testing.AllocsPerRun(100, strip); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkStripper(b *testing.B) {
	reply := []byte(wire("*2_$1_0_*10_" + strings.Repeat("$23_c3:key:0000000000000012_", 10)))
	var s Stripper
	var dst []byte
	b.ReportAllocs()
	b.SetBytes(int64(len(reply)))
	for b.Loop() {
		s.Begin(with, Scanned)
		dst = s.Feed(dst[:0], reply)
	}
}
