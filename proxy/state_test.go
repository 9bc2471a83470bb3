package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestSubscriptionsAreFound takes about as long for each of many as of few.
func TestSubscriptionsAreFound(t *testing.T) {
	took := func(n int) time.Duration {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("channel:%012d", i)
		}
		best := time.Hour
		for range 3 {
			st := newState()
			begin := time.Now()
			for _, name := range names {
				st.subscribe(channels, name, true)
				st.subscribe(channels, name, true)
			}
			if st.subscribed() != n || st.ver != uint64(n) {
				t.Fatalf("%d of %d subscriptions, version %d", st.subscribed(), n, st.ver)
			}
			for _, name := range names {
				st.subscribe(channels, name, false)
			}
			if st.subscribed() != 0 || st.ver != uint64(2*n) {
				t.Fatalf("%d subscriptions are left, version %d", st.subscribed(), st.ver)
			}
			best = min(best, time.Since(begin))
		}
		return best
	}
	few, many := took(2000), took(32_000)
	for try := 0; try < 10 && many > 100*few; try++ { // beside others a time slice is as long as all of it
		many = min(many, took(32_000))
	}
	if many > 100*few { // 16 times as many; 256 times as long if each is looked for among all
		t.Errorf("2000 take %v, 32000 %v", few, many)
	}
}

// TestRestOfATimeout asks the server whether it takes what is left of a timeout for
// a time that ends.
func TestRestOfATimeout(t *testing.T) {
	c := dialRaw(t, redistest.Start(t).Addr())
	for _, d := range []time.Duration{-time.Second, 0, 1, time.Millisecond, 1999 * time.Microsecond, 3 * time.Millisecond, 7 * time.Millisecond} {
		c.want("BLPOP none "+string(blockForm{seconds: true}.format(d)), "*-1\r\n")
		c.want("XREAD BLOCK "+string(blockForm{}.format(d))+" STREAMS none 0", "*-1\r\n")
	}
}

// TestTrackingSaidAgain is kept once, however often a client says it.
func TestTrackingSaidAgain(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.do("HELLO 3")
	c.want("CLIENT TRACKING ON", ok)
	for range 20 {
		c.want("CLIENT TRACKING ON NOLOOP", ok)
		c.want("CLIENT TRACKING ON", ok)
	}
	s := w.proxy.snapshotSessions()[0]
	s.mu.Lock()
	said := s.st.tracking
	s.mu.Unlock()
	if len(said) != 2 || len(said[1].args) != 3 {
		t.Errorf("%d are kept, the last one %q", len(said), said[len(said)-1].args)
	}
}

// TestResetIsNotAFreshConnection: what RESET does not take back at the server does
// not come to others with the connection.
func TestResetIsNotAFreshConnection(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared = true })
	if !older(programVersion(), 7, 0) {
		c := w.client()
		c.want("CLIENT NO-EVICT ON", ok)
		c.want("RESET", "+RESET\r\n")
		w.othersGoHome(1)
		if n := w.pinned(); n != 1 {
			t.Errorf("%d clients keep their connection, want 1", n)
		}
		c.close()
	}
	if !older(programVersion(), 7, 2) {
		c := w.client()
		c.want("CLIENT SETINFO LIB-NAME theirs", ok)
		c.want("RESET", "+RESET\r\n")
		w.shares()
		other := w.client()
		if info := other.do("CLIENT INFO"); strings.Contains(info, "theirs") {
			t.Errorf("another client is said to be %s", info)
		}
		if info := c.do("CLIENT INFO"); !strings.Contains(info, "lib-name=theirs ") {
			t.Errorf("the client is said to be %s", info)
		}
	}
}
