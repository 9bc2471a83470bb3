package linear

import (
	"context"
	"math/rand/v2"
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

func run(h *History, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	h.Run(ctx)
}

// TestOneServer: what one server answers is explained, whatever the protocol.
func TestOneServer(t *testing.T) {
	for protocol := 2; protocol <= 3; protocol++ {
		s := redistest.Start(t)
		h := New(Config{Addrs: []string{s.Addr()}, Databases: []int{0, 3}, Protocol: protocol})
		run(h, time.Second)
		run(h, 500*time.Millisecond)
		if err := h.Errors(); err != nil {
			t.Error(err)
		}
		if err := h.Check(time.Minute); err != nil {
			t.Error(err)
		}
		if n, unknown := h.Ops(); n < 500 || unknown > 0 {
			t.Errorf("%d operations, %d unknown", n, unknown)
		}
	}
}

// TestUnknownOutcomes: operations whose connection is lost may have run or not.
func TestUnknownOutcomes(t *testing.T) {
	s := redistest.Start(t)
	link := redistest.NewLink(t, s.Addr())
	h := New(Config{Addrs: []string{link.Addr()}, OpTimeout: time.Second})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	go link.Storm(ctx, rand.New(rand.NewPCG(1, 1)), 50*time.Millisecond)
	h.Run(ctx)
	if err := h.Check(time.Minute); err != nil {
		t.Error(err)
	}
	if n, unknown := h.Ops(); unknown == 0 || h.Errors() == nil {
		t.Errorf("%d operations, %d unknown", n, unknown)
	}
}

// TestTwoServers: clients that are on two servers at the same time are found out, with
// every kind of object.
func TestTwoServers(t *testing.T) {
	h := New(Config{Addrs: []string{redistest.Start(t).Addr(), redistest.Start(t).Addr()}})
	run(h, time.Second)
	err := h.Check(time.Minute)
	if err == nil {
		t.Fatal("nothing was found")
	}
	for _, k := range kinds {
		if !strings.Contains(err.Error(), k.name+" linear:") {
			t.Errorf("nothing was found with a %s: %v", k.name, err)
		}
	}
}

// TestOneChange: a change that nobody made is found. It is made again and again, for it may
// be written over before anybody has looked.
func TestOneChange(t *testing.T) {
	for _, change := range [][]any{
		{"INCR", "linear:{counter-0}:a"}, {"SET", "linear:{register-0}:a", "-1"}, {"LPUSH", "linear:{list-0}:a", "-1"},
		{"SADD", "linear:{set-0}:a", "33"}, {"INCR", "linear:{pair-0}:b"},
	} {
		s := redistest.Start(t)
		h := New(Config{Addrs: []string{s.Addr()}})
		for range 8 {
			run(h, 100*time.Millisecond)
			if err := s.Client(0).Do(context.Background(), change...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		run(h, 100*time.Millisecond)
		if err := h.Check(time.Minute); err == nil {
			t.Errorf("%v was not found", change)
		} else if !strings.Contains(err.Error(), "no order of its operations explains") {
			t.Error(err)
		}
	}
}
