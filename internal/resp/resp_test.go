package resp

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// requests feeds input in pieces of size step and returns what came out.
func requests(input []byte, step int) (out [][][]byte, raws [][]byte, err error) {
	var p Requests
	for {
		for {
			req, ok, perr := p.Next()
			if perr != nil {
				return out, raws, perr
			}
			if !ok {
				break
			}
			args := make([][]byte, len(req.Args))
			for i, a := range req.Args {
				args[i] = bytes.Clone(a)
			}
			out = append(out, args)
			raws = append(raws, bytes.Clone(req.Raw))
		}
		if len(input) == 0 {
			return out, raws, nil
		}
		space := p.Space()
		n := copy(space[:min(step, len(space))], input)
		input = input[n:]
		p.Advance(n)
	}
}

func TestRequests(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	tests := []struct{ in, want, err string }{
		{"*1\r\n$4\r\nPING\r\n", "[[PING]]", ""},
		{"*0\r\n*-1\r\n\r\n\n*1\r\n$4\r\nPING\r\nget a\r\n", "[[PING] [get a]]", ""},
		{"set \"a\\x41\\n\" 'b\\'c'\r\n", "[[set aA\n b'c]]", ""},
		{"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", "[[GET ]]", ""},
		{"*1\r\n$4\r\nPING\r\n*a\r\n", "[[PING]]", "Protocol error: invalid multibulk length"},
		{"*2147483648\r\n", "[]", "Protocol error: invalid multibulk length"},
		{"*9223372036854775807\r\n", "[]", "Protocol error: invalid multibulk length"},
		{"*1\r\n$9223372036854775807\r\n", "[]", "Protocol error: invalid bulk length"},
		{"*1\r\n$-1\r\n", "[]", "Protocol error: invalid bulk length"},
		{"*1\r\n+x\r\n", "[]", "Protocol error: expected '$', got '+'"},
		{"set \"a\r\n", "[]", "Protocol error: unbalanced quotes in request"},
		{"set \"a\"b\r\n", "[]", "Protocol error: unbalanced quotes in request"},
		{big, "[]", "Protocol error: too big inline request"},
		{"*" + big, "[]", "Protocol error: too big mbulk count string"},
		{"*1\r\n$" + big, "[]", "Protocol error: too big bulk count string"},
		{"*2\r\n$3\r\nGET\r\n$100000\r\n" + big + "\r\n", "[[GET " + big + "]]", ""},
	}
	for _, tt := range tests {
		for _, step := range []int{1, 2, 7, 1000, 1 << 20} {
			out, _, err := requests([]byte(tt.in), step)
			if got := fmt.Sprintf("%s", out); got != tt.want {
				t.Errorf("%.40q in steps of %d: got %.60q", tt.in, step, got)
			}
			if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("%.40q in steps of %d: error %v, want %q", tt.in, step, err, tt.err)
			}
		}
	}
}

var wellFormed = []string{
	"+OK\r\n", "-ERR a\r\n", ":1\r\n", "$-1\r\n", "$0\r\n\r\n", "$3\r\na\r\n\r\n", "*-1\r\n", "*0\r\n",
	"*2\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(123\r\n", "=5\r\ntxt:a\r\n", "!3\r\nERR\r\n",
	"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n", "~2\r\n:1\r\n:2\r\n", ">2\r\n+message\r\n$1\r\nx\r\n",
	"|1\r\n+ttl\r\n:3600\r\n*1\r\n+x\r\n", "|0\r\n+x\r\n", "*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n",
	"*?\r\n:1\r\n*2\r\n:1\r\n:2\r\n$1\r\na\r\n.\r\n", "$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n", "*?\r\n*?\r\n.\r\n%?\r\n+a\r\n+b\r\n.\r\n.\r\n",
	"*?\r\n|1\r\n+a\r\n+b\r\n:1\r\n.\r\n", "+a\rb\r\n", "*1\r\n*1\r\n*1\r\n*0\r\n",
	"*2\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n:1\r\n",
	"*2\r\n>4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\nx\r\n+OK\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n+OK\r\n",
	"%1\r\n+a\r\n*1\r\n>3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$1\r\nx\r\n:1\r\n", ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n",
}

func TestFramer(t *testing.T) {
	all := []byte(strings.Join(wellFormed, ""))
	for _, step := range []int{1, 2, 3, 5, 1000} {
		var f Framer
		var got []string
		start := 0
		for at := 0; at < len(all); {
			n, done, err := f.Feed(all[at:min(at+step, len(all))])
			if err != nil {
				t.Fatalf("at %d (%q): %v", at, all[start:at+n], err)
			}
			at += n
			if done {
				got = append(got, string(all[start:at]))
				start = at
			}
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", wellFormed) {
			t.Fatalf("steps of %d: got %q", step, got)
		}
	}
	for _, bad := range []string{"\x00:1\r\n", "x\r\n", "$a\r\n", "*99999999999999999999\r\n", ".\r\n", ";1\r\n", "$\r\n", "$1\rx", "$-\r\n"} {
		var f Framer
		if _, _, err := f.Feed([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestElements(t *testing.T) {
	els := Elements([]byte("*3\r\n$1\r\na\r\n*1\r\n:1\r\n-ERR x\r\n"))
	if fmt.Sprintf("%q", els) != `["$1\r\na\r\n" "*1\r\n:1\r\n" "-ERR x\r\n"]` {
		t.Fatalf("got %q", els)
	}
	if ErrorText(els[2]) != "ERR x" || IsError(els[0]) {
		t.Fatal("errors are not told apart")
	}
	const told = ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
	els, pushed := Split([]byte("*2\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + told + told + "-ERR x\r\n"))
	if len(els) != 2 || !IsError(els[1]) || len(pushed) != 2 || len(pushed[0]) != 0 || string(pushed[1]) != told+told {
		t.Fatalf("what is pushed is not told from elements: %q, %q", els, pushed)
	}
	one := []byte("*1\r\n$1\r\na\r\n")
	if n := testing.AllocsPerRun(10, func() { Elements(one) }); n > 1 {
		t.Errorf("an array of one element, into which nothing was pushed, is split with %v allocations", n)
	}
}

// TestWholeAgreesWithTheFramer cuts replies everywhere.
func TestWholeAgreesWithTheFramer(t *testing.T) {
	for _, text := range []string{"+OK\r\n", "-ERR no\r\n", ":1\r\n", "$3\r\nabc\r\n", "$0\r\n\r\n", "$-1\r\n", "$5\r\na\r\n:1\r\n", "+a\nb\r\n", "+a\rb\r\n",
		"+\r\n", "+\n\r\n", "*1\r\n:1\r\n", "_\r\n", "$03\r\nabc\r\n", "$1234567\r\n", "$3\rxabc\r\n", "\n", "x"} {
		for end := 0; end <= len(text); end++ {
			b := []byte(text[:end])
			var f Framer
			n, done, err := f.Feed(b)
			switch whole := Whole(b); {
			case whole == 0:
			case err != nil || !done || whole != n:
				t.Errorf("%q: Whole says %d, the framer %d %v %v", b, whole, n, done, err)
			}
		}
	}
}

// TestStray agrees with what the framer counts.
func TestStray(t *testing.T) {
	for push, want := range map[string]bool{
		">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n":             true,
		">3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$1\r\nx\r\n":            true,
		">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\nx\r\n": true,
		">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n":              true,
		">2\r\n$10\r\ninvalidate\r\n_\r\n":                          true,
		">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n":                false,
		">3\r\n$12\r\nsunsubscribe\r\n_\r\n:0\r\n":                  false,
	} {
		if got := Stray([]byte(push)); got != want {
			t.Errorf("%q: stray is %v", push, got)
		}
		behind := []byte("*1\r\n" + push + ":7\r\n")
		if n, done, err := new(Framer).Feed(behind); !done || err != nil || (n == len(behind)) != want {
			t.Errorf("%q ends at %d: %v, %v", behind, n, done, err)
		}
	}
}

// TestSizeCountsWhatIsNotedOfArguments: many small arguments take more memory than their bytes.
func TestSizeCountsWhatIsNotedOfArguments(t *testing.T) {
	const n = 100_000
	var p Requests
	input := append([]byte(fmt.Sprintf("*%d\r\n", n)), bytes.Repeat([]byte("$0\r\n\r\n"), n-1)...)
	for len(input) > 0 {
		k := copy(p.Space(), input)
		p.Advance(k)
		input = input[k:]
		if _, ok, err := p.Next(); ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if least := p.Buffered() + 16*(n-1); p.Size() < least {
		t.Errorf("%d bytes are counted, at least %d are kept", p.Size(), least)
	}
}
