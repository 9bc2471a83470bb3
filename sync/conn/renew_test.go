package conn

import (
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
)

// TestRenew: where an address has come to stand for another server, clients stay with the old one
// until they are told.
func TestRenew(t *testing.T) {
	old, now := redistest.Start(t), redistest.Start(t)
	link := redistest.NewLink(t, old.Addr())
	p := New(config.Endpoint{Network: "tcp", Address: link.Addr()}, "t", time.Second)
	defer func() { _ = p.Close() }()
	set := func(value string) {
		t.Helper()
		if err := p.DB(0).Set(t.Context(), "k", value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("before")
	link.SetUpstream(now.Addr())
	set("still")
	p.Renew()
	set("after")
	if a, b := old.Client(0).Get(t.Context(), "k").Val(), now.Client(0).Get(t.Context(), "k").Val(); a != "still" || b != "after" {
		t.Errorf("the old one has %q, the other one %q", a, b)
	}
	_ = p.Close()
	p.Renew()
	if n := len(p.open); n > 0 {
		t.Errorf("%d connections are remembered", n)
	}
}
