package keyspec

import (
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
)

// keys appends the keys of one spec. It is false where the server would not find what
// it looks for, and so no keys at all. A word that is not there is no mistake.
func (s *Spec) keys(dst []Key, args [][]byte) ([]Key, bool) {
	if s.Begin.At == 0 || s.Find.Step <= 0 || s.Use&Incomplete != 0 {
		return dst, false
	}
	first := s.Begin.At
	if s.Begin.Word != "" {
		if first = s.Begin.behind(args); first == 0 {
			return dst, true
		}
	}
	var last int
	switch f := &s.Find; {
	case f.Counted:
		at := first + f.Number
		if at < 1 || at >= len(args) {
			return dst, false
		}
		n, ok := resp.Integer(args[at])
		if !ok || n < 0 || n > int64(len(args)) {
			return dst, false
		}
		first += f.First
		last = first + (int(n)-1)*f.Step
	case f.Last >= 0:
		last = first + f.Last
	case f.Limit > 1:
		last = first + (len(args)-first)/f.Limit + f.Last
	default:
		last = len(args) + f.Last
	}
	if last == first-1 && !s.Find.Counted && s.Find.Last < 0 {
		return dst, true // there may be none of these
	}
	if first < 1 || last >= len(args) || last < first {
		return dst, false
	}
	for i := first; i <= last; i += s.Find.Step {
		dst = append(dst, Key{At: i, Use: s.Use})
	}
	return dst, true
}

// behind returns what follows the word, 0 where it is not there: servers look for it
// neither in the last place nor, when they come from the end, in the first.
func (b *Begin) behind(args [][]byte) int {
	if b.At > 0 {
		for i := b.At; i < len(args)-1; i++ {
			if is(args[i], b.Word) {
				return i + 1
			}
		}
		return 0
	}
	for i := len(args) + b.At; i > 1; i-- {
		if is(args[i], b.Word) {
			return i + 1
		}
	}
	return 0
}

// is compares a word of a command as servers do.
func is(arg []byte, word string) bool {
	return len(arg) == len(word) && strings.EqualFold(string(arg), word)
}
