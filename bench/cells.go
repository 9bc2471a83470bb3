package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// cell is one kind of load.
type cell struct {
	name     string
	op       string // get, set, mget (of ten keys) or mixed (four GET to one SET)
	clients  int
	pipeline int
	size     int // bytes of a value
	resp3    bool
	quick    bool // belongs to the short run: a claim is about it
}

const (
	small = 64
	page  = 4 << 10
	large = 1 << 20

	mgetKeys = 10
)

// cells are all that can be measured: not every combination, but each end of each
// scale, and all that a claim is about.
var cells = []cell{
	{"get", "get", 50, 1, small, false, true},
	{"set", "set", 50, 1, small, false, true},
	{"get-c1", "get", 1, 1, small, false, true},
	{"set-c1", "set", 1, 1, small, false, true},
	{"get-c500", "get", 500, 1, small, false, true},
	{"set-c500", "set", 500, 1, small, false, true},
	{"get-p16", "get", 50, 16, small, false, true},
	{"set-p16", "set", 50, 16, small, false, true},
	{"get-c500-p16", "get", 500, 16, small, false, false},
	{"get-4k", "get", 50, 1, page, false, true},
	{"set-4k", "set", 50, 1, page, false, true},
	{"get-1m", "get", 50, 1, large, false, true},
	{"set-1m", "set", 50, 1, large, false, true},
	{"mget", "mget", 50, 1, small, false, false},
	{"mget-4k", "mget", 50, 1, page, false, false},
	{"mixed", "mixed", 50, 1, small, false, false},
	{"mixed-p16", "mixed", 50, 16, small, false, false},
	{"get-resp3", "get", 50, 1, small, true, false},
	{"mget-p16-resp3", "mget", 50, 16, small, true, false},
}

// choose returns the cells named, with commas between; "all" and "quick" are sets.
func choose(names string) ([]cell, error) {
	var list []cell
	for _, name := range strings.Split(names, ",") {
		name = strings.TrimSpace(name)
		found := false
		for _, c := range cells {
			if name != c.name && name != "all" && (name != "quick" || !c.quick) {
				continue
			}
			found = true
			if !slices.Contains(list, c) {
				list = append(list, c)
			}
		}
		if !found {
			var known []string
			for _, c := range cells {
				known = append(known, c.name)
			}
			return nil, fmt.Errorf("no cell is named %q; there are all, quick, %s", name, strings.Join(known, ", "))
		}
	}
	return list, nil
}

// keys is how many there are: few enough of the large ones to fit.
func (c cell) keys() int {
	switch {
	case c.size >= large:
		return 50
	case c.size >= page:
		return 10_000
	default:
		return 100_000
	}
}

// String describes the load.
func (c cell) String() string {
	op := strings.ToUpper(c.op)
	switch c.op {
	case "mget":
		op = fmt.Sprintf("MGET of %d", mgetKeys)
	case "mixed":
		op = "four GET to one SET"
	}
	s := fmt.Sprintf("%s, %s, %d client", op, bytesText(c.size), c.clients)
	if c.clients != 1 {
		s += "s"
	}
	if c.pipeline != 1 {
		s += fmt.Sprintf(", pipeline %d", c.pipeline)
	}
	if c.resp3 {
		s += ", RESP3"
	}
	return s
}

func bytesText(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// requests returns what appends a request of the cell. Keys are those of
// redis-benchmark.
func (c cell) requests() func(b []byte, random *rand.Rand) []byte {
	value := strings.Repeat("x", c.size)
	keys := c.keys()
	get := func(b []byte, random *rand.Rand) []byte {
		return appendKey(append(b, "*2\r\n$3\r\nGET\r\n"...), random.IntN(keys))
	}
	tail := "$" + strconv.Itoa(c.size) + "\r\n" + value + "\r\n"
	set := func(b []byte, random *rand.Rand) []byte {
		return append(appendKey(append(b, "*3\r\n$3\r\nSET\r\n"...), random.IntN(keys)), tail...)
	}
	switch c.op {
	case "get":
		return get
	case "set":
		return set
	case "mixed":
		return func(b []byte, random *rand.Rand) []byte {
			if random.IntN(5) == 0 {
				return set(b, random)
			}
			return get(b, random)
		}
	}
	head := fmt.Sprintf("*%d\r\n$4\r\nMGET\r\n", 1+mgetKeys)
	return func(b []byte, random *rand.Rand) []byte {
		b = append(b, head...)
		for range mgetKeys {
			b = appendKey(b, random.IntN(keys))
		}
		return b
	}
}

const keyDigits = 12

// appendKey appends key:000000000042 as a bulk string.
func appendKey(b []byte, n int) []byte {
	b = append(b, "$16\r\nkey:000000000000\r\n"...)
	for i := len(b) - 3; n > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// keyName is the same key as text.
func keyName(n int) string { return fmt.Sprintf("key:%0*d", keyDigits, n) }
