package proxy

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestLostBeforeLocalAnswers has clients send commands without end that the proxy answers
// by itself, behind one that the server is lost with, or in the middle of: none of those
// answers is given in the place of the lost one, and nothing stays in the gate, where every
// switch would wait for it.
func TestLostBeforeLocalAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		lost string
		cut  func(link *redistest.Link)
	}{
		"before its reply":           {"INCR n", func(link *redistest.Link) { link.Cut() }},
		"in the middle of its reply": {"GET large", func(link *redistest.Link) { link.CutAfter(100_000); link.StallDown(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				target := redistest.Start(t)
				link, err := redistest.OpenLink(target.Addr())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(link.Close)
				w := newWorldOn(t, redistest.Start(t), target, mode, func(c *Config) { c.Upstreams[router.Target].Dial = newDialer(link.Addr()) })
				w.switchTo(router.Target)
				w.do(router.Target, 0, "SET", "large", strings.Repeat("0123456789abcdef", 1<<16))
				flood := bytes.Repeat(words("SELECT", "9"), 2000) // which is not in the map
				for range 20 {
					client := w.client()
					client.do("CLIENT ID") // it has a connection of its own from here on
					link.StallDown(true)
					client.send(c.lost)
					until(t, "it is in flight", func() bool { return w.gate.Inside() == 1 })
					got := make(chan string, 1)
					go func() {
						defer close(got)
						got <- client.ends()
					}()
					_ = client.conn.SetWriteDeadline(time.Now().Add(time.Minute))
					client.write(flood)
					c.cut(link)
					for err == nil {
						_, err = client.conn.Write(flood)
					}
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal("the client is not closed")
					}
					err = nil
					link.StallDown(false)
					if answer := <-got; strings.HasPrefix(answer, "-") {
						t.Fatalf("%s was answered %q", c.lost, answer[:min(100, len(answer))])
					}
					until(t, "the client is gone", func() bool { return w.proxy.Stats().Clients == 0 })
					if n := w.gate.Inside(); n != 0 {
						t.Fatalf("%d commands stay in the gate", n)
					}
				}
			})
		})
	}
}
