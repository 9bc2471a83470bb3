package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/router"
)

// TestWhoGaveUpAtTheGate has clients hang up that have waited at the gate for long: nothing
// of what they had sent is run, on either side. Who is there is served.
func TestWhoGaveUpAtTheGate(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.lateAfter = time.Nanosecond })
		plain, begun, stays, queues := w.client(), w.client(), w.client(), w.client()
		plain.want("SET k source", ok)
		stays.want("PING", "+PONG\r\n")
		for _, c := range []*raw{begun, queues} {
			c.want("MULTI", ok)
			c.want("INCR n", "+QUEUED\r\n")
		}
		w.switchTo(router.Target, func() {
			late := w.client() // and one that was not there before
			before := w.proxy.received.Load()
			lines := map[*raw]string{plain: "SET k late", begun: "EXEC", late: "SET late 1", stays: "INCR m", queues: "EXEC"}
			size := int64(0)
			for c, line := range lines {
				wire := line + "\r\n"
				size += int64(len(wire))
				c.write([]byte(wire))
			}
			until(t, "all of it is read", func() bool { return w.proxy.received.Load() >= before+size })
			for _, c := range []*raw{plain, begun, late} {
				c.close()
			}
		})
		stays.expect(":1\r\n")
		queues.expect("*1\r\n:1\r\n")
		until(t, "they are gone", func() bool { return w.proxy.Stats().Clients == 2 })
		if got := fmt.Sprint(w.do(router.Target, 0, "MGET", "k", "late", "m", "n"), w.do(router.Source, 0, "MGET", "k", "late", "m", "n")); got != "[<nil> <nil> 1 1] [source <nil> <nil> <nil>]" {
			t.Errorf("there is %s", got)
		}
	})
}

// TestWhoGaveUpInTheCrossing is TestWhoGaveUpAtTheGate for those that wait behind the gate,
// until the other server has taken their connections.
func TestWhoGaveUpInTheCrossing(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		open := make(chan struct{})
		var dialling atomic.Int64
		w := newWorld(t, mode, func(c *Config) {
			c.lateAfter = time.Nanosecond
			there := &c.Upstreams[router.Target]
			dial := there.Dial
			there.Dial = func(ctx context.Context) (net.Conn, error) {
				dialling.Add(1)
				select {
				case <-open:
					return dial(ctx)
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		session, idle, guest, stays, listens := w.client(), w.client(), w.client(), w.client(), w.client()
		for _, c := range []*raw{session, idle, listens} {
			c.want("WATCH w", ok)
		}
		guest.want("SET g source", ok)
		stays.want("SET s source", ok)
		if err := w.proxy.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		before, size := w.proxy.received.Load(), int64(0)
		late := w.client()
		lines := map[*raw]string{session: "SET k old", guest: "SET g old", stays: "SET s new", late: "SET l old"}
		for c, line := range lines {
			size += int64(len(line) + 2)
			c.write([]byte(line + "\r\n"))
		}
		until(t, "all of it is read", func() bool { return w.proxy.received.Load() >= before+size })
		released := make(chan struct{})
		go func() {
			defer close(released)
			w.proxy.Release(router.Route{Side: router.Target, Epoch: 1, Map: w.dbs})
		}()
		until(t, "all are on their way", func() bool { return dialling.Load() >= 4 })
		idle.send("SET i old")
		for _, c := range []*raw{session, idle, guest, late} {
			c.close()
		}
		close(open)
		<-released
		stays.expect(ok)
		listens.want("PING", "+PONG\r\n")
		until(t, "they are gone", func() bool { return w.proxy.Stats().Clients == 2 })
		if got := fmt.Sprint(w.do(router.Target, 0, "MGET", "k", "i", "g", "l", "s")); got != "[<nil> <nil> <nil> <nil> new]" {
			t.Errorf("there is %s", got)
		}
	})
}

// TestNoConnectionBehindTheLoss has no connection to a server be used, whatever it is for,
// once Admit has said no; those from before are.
func TestNoConnectionBehindTheLoss(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		var lost atomic.Bool
		var asked atomic.Int64
		w := newWorld(t, mode, func(c *Config) {
			for side := range c.Upstreams {
				c.Upstreams[side].Admit = func(context.Context) error {
					asked.Add(1)
					if lost.Load() {
						return errors.New("somebody else is there")
					}
					return nil
				}
			}
		})
		plain, session := w.client(), w.client()
		plain.want("SET k 1", ok)
		session.want("WATCH k", ok)
		if asked.Load() == 0 {
			t.Fatal("nobody was asked")
		}
		lost.Store(true)
		plain.want("GET k", bulk("1"))
		session.want("GET k", bulk("1"))
		for _, lines := range [][]string{{"SELECT 3", "SET k 2"}, {"HELLO 3", "SET k 3"}, {"MULTI", "SET k 4", "EXEC"}} {
			c := w.client()
			c.send(lines...)
			c.expect("EOF")
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.proxy.Prepare(ctx, router.Target); err == nil {
			t.Error("the other side is prepared")
		}
		w.proxy.Release(router.Route{Side: router.Source, Map: w.dbs})
		plain.want("GET k", bulk("1"))
		if got := fmt.Sprintf("%v %v", w.do(router.Source, 0, "GET", "k"), w.do(router.Source, 3, "EXISTS", "k")); got != "1 0" {
			t.Errorf("there is %s", got)
		}
	})
}
