package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestGuessing: who shows wrong tokens is not looked at for a while, whoever else asks is.
func TestGuessing(t *testing.T) {
	s, c, _ := start(t, config.Admin{Address: "127.0.0.1:0", Token: "right", ViewToken: "look"}, &fake{}, nil)
	bearer := func(token string) map[string]string { return map[string]string{"Authorization": "Bearer " + token} }
	for range 50 { // no token is no guess, nor is a right one
		if code, _, _ := ask(t, c, "GET", pathStatus, "", nil); code != 401 {
			t.Fatalf("without a token: %d", code)
		}
		if code, _, _ := ask(t, c, "GET", pathStatus, "", bearer("look")); code != 200 {
			t.Fatalf("with a right one: %d", code)
		}
	}
	for i := range guessesAtOnce {
		if code, _, _ := ask(t, c, "GET", pathStatus, "", bearer(fmt.Sprint(i))); code != 401 {
			t.Fatalf("guess %d: %d", i, code)
		}
	}
	for _, token := range []string{"wrong", "right"} { // or it would be told which one is right
		code, e, header := ask(t, c, "GET", pathStatus, "", bearer(token))
		if code != http.StatusTooManyRequests || header.Get("Retry-After") != "6" || e.Hint == "" {
			t.Errorf("%s, after too many: %d %+v %v", token, code, e, header)
		}
	}
	if code, _, _ := ask(t, c, "GET", pathHealth, "", nil); code != 200 {
		t.Errorf("a probe: %d", code)
	}
	now := time.Now()
	s.guesses.mu.Lock()
	s.guesses.now = func() time.Time { return now.Add(guessEvery) }
	s.guesses.mu.Unlock()
	if code, _, _ := ask(t, c, "GET", pathStatus, "", bearer("right")); code != 200 {
		t.Errorf("later: %d", code)
	}
}

func TestGuessersAreBounded(t *testing.T) {
	g := newGuesses()
	now := time.Unix(1000, 0)
	g.now = func() time.Time { return now }
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 3 * guessers {
		g.wrong(at(i))
		if len(g.until) > guessers {
			t.Fatalf("%d addresses are remembered", len(g.until))
		}
	}
	now = now.Add(time.Hour)
	if !g.wrong(at(3*guessers)) || len(g.until) != 1 {
		t.Errorf("%d addresses are remembered after an hour", len(g.until))
	}
	for _, c := range []struct{ remote, want string }{
		{"192.0.2.1:5", "192.0.2.1"}, {"[::ffff:192.0.2.1]:5", "192.0.2.1"}, {"[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::"}, {"@", "invalid IP"}, {"", "invalid IP"},
	} {
		if got := g.from(&http.Request{RemoteAddr: c.remote}).String(); got != c.want {
			t.Errorf("%q counts as %s, want %s", c.remote, got, c.want)
		}
	}
	for range 100 {
		if !g.wrong(netip.Addr{}) || !g.may(netip.Addr{}) {
			t.Fatal("a unix socket has a limit")
		}
	}
}
