package resp

import (
	"bytes"
	"errors"
	"testing"
)

// taken feeds input in pieces of size step, takes commands with an argument of
// at least big bytes by Stream and all others by Next, and returns their bytes.
func taken(input []byte, step, big int) (raws [][]byte, streamed int, err error) {
	var p Requests
	var current []byte
	streaming := false
	for {
		for {
			if streaming {
				piece, done, err := p.Stream()
				current = append(current, piece...)
				if err != nil {
					return append(raws, current), streamed, err
				}
				if !done {
					break
				}
				raws, current, streaming = append(raws, current), nil, false
				continue
			}
			req, ok, err := p.Next()
			if err != nil {
				return raws, streamed, err
			}
			if ok {
				raws = append(raws, bytes.Clone(req.Raw))
				continue
			}
			if _, ok := p.Big(big); !ok {
				break
			}
			streaming = true
			streamed++
		}
		if len(input) == 0 {
			return raws, streamed, nil
		}
		space := p.Space()
		n := copy(space[:min(step, len(space))], input)
		input = input[n:]
		p.Advance(n)
	}
}

func TestStreamHandsOutTheSameBytes(t *testing.T) {
	value := bytes.Repeat([]byte("v"), 300)
	var input []byte
	var want [][]byte
	for _, args := range [][]string{{"PING"}, {"SET", "k", string(value)}, {"GET", "k"},
		{"MSET", "a", string(value), "b", "", "c", string(value)}, {"ECHO", string(value)}, {"PING"}} {
		raw := []byte{'*', byte('0' + len(args)), '\r', '\n'}
		for _, a := range args {
			raw = append(raw, '$')
			if len(a) > 9 {
				raw = append(raw, "300"...)
			} else {
				raw = append(raw, byte('0'+len(a)))
			}
			raw = append(append(append(raw, '\r', '\n'), a...), '\r', '\n')
		}
		input = append(input, raw...)
		want = append(want, raw)
	}
	for step := 1; step <= len(input); step++ {
		got, streamed, err := taken(input, step, 300)
		if err != nil {
			t.Fatalf("in pieces of %d: %v", step, err)
		}
		if step == 1 && streamed != 3 {
			t.Fatalf("%d commands were streamed", streamed)
		}
		if len(got) != len(want) {
			t.Fatalf("in pieces of %d: %d commands", step, len(got))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("in pieces of %d: command %d is %q, want %q", step, i, got[i], want[i])
			}
		}
	}
}

// TestStreamTakesNoMemory streams what would not fit the buffer.
func TestStreamTakesNoMemory(t *testing.T) {
	var p Requests
	p.Advance(copy(p.Space(), "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000000\r\n"))
	if _, ok, err := p.Next(); ok || err != nil {
		t.Fatal(ok, err)
	}
	if head, ok := p.Big(1 << 20); !ok || len(head) != 2 || string(head[1]) != "k" {
		t.Fatalf("%q %v", head, ok)
	}
	total := 0
	for left := 100_000_002; ; {
		piece, done, err := p.Stream()
		if err != nil {
			t.Fatal(err)
		}
		total += len(piece)
		if done {
			break
		}
		space := p.Space()
		if len(space) > 64<<10 {
			t.Fatalf("the buffer has grown to %d", len(space))
		}
		n := min(left, len(space))
		p.Advance(n)
		left -= n
	}
	if want := len("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000000\r\n") + 100_000_002; total != want {
		t.Fatalf("%d bytes, want %d", total, want)
	}
}

func TestStreamEndsWithMalformedInput(t *testing.T) {
	value := bytes.Repeat([]byte("v"), 300)
	input := append([]byte("*4\r\n$4\r\nMSET\r\n$1\r\nk\r\n$300\r\n"), value...)
	input = append(input, "\r\n$-5\r\nrest"...)
	for _, step := range []int{1, 7, 100} {
		raws, _, err := taken(input, step, 300)
		var bad ProtocolError
		if !errors.As(err, &bad) || bad != "invalid bulk length" {
			t.Fatalf("%v", err)
		}
		if len(raws) != 1 || !bytes.HasPrefix(input, raws[0]) || !bytes.Contains(raws[0], []byte("$-5\r")) {
			t.Fatalf("%q", raws)
		}
	}
}

// TestManyArgumentsAreStreamed takes a command piecewise that has no large
// argument but no end either.
func TestManyArgumentsAreStreamed(t *testing.T) {
	var p Requests
	p.Advance(copy(p.Space(), "*2000001\r\n$3\r\nDEL\r\n"))
	for left := 2_000_000; left > 0; {
		if _, ok, err := p.Next(); ok || err != nil {
			t.Fatal(ok, err)
		}
		if head, ok := p.Big(128 << 10); ok {
			if string(head[0]) != "DEL" || len(head) > maxHead {
				t.Fatalf("%d arguments, %q", len(head), head[0])
			}
			return
		}
		space := p.Space()
		if len(space) > 4<<20 {
			t.Fatalf("the buffer has grown to %d", len(space))
		}
		n := 0
		for ; n+7 <= len(space) && left > 0; left-- {
			n += copy(space[n:], "$1\r\nk\r\n")
		}
		p.Advance(n)
	}
	t.Fatal("it was never offered")
}

func TestTooLargeCommand(t *testing.T) {
	p := Requests{max: 1000}
	p.Advance(copy(p.Space(), "*3\r\n$4\r\nEVAL\r\n"))
	for range 2000 {
		if _, _, err := p.Next(); err != nil {
			if !errors.Is(err, ErrTooLarge) || p.Buffered() > 1100 {
				t.Fatalf("%v after %d bytes", err, p.Buffered())
			}
			return
		}
		p.Advance(copy(p.Space(), "$900\r\n"[:1]))
		if p.Buffered() < 40 {
			p.Advance(copy(p.Space(), "900\r\n"))
		}
	}
	t.Fatal("it was taken")
}

func TestOver(t *testing.T) {
	for in, over := range map[string]bool{"*10\r\n": false, "*11\r\n": true, "*1\r\n$16384\r\n": false, "*2\r\n$4\r\nECHO\r\n$16385\r\nx": true, "*11": false} {
		var p Requests
		p.Advance(copy(p.Space(), in))
		if _, ok, err := p.Next(); ok || err != nil || p.Over() != over {
			t.Errorf("%q: %v, %v, over %v", in, ok, err, p.Over())
		}
		p.Strict = true
		p.Restart()
		if _, _, err := p.Next(); (err != nil) != over {
			t.Errorf("%q under the strict limits: %v", in, err)
		}
	}
}
