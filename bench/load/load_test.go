package load

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/redistest"
)

func TestQuantilesAreNear(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h Hist
	var list []time.Duration
	for range 10_000 {
		d := time.Duration(1) << random.IntN(40)
		d += time.Duration(random.Int64N(int64(d)))
		h.Add(d)
		list = append(list, d)
	}
	slices.Sort(list)
	for _, q := range []float64{0, 0.001, 0.5, 0.99, 0.999, 1} {
		want := list[max(0, int(q*float64(len(list)))-1)]
		if got := h.Quantile(q); got < want || float64(got) > 1.01*float64(want)+1 {
			t.Errorf("quantile %v is %v, not %v", q, got, want)
		}
	}
	var both Hist
	both.Merge(&h)
	both.Merge(&h)
	if both.Count() != 2*h.Count() || both.Quantile(0.5) != h.Quantile(0.5) {
		t.Error("twice the same is not the same")
	}
	if got := new(Hist).Quantile(0.5); got != 0 {
		t.Errorf("nothing has a median of %v", got)
	}
}

func TestBucketsHoldWhatTheySay(t *testing.T) {
	for ns := uint64(1); ns < 1<<62; ns += 1 + ns/37 {
		i := bucket(ns)
		if got := uint64(upper(i)); got < ns || i > 0 && uint64(upper(i-1)) >= ns {
			t.Fatalf("%d is in bucket %d, which ends at %d", ns, i, got)
		}
	}
}

func ping(b []byte, _ *rand.Rand) []byte { return append(b, "*1\r\n$4\r\nPING\r\n"...) }

func needEpoll(t *testing.T) {
	t.Helper()
	if !epoll.Supported {
		t.Skip("there is no epoll")
	}
}

func TestAsFastAsAnswersCome(t *testing.T) {
	needEpoll(t)
	server := redistest.Start(t)
	for _, resp3 := range []bool{false, true} {
		before := calls(t, server)
		r, err := Run(t.Context(), Config{Addr: server.Addr(), Clients: 7, Pipeline: 5, RESP3: resp3, For: 100 * time.Millisecond, Next: ping})
		if err != nil {
			t.Fatal(err)
		}
		if r.Requests == 0 || r.Latency.Count() != r.Requests || r.Elapsed < 100*time.Millisecond {
			t.Errorf("%d requests, %d latencies, %v", r.Requests, r.Latency.Count(), r.Elapsed)
		}
		if n := calls(t, server) - before; n < r.Requests {
			t.Errorf("%d answers, but the server was asked %d times", r.Requests, n)
		}
	}
}

// calls is how often the server was asked anything.
func calls(t *testing.T, s *redistest.Server) int64 {
	t.Helper()
	info, err := s.Client(0).InfoMap(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, c := range info["Stats"]["total_commands_processed"] {
		n = 10*n + int64(c-'0')
	}
	return n
}

func TestValuesLargerThanASocketTakes(t *testing.T) {
	needEpoll(t)
	server := redistest.Start(t)
	set := []byte("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$8388608\r\n" + strings.Repeat("x", 8<<20) + "\r\n")
	get := "*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n"
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	r, err := Run(ctx, Config{Addr: server.Addr(), Clients: 2, Next: func(b []byte, _ *rand.Rand) []byte {
		if n++; n == 9 {
			cancel()
		}
		if n%2 == 1 {
			return append(b, set...)
		}
		return append(b, get...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests < 7 { // those before the last ones of both clients
		t.Errorf("only %d answers to the first 7 requests", r.Requests)
	}
}

// TestAnOpenLoopDoesNotWait stalls the server: what was due meanwhile counts by
// its age, although nothing was sent.
func TestAnOpenLoopDoesNotWait(t *testing.T) {
	needEpoll(t)
	link := redistest.NewLink(t, redistest.Start(t).Addr())
	const rate = 1000
	answered := 0
	r, err := Run(t.Context(), Config{Addr: link.Addr(), Clients: 2, Rate: rate, For: 400 * time.Millisecond, Next: func(b []byte, r *rand.Rand) []byte {
		if answered++; answered == 20 {
			link.Stall(true)
		}
		return ping(b, r)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(r.Elapsed.Seconds()*rate) + 1; r.Latency.Count() > most || r.Latency.Count() < most-2 || r.Requests > 20 {
		t.Errorf("%d were due in %v, %d counted, %d answered", most, r.Elapsed, r.Latency.Count(), r.Requests)
	}
	if got := r.Latency.Quantile(0.5); got < 50*time.Millisecond {
		t.Errorf("half of the requests waited no longer than %v, although the server stood still", got)
	}
}

func TestAnErrorEndsTheRun(t *testing.T) {
	needEpoll(t)
	server := redistest.Start(t)
	wrong := func(b []byte, _ *rand.Rand) []byte { return append(b, "*1\r\n$5\r\nWRONG\r\n"...) }
	if _, err := Run(t.Context(), Config{Addr: server.Addr(), Clients: 1, For: time.Minute, Next: wrong}); err == nil || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("the error is %v", err)
	}
	if _, err := Run(t.Context(), Config{Addr: "127.0.0.1:1", Clients: 1, For: time.Minute, Next: ping}); err == nil {
		t.Error("nobody listens there")
	}
}

func TestTheContextEndsTheRun(t *testing.T) {
	needEpoll(t)
	server := redistest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	r, err := Run(ctx, Config{Addr: server.Addr(), Clients: 3, Next: func(b []byte, r *rand.Rand) []byte {
		if n++; n == 100 {
			cancel()
		}
		return ping(b, r)
	}})
	if err != nil || r.Requests < 90 {
		t.Error(r.Requests, err)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	needEpoll(t)
	server := redistest.Start(t)
	requests := func(d time.Duration) (n int64, allocs float64) {
		allocs = testing.AllocsPerRun(1, func() {
			r, err := Run(t.Context(), Config{Addr: server.Addr(), Clients: 4, For: d, Next: ping})
			if err != nil {
				t.Fatal(err)
			}
			n = r.Requests
		})
		return n, allocs
	}
	few, start := requests(20 * time.Millisecond)
	many, all := requests(400 * time.Millisecond)
	if all-start > float64(many-few)/20 {
		t.Errorf("%d requests more made %.0f allocations more", many-few, all-start)
	}
}
