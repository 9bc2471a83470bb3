package proxy

import (
	"math"
	"strconv"
	"time"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/tidwall/redcon"
)

// Where a blocking command has its timeout.
const (
	last byte = iota + 1
	first
	option // BLOCK ms
)

// blockForm says where a blocking command has its timeout and in what unit:
// seconds with a fraction, or milliseconds.
type blockForm struct {
	at      byte
	seconds bool
}

// index finds the timeout argument, -1 when the command does not block.
func (f blockForm) index(args [][]byte) int {
	switch f.at {
	case last:
		if len(args) >= 3 {
			return len(args) - 1
		}
	case first:
		if len(args) >= 3 {
			return 1
		}
	case option:
		streams := keyspec.Streams(args)
		for i := 1; i < streams-1; i++ {
			switch {
			case is(args[i], "block"):
				return i + 1
			case is(args[i], "count"):
				i++
			case is(args[i], "group"):
				i += 2
			}
		}
	}
	return -1
}

// timeout reads the timeout. forever is a timeout of 0. ok is false when the
// server will refuse it, so that it needs no care.
func (f blockForm) timeout(arg []byte) (d time.Duration, forever, ok bool) {
	if f.seconds {
		v, err := strconv.ParseFloat(string(arg), 64)
		if err != nil { // to servers, 0x10 is a number too
			v, err = strconv.ParseFloat(string(arg)+"p0", 64)
		}
		if err != nil || math.IsNaN(v) || v < 0 {
			return 0, false, false
		}
		if v > 1e9 {
			return 0, true, true // over thirty years
		}
		return time.Duration(v * float64(time.Second)), v == 0, true
	}
	v, good := resp.Integer(arg)
	if !good || v < 0 {
		return 0, false, false
	}
	if v > 1e12 {
		return 0, true, true
	}
	return time.Duration(v) * time.Millisecond, v == 0, true
}

// format writes a remaining time, never 0 and never rounded down to it: what it
// writes is read with a loss by servers before Redis 7.0, to whom 0.001 is for ever.
func (f blockForm) format(d time.Duration) []byte {
	ms := max(1, int64((d+time.Millisecond-1)/time.Millisecond))
	if !f.seconds {
		return strconv.AppendInt(nil, ms, 10)
	}
	ms = max(2, ms)
	if ms%1000 == 0 {
		return strconv.AppendInt(nil, ms/1000, 10)
	}
	return strconv.AppendFloat(nil, float64(ms)/1000, 'f', 3, 64)
}

// wireOf encodes a command.
func wireOf(args ...[]byte) []byte {
	n := 16
	for _, a := range args {
		n += len(a) + 16
	}
	b := redcon.AppendArray(make([]byte, 0, n), len(args))
	for _, a := range args {
		b = redcon.AppendBulk(b, a)
	}
	return b
}

// words encodes a command of ours.
func words(args ...string) []byte {
	b := redcon.AppendArray(nil, len(args))
	for _, a := range args {
		b = redcon.AppendBulkString(b, a)
	}
	return b
}

func cloneArgs(args [][]byte) [][]byte {
	n := 0
	for _, a := range args {
		n += len(a)
	}
	buf := make([]byte, 0, n)
	out := make([][]byte, len(args))
	for i, a := range args {
		start := len(buf)
		buf = append(buf, a...)
		out[i] = buf[start:len(buf):len(buf)]
	}
	return out
}
