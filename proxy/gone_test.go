package proxy

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// stands returns how many wait in line for the list q of database 0.
func (w *world) stands() int {
	w.proxy.turns.mu.Lock()
	defer w.proxy.turns.mu.Unlock()
	return len(w.proxy.turns.lines["0:q"])
}

// somebodyFirst has somebody wait in line for q before all others, until gone is called.
func (w *world) somebodyFirst() (gone func()) {
	first := w.proxy.turns.take([]string{"0:q"})
	w.proxy.turns.join(first)
	return func() { w.proxy.turns.quit(first) }
}

// TestWhoLeavesWhileHeldTakesNothing: a client asks for an element of an empty list, and hangs
// up while the proxy holds that. An element that comes then is not for it.
func TestWhoLeavesWhileHeldTakesNothing(t *testing.T) {
	patient := func(c *Config) { c.lateAfter = time.Hour }
	held := map[string]func(w *world, c *raw) (goOn func()){
		"in line": func(w *world, c *raw) func() {
			gone := w.somebodyFirst()
			c.send("BLPOP q 0")
			until(w.t, "it stands in line", func() bool { return w.stands() == 2 })
			return gone
		},
		"at the gate": func(w *world, c *raw) func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := w.proxy.Hold(ctx); err != nil {
				w.t.Fatal(err)
			}
			c.send("BLPOP q 0")
			until(w.t, "it waits at the gate", func() bool { return len(w.proxy.snapshotSessions()) == 1 })
			return func() { w.proxy.Release(w.gate.Route()) }
		},
	}
	eachMode(t, func(t *testing.T, mode setting) {
		for where, hold := range held {
			w := newWorld(t, mode, patient)
			c := w.client()
			goOn := hold(w, c)
			c.close()
			w.do(router.Source, 0, "RPUSH", "q", "e")
			goOn()
			until(t, "it is gone", func() bool { return w.proxy.Stats().Clients == 0 })
			if got := fmt.Sprint(w.do(router.Source, 0, "LLEN", "q")); got != "1" {
				t.Errorf("%s: %s elements are left", where, got)
			}
		}
	})
}

// TestWhatCameBeforeDoesNotStandInLine: only the command that blocks waits for those who came
// before for the same key.
func TestWhatCameBeforeDoesNotStandInLine(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		gone := w.somebodyFirst()
		defer gone()
		c := w.client()
		c.write(bytes.Join([][]byte{words("MULTI"), words("EXEC"), words("INCR", "n"), words("BLPOP", "q", "0")}, nil))
		for _, want := range []string{ok, "*0\r\n", ":1\r\n"} {
			c.expect(want)
		}
		if n := w.stands(); n != 2 {
			t.Errorf("%d stand in line", n)
		}
	})
}

// TestStopTakesNoElement stops the proxy while a client waits for an element of a list, which
// the server has just taken for it: the client gets that.
func TestStopTakesNoElement(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		link := redistest.NewLink(t, source.Addr())
		w := newWorldOn(t, source, redistest.Start(t), mode, through(link))
		taker, waiter := w.client(), w.client()
		taker.send("BLPOP q 0")
		w.blockedOn(router.Source, "blpop")
		waiter.send("BLPOP none 0")
		until(t, "both wait", func() bool { return w.gate.Inside() == 2 })
		link.SetDelayDown(200 * time.Millisecond)
		w.do(router.Source, 0, "RPUSH", "q", "e")
		w.stop()
		taker.expect("*2\r\n$1\r\nq\r\n$1\r\ne\r\n")
		taker.expect("EOF")
		waiter.expect("EOF")
	})
}

// TestWhoCannotBeWokenIsOwedNothing: a client that blocks, and that a switch has to close, gets
// the element that the server has just taken for it.
func TestWhoCannotBeWokenIsOwedNothing(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		link := redistest.NewLink(t, source.Addr())
		w := newWorldOn(t, source, redistest.Start(t), mode, through(link), func(c *Config) { c.Unblock = nil })
		c := w.client()
		c.send("BLPOP q 0")
		w.blockedOn(router.Source, "blpop")
		link.SetDelayDown(50 * time.Millisecond)
		w.do(router.Source, 0, "RPUSH", "q", "e")
		w.switchTo(router.Target)
		c.expect("*2\r\n$1\r\nq\r\n$1\r\ne\r\n")
	})
}
