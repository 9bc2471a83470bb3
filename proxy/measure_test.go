package proxy

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// measured lets a loop of its own measure rounds of n commands.
func measured(n int) (round func(), l *loop) {
	l = &loop{srv: &Server{}, base: time.Now(), m: measure{slow: never}}
	t, g, sp := &trunk{l: l}, &guest{}, lookup([]byte("get"))
	args := [][]byte{[]byte("get"), []byte("key")}
	raw := make([]byte, 40)
	return func() {
		l.now = int64(time.Since(l.base))
		g.readAt = l.now
		for range n {
			l.submitted(t, g, sp, args, raw)
		}
		l.dirty = append(l.dirty[:0], t)
		l.passOn()
		l.dirty = l.dirty[:0]
		l.now = int64(time.Since(l.base))
		for range n {
			t.reply.begin('$')
			l.replied(t, g, nil)
		}
		l.passOn()
	}, l
}

func TestMeasuringAllocatesNothing(t *testing.T) {
	round, l := measured(16)
	const rounds = 1000
	if n := testing.AllocsPerRun(rounds, round); n != 0 {
		t.Errorf("%v allocations in a round of 16 commands", n)
	}
	f := &l.m.families[fStringRead]
	if up, total := f.upstream.Count(), f.total.Count(); up != total || up != 16*(rounds+1) || l.m.inflight != 0 {
		t.Errorf("%d upstream, %d in total, %d in flight", up, total, l.m.inflight)
	}
}

// BenchmarkMeasure is what numbers cost, of a command alone and of one of 16 that
// come together, two of the four looks at the clock included that a loop takes in
// any case.
func BenchmarkMeasure(b *testing.B) {
	for name, n := range map[string]int{"alone": 1, "of16": 16} {
		b.Run(name, func(b *testing.B) {
			round, _ := measured(n)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			b.ReportAllocs()
			from := threadTime(b)
			for b.Loop() {
				round()
			}
			b.ReportMetric(float64(threadTime(b)-from)/float64(b.N*n), "cpu-ns/command")
		})
	}
}

// threadTime is the processor time of this thread: others on the machine do not
// change it much.
func threadTime(b *testing.B) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return ts.Nano()
}
