package proxy

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
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

// TestLargeMessagesPass has messages that have not come whole when it is known that their
// names mean no database, beside such as do.
func TestLargeMessagesPass(t *testing.T) {
	const size = 7 << 20 // servers keep no more than 8 MiB for a subscriber for long
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		w.do(router.Target, 0, "CONFIG", "SET", "notify-keyspace-events", "KA")
		large := strings.Repeat("m", size)
		for _, hello := range []string{"HELLO 2", "HELLO 3"} {
			c := w.client()
			c.do(hello)
			c.do("SUBSCRIBE " + strings.Repeat("n", 300))
			c.do("PSUBSCRIBE __key*__:k")
			w.switchTo(router.Target)
			typ := map[string]string{"HELLO 2": "*", "HELLO 3": ">"}[hello]
			w.do(router.Target, 0, "PUBLISH", "__keyspace@5__:k", large)
			c.expect(typ + "4\r\n" + bulk("pmessage") + bulk("__key*__:k") + bulk("__keyspace@3__:k") + bulk(large))
			for _, channel := range []string{strings.Repeat("n", 300), "__key-no-database__:k"} {
				w.do(router.Target, 0, "PUBLISH", channel, large)
				head := typ + "3\r\n" + bulk("message") + bulk(channel)
				if channel[0] == '_' {
					head = typ + "4\r\n" + bulk("pmessage") + bulk("__key*__:k") + bulk(channel)
				}
				_ = c.conn.SetReadDeadline(time.Now().Add(longest))
				got := make([]byte, len(head))
				if _, err := io.ReadFull(c.conn, got); err != nil || string(got) != head {
					t.Fatalf("got %q, %v, want %q", got, err, head)
				}
				if _, err := io.CopyN(io.Discard, c.conn, int64(len(bulk(large)))); err != nil {
					t.Fatal(err)
				}
			}
			w.do(router.Target, 5, "SET", "k", "v")
			c.expect(typ + "4\r\n" + bulk("pmessage") + bulk("__key*__:k") + bulk("__keyspace@3__:k") + bulk("set"))
			c.close()
			w.switchTo(router.Source)
		}
	})
}

// TestOtherPushesAreAsTheyWere: what is pushed and names no channel goes to the client as it is,
// where databases have other numbers too.
func TestOtherPushesAreAsTheyWere(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		server := func() *redistest.Server { return redistest.Start(t, withDebug) }
		w := newWorldOn(t, server(), server(), mode)
		c := w.client()
		c.do("HELLO 3")
		for _, side := range []router.Side{router.Target, router.Source} {
			w.switchTo(side)
			c.want("DEBUG PROTOCOL PUSH", ">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n")
			c.expect(bulk("Some real reply following the push reply"))
		}
	})
}
