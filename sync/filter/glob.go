package filter

import (
	"errors"
	"strings"
)

// glob is a pattern as KEYS and SCAN MATCH take it, read into parts. It matches what
// the server's own matcher does (util.c: stringmatchlen), bytes and not letters, odd
// patterns included; a property test holds the two together.
type glob []part

// part matches any bytes (many), or one byte that is in set.
type part struct {
	many bool
	set  [4]uint64 // bit b: byte b matches
}

func (p *part) add(b byte) { p.set[b>>6] |= 1 << (b & 63) }

func (p *part) has(b byte) bool { return p.set[b>>6]&(1<<(b&63)) != 0 }

func (p *part) turn() {
	for i := range p.set {
		p.set[i] = ^p.set[i]
	}
}

// errRange is about what a server compares as signed or unsigned bytes, as its
// processor has it.
var errRange = errors.New("a range between a byte below 128 and one above means different keys on different machines: write two ranges")

// parse reads a pattern.
func parse(pattern string) (g glob, err error) {
	for len(pattern) > 0 {
		var p part
		switch c := pattern[0]; {
		case c == '*':
			pattern = pattern[1:]
			if p.many = true; len(g) > 0 && g[len(g)-1].many {
				continue
			}
		case c == '?':
			pattern = pattern[1:]
			p.turn()
		case c == '[':
			if p, pattern, err = class(pattern[1:]); err != nil {
				return nil, err
			}
		case c == '\\' && len(pattern) > 1:
			p.add(pattern[1])
			pattern = pattern[2:]
		default:
			p.add(c)
			pattern = pattern[1:]
		}
		g = append(g, p)
	}
	return g, nil
}

// class reads what follows "[", up to "]" or, where there is none, to the end.
func class(pattern string) (p part, rest string, err error) {
	not := strings.HasPrefix(pattern, "^")
	if not {
		pattern = pattern[1:]
	}
	for len(pattern) > 0 && pattern[0] != ']' {
		switch {
		case pattern[0] == '\\' && len(pattern) > 1:
			p.add(pattern[1])
			pattern = pattern[2:]
		case len(pattern) > 2 && pattern[1] == '-':
			low, high := min(pattern[0], pattern[2]), max(pattern[0], pattern[2])
			if low < 128 && high >= 128 {
				return p, "", errRange
			}
			for b := int(low); b <= int(high); b++ {
				p.add(byte(b))
			}
			pattern = pattern[3:]
		default:
			p.add(pattern[0])
			pattern = pattern[1:]
		}
	}
	if not {
		p.turn()
	}
	return p, strings.TrimPrefix(pattern, "]"), nil
}

// match goes through the key once, and back to the last "*" where it has gone wrong.
func (g glob) match(key string) bool {
	at, star, from := 0, -1, 0
	for i := 0; i < len(key); {
		switch {
		case at < len(g) && g[at].many:
			star, from = at, i
			at++
		case at < len(g) && g[at].has(key[i]):
			at++
			i++
		case star >= 0:
			from++
			at, i = star+1, from
		default:
			return false
		}
	}
	for at < len(g) && g[at].many {
		at++
	}
	return at == len(g)
}

// literal is the text that every key begins with that the pattern matches.
func (g glob) literal() string {
	var b strings.Builder
	for i := range g {
		c, one := g[i].single()
		if !one {
			break
		}
		b.WriteByte(c)
	}
	return b.String()
}

// single returns the byte that is the only one to match.
func (p *part) single() (c byte, ok bool) {
	if p.many {
		return 0, false
	}
	n := 0
	for b := range 256 {
		if p.has(byte(b)) {
			c = byte(b)
			n++
		}
	}
	return c, n == 1
}
