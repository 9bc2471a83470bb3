package proxy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/router"
)

// TestMovedWithoutAlign has a switch be made although the server that is left has not
// answered in time whether all its messages were heard. Subscribers are closed; who only gets
// what another client's tracking tells is moved, and is answered there from its first command
// on, so that nothing of it stays in the gate.
func TestMovedWithoutAlign(t *testing.T) {
	w := newWorld(t)
	hears, tracks, listens := w.client(), w.client(), w.client()
	hears.do("HELLO 3")
	id := strings.Trim(hears.do("CLIENT ID"), ":\r\n")
	tracks.want("CLIENT TRACKING ON REDIRECT "+id, ok)
	listens.do("SUBSCRIBE c")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proxy.Prepare(ctx, router.Target); err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.source.Stop(); err != nil {
		t.Fatal(err)
	}
	w.epoch++
	route := router.Route{Side: router.Target, Epoch: w.epoch, Map: w.dbs}
	soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := w.proxy.Align(soon, route); err == nil {
		t.Error("all was heard of a server that stands still")
	}
	w.proxy.DropListeners(router.Target)
	w.proxy.Release(route)
	if got := listens.ends(); got != "" {
		t.Errorf("the subscriber was told %q", got)
	}
	if got := hears.next(); !strings.HasPrefix(got, ">2\r\n"+bulk("invalidate")) {
		t.Errorf("who has cached something is told %q", got)
	}
	hears.want("SET a 1", ok)
	until(t, "the gate is empty", func() bool { return w.gate.Inside() == 0 })
	if err := w.source.Cont(); err != nil {
		t.Fatal(err)
	}
}
