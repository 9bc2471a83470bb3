package resp

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// command is one of so many arguments, of 15 bytes each.
func command(args int) []byte {
	b := fmt.Appendf(nil, "*%d\r\n$3\r\nDEL\r\n", args)
	return append(b, bytes.Repeat([]byte("$9\r\nargument1\r\n"), args-1)...)
}

// A command that comes byte by byte is looked for after each of them: where that begins
// anew each time, four times the bytes take sixteen times as long.
const (
	fewer, more = 5_000, 20_000 // arguments; the latter are 300 kB
	atMost      = 8             // times as long
)

// TestDripIsLinear feeds large commands byte by byte, in the ways in which the proxy takes
// them.
func TestDripIsLinear(t *testing.T) {
	whole := func(p *Requests) (bool, error) {
		_, done, err := p.Next()
		return done, err
	}
	for name, look := range map[string]func() func(p *Requests) (done bool, err error){
		"whole": func() func(p *Requests) (bool, error) { return whole },
		"looked at on the way": func() func(p *Requests) (bool, error) {
			return func(p *Requests) (bool, error) {
				_, _ = p.Over(), p.Buffered()
				_, _ = p.Big(1 << 20)
				return whole(p)
			}
		},
		"piecewise": func() func(p *Requests) (bool, error) {
			streams := false
			return func(p *Requests) (done bool, err error) {
				if !streams {
					if done, err = whole(p); done || err != nil {
						return done, err
					}
					_, streams = p.Big(1)
					return false, nil
				}
				_, done, err = p.Stream()
				return done, err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			small, large := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
			// What else the machine does makes it longer, never shorter.
			for round := 1; round == 1 || round <= 20 && small+large < time.Second; round++ {
				small = min(small, dripped(t, command(fewer), look(), time.Second))
				large = min(large, dripped(t, command(more), look(), min(2*atMost*small, 2*time.Second)))
				if round >= 5 && large <= atMost*small {
					t.Logf("%d arguments: %v, %d arguments: %v", fewer, small, more, large)
					return
				}
			}
			t.Fatalf("%d arguments took %v, %d took %v or more", fewer, small, more, large)
		})
	}
}

// dripped is how much of a processor it takes to read a command that comes byte by byte, or
// longest. The goroutine has a thread of its own.
func dripped(t *testing.T, in []byte, look func(p *Requests) (bool, error), longest time.Duration) time.Duration {
	t.Helper()
	var p Requests
	begin := used(t)
	for i, c := range in {
		p.Space()[0] = c
		p.Advance(1)
		done, err := look(&p)
		if err != nil || done != (i == len(in)-1) {
			t.Fatalf("after %d bytes of %d: %v, %v", i+1, len(in), done, err)
		}
		if i%1024 == 0 && used(t)-begin > longest {
			return longest
		}
	}
	return used(t) - begin
}

// used is how much of a processor this thread has had.
func used(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}
