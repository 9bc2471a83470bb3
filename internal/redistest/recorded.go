package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// Recorded is a server that says what another one has said: for versions that are not at
// hand. Its keys are commands in small letters, words separated by spaces; an answer is a
// string, a list ([]string, []any), an error's text (error) or nil. What is not in it is an
// unknown command; CLIENT and PING are answered with OK.
type Recorded map[string]any

// Listen serves it until the test ends, and returns its address.
func (r Recorded) Listen(tb TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
		return ""
	}
	var serving sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			serving.Go(func() { r.serve(c) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return l.Addr().String()
}

func (r Recorded) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	for {
		words, err := readCommand(in)
		if err != nil {
			return
		}
		if _, err := c.Write(encode(nil, r.answer(words))); err != nil {
			return
		}
	}
}

func (r Recorded) answer(words []string) any {
	line := strings.ToLower(strings.Join(words, " "))
	if a, ok := r[line]; ok {
		return a
	}
	if name, _, _ := strings.Cut(line, " "); name == "client" || name == "ping" {
		return "OK"
	}
	return fmt.Errorf("ERR unknown command '%s'", words[0])
}

// readCommand reads an array of strings.
func readCommand(in *bufio.Reader) ([]string, error) {
	n, err := readCount(in, '*')
	if err != nil || n < 1 {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	words := make([]string, n)
	for i := range words {
		size, err := readCount(in, '$')
		if err != nil {
			return nil, err
		}
		text := make([]byte, size+2)
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, err
		}
		words[i] = string(text[:size])
	}
	return words, nil
}

func readCount(in *bufio.Reader, kind byte) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("reading a command: %q", line)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if err == nil && (n < 0 || n > 1<<20) {
		err = fmt.Errorf("reading a command: a length of %d", n)
	}
	return n, err
}

func encode(dst []byte, answer any) []byte {
	switch a := answer.(type) {
	case nil:
		return append(dst, "$-1\r\n"...)
	case error:
		return fmt.Appendf(dst, "-%s\r\n", a)
	case []string:
		dst = fmt.Appendf(dst, "*%d\r\n", len(a))
		for _, one := range a {
			dst = encode(dst, one)
		}
		return dst
	case []any:
		dst = fmt.Appendf(dst, "*%d\r\n", len(a))
		for _, one := range a {
			dst = encode(dst, one)
		}
		return dst
	default:
		text := fmt.Sprint(a)
		return fmt.Appendf(dst, "$%d\r\n%s\r\n", len(text), text)
	}
}
