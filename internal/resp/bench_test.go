package resp

import (
	"strings"
	"testing"
)

// BenchmarkRequests reads a pipeline of small commands, as the hot path meets it.
func BenchmarkRequests(b *testing.B) {
	input := []byte(strings.Repeat("*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000012\r\n", 16))
	var p Requests
	b.ReportAllocs()
	for b.Loop() {
		p.Advance(copy(p.Space(), input))
		for n := 0; n < 16; n++ {
			if _, ok, err := p.Next(); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/16, "ns/command")
}

// BenchmarkReplies finds the ends of small replies.
func BenchmarkReplies(b *testing.B) {
	input := []byte(strings.Repeat("$3\r\nxyz\r\n+OK\r\n:12\r\n$-1\r\n", 4))
	var f Framer
	b.ReportAllocs()
	for b.Loop() {
		for rest := input; len(rest) > 0; {
			n := Whole(rest)
			if n == 0 {
				var err error
				if n, _, err = f.Feed(rest); err != nil {
					b.Fatal(err)
				}
			}
			rest = rest[n:]
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/16, "ns/reply")
}
