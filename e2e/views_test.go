package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration"
)

// TestBypassingWritersAreNamed has all kinds of writers through the proxy, whom
// nobody may take for others, and then one past it, who must be shown.
func TestBypassingWritersAreNamed(t *testing.T) {
	p := newPeers(t, peerCase{})
	p.truth.stop() // it writes past the proxy
	<-p.truth.done
	before := must[migration.Status](t)(p.c.status()).Views.Bypassed

	ch := startChurn(t, p, 3000, true)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		c := p.proxied[0]
		for i := 0; ; i++ {
			key := fmt.Sprintf("more:%d", i%100)
			_, err := c.TxPipelined(t.Context(), func(pipe redis.Pipeliner) error {
				pipe.Set(t.Context(), key, i, 0)
				pipe.LPush(t.Context(), key+":l", i)
				pipe.Del(t.Context(), "nothing")
				return nil
			})
			if err == nil {
				err = c.BLMove(t.Context(), key+":l", key+":m", "LEFT", "RIGHT", time.Second).Err()
			}
			if err == nil {
				err = c.Copy(t.Context(), key, key+":copy", 3, true).Err()
			}
			if err != nil {
				t.Errorf("a client of the proxy: %v", err)
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	ch.pass(3 * time.Second)
	close(stop)
	wg.Wait()
	ch.end()
	s := must[migration.Status](t)(p.c.status())
	if n := s.Views.Bypassed - before; n > 0 || len(s.Views.Unannounced) > 0 {
		t.Errorf("all %d writes went through the proxy, and yet: %+v", ch.writes.Load(), s.Views)
	}

	cron := p.src.Client(3)
	do(t, cron, "CLIENT", "SETNAME", "nightly-cron")
	for i := range 300 {
		do(t, cron, "SET", fmt.Sprintf("foreign:%d", i%10), i)
	}
	s = p.c.await("the writer past the proxy is shown", func(s migration.Status) bool {
		return s.Views.Bypassed > before && strings.Contains(strings.Join(s.Views.Clients, " "), "nightly-cron")
	})
	if v := s.Views; len(v.Databases) != 1 || v.Databases[0] != 3 || len(v.Keys) == 0 || !strings.HasPrefix(v.Keys[0], "foreign:") {
		t.Errorf("shown is %+v", v)
	}
	text, _ := verb(t, "status", "--admin", p.c.adminAddress())
	if text = unwrapped(text); !strings.Contains(text, "writes past the proxy") || !strings.Contains(text, "nightly-cron") || !strings.Contains(text, `"foreign:`) {
		t.Errorf("status does not say who writes past the proxy:\n%s", text)
	}
	equalSides(t, p.src, p.dst, peersMap)
}
