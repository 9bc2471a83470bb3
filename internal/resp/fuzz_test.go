package resp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/tidwall/redcon"
)

// pieces cuts input at any byte: each byte of cuts is the length of a piece less
// one, over and over; without cuts there is one piece.
func pieces(input, cuts []byte) (out [][]byte) {
	if len(cuts) == 0 {
		return [][]byte{input}
	}
	for i := 0; len(input) > 0; i++ {
		n := min(len(input), int(cuts[i%len(cuts)])+1)
		out = append(out, input[:n])
		input = input[n:]
	}
	return out
}

// taker does with a Requests what the proxy does with it.
type taker struct {
	p      Requests
	big    int  // from which length of an argument on a command is taken by Stream; 0: never
	unread bool // each request is put back once

	args      [][][]byte // nil for what was taken by Stream
	raws      [][]byte
	current   []byte
	streaming bool
}

func (k *taker) feed(b []byte) error {
	for {
		if err := k.drain(); err != nil {
			return err
		}
		if len(b) == 0 {
			return nil
		}
		n := copy(k.p.Space(), b)
		k.p.Advance(n)
		b = b[n:]
	}
}

func (k *taker) drain() error {
	for {
		if k.streaming {
			piece, done, err := k.p.Stream()
			k.current = append(k.current, piece...)
			if err != nil || !done {
				return err
			}
			k.args, k.raws = append(k.args, nil), append(k.raws, k.current)
			k.current, k.streaming = nil, false
			continue
		}
		req, ok, err := k.p.Next()
		if err != nil {
			return err
		}
		if ok && k.unread {
			k.p.Unread()
			if req, ok, err = k.p.Next(); err != nil || !ok {
				return fmt.Errorf("a request that was put back is %v, %w", ok, err)
			}
		}
		if ok {
			args := make([][]byte, len(req.Args))
			for i, a := range req.Args {
				args[i] = bytes.Clone(a)
			}
			k.args, k.raws = append(k.args, args), append(k.raws, bytes.Clone(req.Raw))
			continue
		}
		if k.big > 0 {
			_, k.streaming = k.p.Big(k.big)
		}
		if !k.streaming {
			return nil
		}
	}
}

// The reference reads what has come in one go, from the first byte of a command
// on each time, without a state: as a page of the protocol's description. Where a
// line is longer than 64 KiB it depends on how it is cut whether Redis takes it;
// such input is not compared.

var errMore = errors.New("more is needed")

type reference struct {
	args [][]byte
	raw  []byte
}

func readAll(b []byte, strict bool) (out []reference, err error) {
	for len(b) > 0 {
		args, n, err := readCommand(b, strict)
		if errors.Is(err, errMore) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if len(args) > 0 {
			out = append(out, reference{args, tidy(args, b[:n])})
		}
		b = b[n:]
	}
	return out, nil
}

// tidy is a command with the line ends that belong into an array.
func tidy(args [][]byte, raw []byte) []byte {
	if raw[0] != '*' {
		return raw
	}
	out := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		out = append(fmt.Appendf(out, "$%d\r\n", len(a)), a...)
		out = append(out, "\r\n"...)
	}
	return out
}

// madeUp reports whether something is nowhere in the input, whose line ends may have
// been others.
func madeUp(piece, input []byte) bool {
	for from := 0; from+len(piece) <= len(input); from++ {
		same := true
		for i, c := range piece {
			same = same && (c == input[from+i] || c == '\r' || c == '\n')
		}
		if same {
			return false
		}
	}
	return true
}

// readCommand returns the command that b begins with and its length.
func readCommand(b []byte, strict bool) (args [][]byte, n int, err error) {
	if b[0] != '*' {
		line, _, ok := cutLine(b, "\n")
		if !ok {
			return nil, 0, short(b, "too big inline request")
		}
		n = len(line) + 1
		args, ok := splitWords(strings.TrimSuffix(string(line), "\r"))
		if !ok {
			return nil, 0, ProtocolError("unbalanced quotes in request")
		}
		return args, n, nil
	}
	line, ok := crLine(b)
	if !ok {
		return nil, 0, short(b, "too big mbulk count string")
	}
	count, err := strictInt(string(line[1:]))
	switch {
	case err != nil || count > 1<<31-1:
		return nil, 0, ProtocolError("invalid multibulk length")
	case strict && count > 10:
		return nil, 0, ProtocolError("unauthenticated multibulk length")
	}
	n = len(line) + 2
	for ; count > 0; count-- {
		rest := b[n:]
		line, ok := crLine(rest)
		if !ok {
			return nil, 0, short(rest, "too big bulk count string")
		}
		if rest[0] != '$' {
			return nil, 0, ProtocolError("expected '$', got '" + printable(rest[0]) + "'")
		}
		size, err := strictInt(string(line[1:]))
		switch {
		case err != nil || size < 0 || size > 512<<20:
			return nil, 0, ProtocolError("invalid bulk length")
		case strict && size > 16384:
			return nil, 0, ProtocolError("unauthenticated bulk length")
		}
		n += len(line) + 2
		if int64(len(b)-n) < size+2 {
			return nil, 0, errMore
		}
		args = append(args, b[n:n+int(size)])
		n += int(size) + 2
	}
	return args, n, nil
}

func short(b []byte, text ProtocolError) error {
	if len(b) > 64<<10 {
		return text
	}
	return errMore
}

// cutLine looks for the end of a line as C does: a zero byte hides what follows.
func cutLine(b []byte, end string) (line, rest []byte, ok bool) {
	visible, _, _ := bytes.Cut(b, []byte{0})
	if line, _, ok = bytes.Cut(visible, []byte(end)); !ok {
		return nil, nil, false
	}
	return line, b[len(line)+len(end):], true
}

// crLine is a line that ends with '\r' and any one byte.
func crLine(b []byte) ([]byte, bool) {
	line, rest, ok := cutLine(b, "\r")
	return line, ok && len(rest) > 0
}

// strictInt reads what strconv writes, and nothing else.
func strictInt(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && strconv.FormatInt(n, 10) != s {
		err = strconv.ErrSyntax
	}
	return n, err
}

// splitWords splits an inline command: one state, one byte at a time.
func splitWords(s string) (words [][]byte, ok bool) {
	const blank = " \t\n\v\f\r"
	for {
		s = strings.TrimLeft(s, blank)
		if s == "" {
			return words, true
		}
		word := []byte{}
		for s != "" && !strings.Contains(" \t\n\r", s[:1]) {
			switch c := s[0]; c {
			case '"', '\'':
				text, rest, ok := unquote(s[1:], c)
				if !ok || rest != "" && !strings.Contains(blank, rest[:1]) {
					return nil, false
				}
				word, s = append(word, text...), rest
				goto whole
			default:
				word, s = append(word, c), s[1:]
			}
		}
	whole:
		words = append(words, word)
	}
}

func unquote(s string, quote byte) (text, rest string, ok bool) {
	for s != "" {
		switch {
		case s[0] == quote:
			return text, s[1:], true
		case s[0] != '\\' || len(s) == 1 || quote == '\'' && s[1] != '\'':
			text, s = text+s[:1], s[1:]
		case quote == '\'':
			text, s = text+"'", s[2:]
		default:
			if len(s) >= 4 && s[1] == 'x' {
				if v, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
					text, s = text+string([]byte{byte(v)}), s[4:]
					continue
				}
			}
			if i := strings.IndexByte("nrtba", s[1]); i >= 0 {
				text += "\n\r\t\b\a"[i : i+1]
			} else {
				text += s[1:2]
			}
			s = s[2:]
		}
	}
	return "", "", false
}

func FuzzRequests(f *testing.F) {
	add := func(in string, cuts string, strict bool) { f.Add([]byte(in), []byte(cuts), uint8(3), strict) }
	add("*1\r\n$4\r\nPING\r\nset \"a\" 'b'\r\n*0\r\n", "\x00\x05", false)
	add("*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$-1\r\n", "", false)
	add("*3\r\n$3\r\nSET\r\n$0\r\n\r\n$20\r\n12345678901234567890\r\nPING\r\n", "\x07", false)
	add("*11\r\n$1\r\na\r\n", "", true)
	add("*1\r\n$16385\r\n", "\x01", true)
	add("*1\r\n$9223372036854775807\r\n", "", false)
	add("*9223372036854775807\r\n", "", false)
	add("*-9223372036854775808\r\nPING\n", "\x02", false)
	add("*1\r\n\x00", "", false)
	add("PI\x00NG\r\nPING\r\n", "\x00", false)
	add("*1\rx$4\rxPING..PING\r\n", "\x03", false)
	add("a \"\\x4\\n\\q\\\"\" 'it\\'s\\n' x\"y\"\r\n\"a\"b\r\n", "\x09", false)
	f.Fuzz(func(t *testing.T, input, cuts []byte, big uint8, strict bool) {
		if len(input) > MaxInline {
			return
		}
		want, wantErr := readAll(input, strict)
		for _, k := range []*taker{{}, {unread: true}, {big: int(big) + 1}} {
			k.p.Strict = strict
			var err error
			for _, piece := range pieces(input, cuts) {
				if err = k.feed(piece); err != nil {
					break
				}
			}
			if fmt.Sprint(err) != fmt.Sprint(wantErr) || len(k.raws) != len(want) {
				t.Fatalf("%q in pieces of %v, from %d on piecewise, unread %v: %d commands, %v; the reference has %d, %v",
					input, cuts, k.big, k.unread, len(k.raws), err, len(want), wantErr)
			}
			for i, w := range want {
				if k.args[i] != nil && !equalAll(k.args[i], w.args) || !bytes.Equal(k.raws[i], w.raw) {
					t.Fatalf("%q in pieces of %v, from %d on piecewise: command %d is %q %q, want %q %q",
						input, cuts, k.big, i, k.raws[i], k.args[i], w.raw, w.args)
				}
			}
			if len(k.current) > 0 && madeUp(k.current, input) {
				t.Fatalf("%q: %q was made up", input, k.current)
			}
		}
	})
}

func equalAll(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// FuzzWellFormed has redcon write and read what Requests reads.
func FuzzWellFormed(f *testing.F) {
	f.Add([]byte("SET\x00key\x00value\x01GET\x00key"), []byte{4})
	f.Add([]byte("\x01\x00\r\n*$\x01"), []byte{})
	f.Fuzz(func(t *testing.T, text, cuts []byte) {
		var wire []byte
		var want [][][]byte
		for command := range bytes.SplitSeq(text, []byte{1}) {
			args := bytes.Split(command, []byte{0})
			wire = redcon.AppendArray(wire, len(args))
			for _, a := range args {
				wire = redcon.AppendBulk(wire, a)
			}
			want = append(want, args)
		}
		cmds, err := redcon.NewReader(bytes.NewReader(wire)).ReadCommands()
		if err != nil {
			t.Fatalf("redcon: %v", err)
		}
		var k taker
		for _, piece := range pieces(wire, cuts) {
			if err := k.feed(piece); err != nil {
				t.Fatal(err)
			}
		}
		if len(k.args) != len(want) || !bytes.Equal(bytes.Join(k.raws, nil), wire) {
			t.Fatalf("%q: %d commands, want %d", wire, len(k.args), len(want))
		}
		for i, args := range want {
			if !equalAll(k.args[i], args) {
				t.Fatalf("command %d is %q, want %q", i, k.args[i], args)
			}
			if i < len(cmds) && !equalAll(cmds[i].Args, args) { // redcon reads some of them at a time
				t.Fatalf("redcon's command %d is %q, want %q", i, cmds[i].Args, args)
			}
		}
	})
}
