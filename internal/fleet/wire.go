package fleet

import (
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
)

// words encodes a command.
func words(args ...string) []byte {
	b := header(nil, '*', len(args))
	for _, a := range args {
		b = bulk(b, a)
	}
	return b
}

// wireOf is words of bytes.
func wireOf(args ...[]byte) []byte {
	size := 16
	for _, a := range args {
		size += len(a) + 16
	}
	b := header(make([]byte, 0, size), '*', len(args))
	for _, a := range args {
		b = bulk(b, a)
	}
	return b
}

func header(b []byte, typ byte, n int) []byte {
	return append(strconv.AppendInt(append(b, typ), int64(n), 10), "\r\n"...)
}

func bulk[T ~string | ~[]byte](b []byte, text T) []byte {
	return append(append(header(b, '$', len(text)), text...), "\r\n"...)
}

func integer(n int64) []byte {
	return append(strconv.AppendInt([]byte{':'}, n, 10), "\r\n"...)
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ")

// errorOf is an error reply. The text may have words of the client's in it.
func errorOf(text string) []byte { return []byte("-" + oneLine.Replace(text) + "\r\n") }

// texts are the words of a command that is read again.
func parsed(raw []byte) [][]byte {
	elements := resp.Elements(raw)
	args := make([][]byte, 0, len(elements))
	for _, el := range elements {
		text, _, _ := resp.Text(el)
		args = append(args, text)
	}
	return args
}

// number reads a number reply.
func number(reply []byte) (int64, bool) {
	if len(reply) < 4 || reply[0] != ':' {
		return 0, false
	}
	return resp.Integer(reply[1 : len(reply)-2])
}

var (
	replyOK     = []byte("+OK\r\n")
	replyQueued = []byte("+QUEUED\r\n")
)
