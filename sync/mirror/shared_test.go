package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// TestCountingDoesNotWaitForACopy: the lanes of a scan may stand still, and go on once
// something was counted.
func TestCountingDoesNotWaitForACopy(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	from := conn.New(config.Endpoint{Network: "tcp", Address: dst.Addr()}, "t:target", 5*time.Second)
	to := conn.New(config.Endpoint{Network: "tcp", Address: src.Addr()}, "t:source", 5*time.Second)
	t.Cleanup(func() {
		_ = from.Close()
		_ = to.Close()
	})
	dbs, err := router.NewDBMap(map[int]router.Place{0: {Prefix: "a:"}, 1: {Prefix: "b:"}})
	if err != nil {
		t.Fatal(err)
	}
	const each = 3000
	p := dst.Client(0).Pipeline()
	for i := range each {
		p.Set(t.Context(), fmt.Sprintf("a:%d", i), i, 0)
		p.Set(t.Context(), fmt.Sprintf("b:%d", i), i, 0)
	}
	if _, err := p.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := New(Config{From: from, To: to, Side: router.Target, Map: dbs, ScanCount: 10, DirtyLimit: 1000, Timeout: 5 * time.Second}, slog.New(slog.DiscardHandler))
	t.Cleanup(m.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	who, at, err := whoIs(ctx, from.DB(0))
	if err != nil {
		t.Fatal(err)
	}
	m.consider(ctx, who, at)
	m.decide(true) // as Listen does
	stands, goOn, ended := make(chan bool), make(chan bool), make(chan error, 1)
	go func() {
		place, _ := dbs.Place(0)
		first := true
		ended <- m.ends[0].each(ctx, 0, place, pages{count: 10, shared: true}, func([]string) error {
			if first {
				first = false
				close(stands)
				<-goOn
			}
			return nil
		})
	}()
	<-stands
	n, _, err := m.keys(ctx)
	if err != nil || n != 2*each {
		t.Errorf("%d keys, %v", n, err)
	}
	close(goOn)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
