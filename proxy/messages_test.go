package proxy

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/crossfade/crossfade/router"
)

// TestEveryMessageOnce publishes through the proxy while the sides change: each
// subscriber hears each message once and in order.
func TestEveryMessageOnce(t *testing.T) {
	w := newWorld(t)
	const subscribers = 8
	subs := make([]*raw, subscribers)
	for i := range subs {
		subs[i] = w.client()
		if i%2 == 1 {
			subs[i].do("HELLO 3")
		}
		subs[i].send("SUBSCRIBE news")
		subs[i].next()
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	published := make([]int, 3)
	for p := range published {
		c := w.client()
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				if got := c.do(fmt.Sprintf("PUBLISH news %d-%d", p, n)); got != fmt.Sprintf(":%d\r\n", subscribers) {
					t.Errorf("message %d-%d was heard by %q", p, n, got)
					return
				}
				published[p] = n + 1
			}
		})
	}
	side := router.Source
	for range 20 {
		side = side.Other()
		w.switchTo(side)
		w.giveUp(side.Other())
	}
	stop.Store(true)
	wg.Wait()
	w.do(side, 0, "PUBLISH", "news", marker)
	for i, s := range subs {
		next := make([]int, len(published))
		for el := s.next(); !strings.Contains(el, marker); el = s.next() {
			lines := strings.Split(el, "\r\n")
			var p, n int
			if _, err := fmt.Sscanf(lines[6], "%d-%d", &p, &n); err != nil {
				t.Fatalf("got %q", el)
			}
			if n != next[p] {
				t.Fatalf("subscriber %d: message %d-%d instead of %d", i, p, n, next[p])
			}
			next[p]++
		}
		if fmt.Sprint(next) != fmt.Sprint(published) {
			t.Fatalf("subscriber %d heard %v of %v", i, next, published)
		}
	}
}
