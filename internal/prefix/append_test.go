package prefix

import (
	"bytes"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/router"
)

// places says independently of the Rewriter which words of a command get something before
// them, and what is said behind its last word.
func places(form Form, c *keyspec.Command, args [][]byte, with string) (before map[int]string, more []string) {
	before = map[int]string{}
	pattern := router.Place{Prefix: with}.Pattern("")
	word := func(i int) string {
		if i >= len(args) {
			return ""
		}
		return strings.Map(func(c rune) rune {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			return c
		}, string(args[i]))
	}
	switch form.Request {
	case Pattern:
		if len(args) == 2 {
			before[1] = pattern
		}
	case Scan:
		for i := 2; i < len(args)-1; i += 2 {
			if word(i) == "match" {
				before[i+1] = pattern
			}
		}
		if len(args) >= 2 && len(args)%2 == 0 && len(before) == 0 {
			more = []string{"MATCH", pattern + "*"}
		}
	case Debug:
		switch word(1) {
		case "object", "sdslen", "ziplist", "listpack", "quicklist", "htstats-key":
			before[2] = with
		case "digest-value":
			for i := range args {
				before[max(i, 2)] = with
			}
		case "populate":
			if before[3] = with; len(args) == 3 {
				more = []string{with + "key"}
			}
		}
	case Keys, Sort:
		if c == nil {
			break
		}
		for _, k := range c.Keys(nil, args) {
			if k.Use&keyspec.NotKey == 0 {
				before[k.At] = with
			}
		}
		if form.Request != Sort {
			break
		}
		for i := 2; i < len(args)-1; i++ {
			switch word(i) {
			case "limit":
				i += 2
			case "store":
				i++
			case "by", "get":
				if i++; strings.Contains(string(args[i]), "*") {
					before[i] = with
				}
			}
		}
	}
	return before, more
}

// FuzzAppend has commands be said behind a prefix and reads them again: what names keys or
// patterns of them has got it, and nothing else is different. What is made of a command's
// first words alone is what is made of them with the rest.
func FuzzAppend(f *testing.F) {
	for line := range behind {
		f.Add(bytes.Join(words(line), []byte{0}), with)
	}
	for _, line := range []string{"MIGRATE h 1 a 0 9", "MIGRATE h 1 \"\" 0 9 KEYS a b", "KEYS a[bc]", "SCAN 0 match", "HSET a f v", "APPEND abcdefghijk x", "RENAME a b", "XADD a * f v",
		"XGROUP CREATE a g $", "ECHO x", "SORT a LIMIT 0", "SORT a STORE by GET x*", "SORT a BY x* BY STORE STORE *", "SINTERCARD 2 a b LIMIT 1", "XREAD COUNT 1 STREAMS a 0", "LMPOP 1 a LEFT",
		"GEORADIUSBYMEMBER a m 1 m STOREDIST b", "BITFIELD a GET u8 0", "BLPOP a b 0", "BITOP AND d a b", "PFMERGE a", "SET a x GET", "OBJECT", "DEBUG", "DEBUG OBJECT", "DEBUG DIGEST-VALUE", "MEMORY USAGE a SAMPLES 0"} {
		f.Add(bytes.Join(words(line), []byte{0}), `w[e]i*r\d?:`)
	}
	f.Fuzz(func(t *testing.T, text []byte, with string) {
		args := bytes.Split(text, []byte{0})
		form, c := named(args)
		got, refusal := said(t, args, with)
		if (refusal != "") != (form.Request == Never) {
			t.Fatalf("%q: %q", args, refusal)
		}
		if refusal != "" {
			return
		}
		before, more := places(form, c, args, with)
		if len(got) != len(args)+len(more) {
			t.Fatalf("%q is said as %q", args, got)
		}
		for i, w := range got {
			want := ""
			if i < len(args) {
				want = before[i] + string(args[i])
			} else {
				want = more[i-len(args)]
			}
			if string(w) != want {
				t.Fatalf("%q is said as %q: word %d should be %q", args, got, i, want)
			}
		}
		if form.Request == Keys && c != nil && (len(args) == c.Arity || c.Arity < 0 && len(args) >= -c.Arity) {
			heads(t, c, args, with)
		}
	})
}

// heads compares what becomes of the first words of a command with what becomes of all.
// The server takes it for the number of its words.
func heads(t *testing.T, c *keyspec.Command, args [][]byte, with string) {
	t.Helper()
	var r Rewriter
	whole, _ := r.Append(nil, Keys, c, args, with)
	plain := Words(nil, args, nil)
	for n := 1; n <= min(len(args), 8); n++ {
		got, size, ok := r.Head([]byte("before"), c, args[:n], len(args), with)
		switch {
		case !ok && string(got) != "before":
			t.Fatalf("%q: the first %d do not suffice, but there is %q", args, n, got)
		case ok && (size > len(plain) || string(got)+string(plain[size:]) != "before"+string(whole)):
			t.Fatalf("%q: of the first %d comes %q in place of %d bytes, of all %q", args, n, got, size, whole)
		}
	}
}
