package spread

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/resp"
)

// Index finds the timeout among the words of a command, below 0 where it does not block.
func (b Block) Index(args [][]byte) int {
	switch b {
	case LastSeconds, LastMillis:
		if len(args) >= 3 {
			return len(args) - 1
		}
	case FirstSeconds:
		if len(args) >= 3 {
			return 1
		}
	case OptionMillis:
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

// Timeout reads the word. forever is a timeout of 0. ok is false where the server will
// refuse it.
func (b Block) Timeout(arg []byte) (d time.Duration, forever, ok bool) {
	if b == LastSeconds || b == FirstSeconds {
		v, err := strconv.ParseFloat(string(arg), 64)
		if err != nil { // to servers, 0x10 is a number too
			v, err = strconv.ParseFloat(string(arg)+"p0", 64)
		}
		switch {
		case err != nil, math.IsNaN(v), v < 0:
			return 0, false, false
		case v > 1e9:
			return 0, true, true // over thirty years
		}
		return time.Duration(v * float64(time.Second)), v == 0, true
	}
	v, good := resp.Integer(arg)
	switch {
	case !good, v < 0:
		return 0, false, false
	case v > 1e12:
		return 0, true, true
	}
	return time.Duration(v) * time.Millisecond, v == 0, true
}

// Format writes what is left of a timeout: never 0, which would be for ever.
func (b Block) Format(d time.Duration) []byte {
	ms := max(1, int64((d+time.Millisecond-1)/time.Millisecond))
	if b == OptionMillis || b == LastMillis {
		return strconv.AppendInt(nil, ms, 10)
	}
	// Servers before 7.0 read fractions with a loss, and 0.001 as 0.
	return strconv.AppendFloat(nil, float64(max(2, ms))/1000, 'f', 3, 64)
}

// is compares a word as servers do.
func is(arg []byte, word string) bool {
	return len(arg) == len(word) && strings.EqualFold(string(arg), word)
}
