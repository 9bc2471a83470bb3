package traffic

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	goleak.VerifyTestMain(m)
}

// work has a load work until it has so many operations, does what is asked for, and lets
// it go on for as many again.
func work(t *testing.T, tr *Traffic, operations int64, meanwhile func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	for _, f := range []func(){meanwhile, stop} {
		from := tr.Stats().Operations
		redistest.Eventually(t, time.Minute, func() bool { return tr.Stats().Operations >= from+operations }, "%d operations", operations)
		f()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, tr *Traffic, s *redistest.Server) Account {
	t.Helper()
	a, err := tr.Verify(t.Context(), s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestALoadThatNobodyDisturbsIsClean(t *testing.T) {
	s := redistest.Start(t)
	tr := New(Config{Addr: s.Addr(), Rate: 3000, Prefix: "t"})
	work(t, tr, 2000, func() {
		if tr.TakeStall() == 0 {
			t.Error("nobody has waited at all")
		}
	})
	a := verify(t, tr, s)
	if !a.Clean() || a.Errors+a.Reconnects > 0 {
		t.Error(a)
	}
	if a.Messages < 50 || a.Items < 500 {
		t.Errorf("hardly anything was looked at: %d messages, %d items", a.Messages, a.Items)
	}
}

// Each planted fault is found, and called what it is.
func TestPlantedFaultsAreFound(t *testing.T) {
	s := redistest.Start(t)
	c := s.Client(0)
	for _, tt := range []struct {
		name  string
		plant func(ctx context.Context, prefix string) error
		found func(Account) int
	}{
		{"a list of a pipeline loses its first element", func(ctx context.Context, p string) error {
			return c.LPop(ctx, p+":pipe0:list0").Err()
		}, func(a Account) int { return a.Lost }},
		{"an element of a pipeline is there twice", func(ctx context.Context, p string) error {
			return c.LPush(ctx, p+":pipe0:list0", tag(0, 3)).Err()
		}, func(a Account) int { return a.Doubled }},
		{"two elements change places", func(ctx context.Context, p string) error {
			return c.Eval(ctx, "local a = redis.call('LPOP', KEYS[1]); return redis.call('LINSERT', KEYS[1], 'AFTER', redis.call('LINDEX', KEYS[1], 0), a)", []string{p + ":pipe0:list0"}).Err()
		}, func(a Account) int { return a.Reordered }},
		{"a counter goes back", func(ctx context.Context, p string) error {
			return c.DecrBy(ctx, p+":pipe1:count", 3).Err()
		}, func(a Account) int { return min(a.Lost, a.Stale) }},
		{"half of a transaction is gone", func(ctx context.Context, p string) error {
			return c.DecrBy(ctx, p+":watch0:sum", 1).Err()
		}, func(a Account) int { return a.Lost }},
		{"a job comes twice", func(ctx context.Context, p string) error {
			for range 20 { // the worker is faster now and then
				if err := c.RPush(ctx, p+":queue0", tag(0, 0)).Err(); err != nil {
					return err
				}
			}
			return nil
		}, func(a Account) int { return a.Doubled }},
		{"a message comes twice", func(ctx context.Context, p string) error {
			return c.Publish(ctx, p+":channel0", "0").Err()
		}, func(a Account) int { return a.MessagesDoubled }},
		{"a subscriber is cut off", func(ctx context.Context, _ string) error {
			return c.Do(ctx, "CLIENT", "KILL", "TYPE", "pubsub").Err()
		}, func(a Account) int { return int(min(a.Errors, a.Reconnects)) }},
		{"an entry is there twice", func(ctx context.Context, p string) error {
			return c.Eval(ctx, "for i = 1, 5 do redis.call('XDEL', KEYS[1], redis.call('XADD', KEYS[1], '*', 'n', '0.1')) end; return redis.call('XADD', KEYS[1], '*', 'n', '0.1')", []string{p + ":stream0"}).Err()
		}, func(a Account) int { return a.Doubled }},
		{"a group is gone", func(ctx context.Context, p string) error {
			return c.XGroupDestroy(ctx, p+":stream1", "group").Err()
		}, func(a Account) int { return min(a.Lost, int(a.Errors)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			prefix := strings.ReplaceAll(tt.name, " ", "-")
			tr := New(Config{Addr: s.Addr(), Rate: 2000, Prefix: prefix})
			work(t, tr, 800, func() {
				if err := tt.plant(t.Context(), prefix); err != nil {
					t.Fatal(err)
				}
			})
			if a := verify(t, tr, s); tt.found(a) == 0 {
				t.Error(a)
			}
		})
	}
}

// A message that was published while a subscriber was away is lost.
func TestMessagesThatNobodyHeardAreLost(t *testing.T) {
	s := redistest.Start(t)
	tr := New(Config{Addr: s.Addr(), Rate: 2000, Prefix: "t"})
	f := slices.Collect(func(yield func(*channel) bool) {
		for _, f := range tr.flows {
			if ch, ok := f.(*channel); ok && !yield(ch) {
				return
			}
		}
	})[0]
	// What nobody but the ledger knows of was never sent to anybody.
	work(t, tr, 800, func() { f.published.ack(f.published.next()) })
	if a := verify(t, tr, s); a.MessagesLost != len(f.got) || a.Lost > 0 {
		t.Error(a)
	}
}

func TestJudge(t *testing.T) {
	var l ledger
	for range 5 {
		l.next()
	}
	for _, n := range []int{0, 1, 3} {
		l.ack(n)
	}
	for _, tt := range []struct {
		got                      []int
		lost, doubled, reordered int
	}{
		{[]int{0, 1, 3}, 0, 0, 0},
		{[]int{0, 1, 2, 3, 4}, 0, 0, 0}, // what nobody knows of may be there
		{[]int{0, 3}, 1, 0, 0},
		{[]int{0, 1, 1, 3}, 0, 1, 0},
		{[]int{0, 2, 1, 3}, 0, 0, 1},
		{[]int{0, 1, 3, 5, -1}, 0, 2, 0},
		{nil, 3, 0, 0},
	} {
		v := l.judge("it", tt.got)
		if v.lost != tt.lost || v.doubled != tt.doubled || v.reordered != tt.reordered || (v.example == "") != (tt.lost+tt.doubled+tt.reordered == 0) {
			t.Errorf("%v: %+v", tt.got, v)
		}
	}
}

func TestCounted(t *testing.T) {
	for value, want := range map[int]string{3: "1/0", 4: "0/0", 6: "0/0", 7: "0/1"} {
		var a Account
		a.counted("it", value, 4, 2)
		if got := fmt.Sprintf("%d/%d", a.Lost, a.Doubled); got != want {
			t.Errorf("%d: %s, want %s", value, got, want)
		}
	}
	if w, n := untag(tag(3, 17)); w != 3 || n != 17 {
		t.Errorf("a tag is read as %d.%d", w, n)
	}
	if w, _ := untag("nonsense"); w >= 0 {
		t.Error("nonsense is a tag")
	}
}
