package proxy

import (
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// CLIENT REPLY silences replies, not what is pushed: confirmations of
// subscriptions and messages come all the same.
func TestSilencedClientsHearPushes(t *testing.T) {
	lines := []string{
		"CLIENT REPLY OFF", "SUBSCRIBE c1 c2", "PSUBSCRIBE p*", "SUBSCRIBE", "UNSUBSCRIBE c1", "UNSUBSCRIBE", "PUNSUBSCRIBE", "PUNSUBSCRIBE",
		"SET a 1", "CLIENT REPLY ON", "GET a", "CLIENT REPLY SKIP", "SUBSCRIBE c3", "UNSUBSCRIBE", "CLIENT REPLY SKIP", "UNSUBSCRIBE", "GET a",
		"CLIENT REPLY OFF", "MULTI", "GET a", "EXEC", "CLIENT REPLY ON", "GET a",
		"CLIENT REPLY SKIP", "CLIENT REPLY ON", "GET a", "CLIENT REPLY OFF", "CLIENT REPLY SKIP", "CLIENT REPLY ON", "GET a",
		"CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "GET a", "GET b", "CLIENT REPLY SKIP", "CLIENT REPLY OFF", "GET a", "CLIENT REPLY ON",
	}
	for name, first := range map[string]string{"RESP2": "PING", "RESP3": "HELLO 3"} {
		t.Run(name, func(t *testing.T) {
			direct, w := redistest.Start(t), newWorld(t)
			all := append([]string{first}, lines...)
			want := transcriptOf(t, direct.Addr(), all, true)
			got := transcriptOf(t, w.proxy.Addr().String(), all, true)
			compare(t, mask(got), mask(want))
		})
	}
}

// TestResetEndsTheSilence: RESET is answered by who was silent, but not by who has
// asked for one reply to be left out.
func TestResetEndsTheSilence(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		c := newWorld(t, mode).client()
		c.send("CLIENT REPLY OFF", "PING", "RESET x", "RESET", "ECHO 1", "CLIENT REPLY SKIP", "RESET", "ECHO 2")
		for _, want := range []string{"+RESET\r\n", bulk("1"), bulk("2")} {
			c.expect(want)
		}
	})
}

// TestSkippedReplyOfWhoWasWoken has the command whose reply is to be left out block,
// and be woken and said again for a switch.
func TestSkippedReplyOfWhoWasWoken(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c := w.client()
		c.send("CLIENT REPLY SKIP", "BLPOP q 0", "PING")
		w.blockedOn(router.Source, "blpop")
		w.giveUp(router.Target)
		w.switchTo(router.Target)
		w.do(router.Target, 0, "RPUSH", "q", "e")
		c.expect("+PONG\r\n")
	})
}

// TestSubscribesBehindARefusedMulti has the server refuse MULTI, and hears what it has
// subscribed to behind it also after a switch.
func TestSubscribesBehindARefusedMulti(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c := w.client()
		c.send("SUBSCRIBE a", "MULTI", "SUBSCRIBE b", "EXEC")
		c.next()
		if got := c.next(); got[0] != '-' {
			t.Fatalf("MULTI answers %q", got)
		}
		c.expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n")
		c.next()
		w.switchTo(router.Target)
		w.do(router.Target, 0, "PUBLISH", "b", "m")
		c.expect("*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$1\r\nm\r\n")
	})
}
