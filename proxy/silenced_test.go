package proxy

import (
	"strings"
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
		"CLIENT REPLY OFF", "SUBSCRIBE c4", "CLIENT REPLY ON", "UNSUBSCRIBE", "CLIENT REPLY ON", "CLIENT REPLY ON", "GET a", // in RESP2 the first ON is refused
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

// TestEmptyCommandsCount has empty commands take the turn of what comes next: what was
// to be skipped, or cached, is none of the commands behind them.
func TestEmptyCommandsCount(t *testing.T) {
	large := string(wireOf([]byte("SET"), []byte("large"), make([]byte, 2*streamFrom)))
	skip, echo1, echo2 := string(words("CLIENT", "REPLY", "SKIP")), string(words("ECHO", "1")), string(words("ECHO", "2"))
	// Pieces of one case are sent one by one, with a look whether the one before has come to an end.
	cases := map[string][]string{
		"array":           {skip + "*0\r\n" + echo1 + echo2},
		"negative":        {skip + "*-1\r\n" + echo1 + echo2},
		"line":            {"CLIENT REPLY SKIP\r\n\r\nECHO 1\r\nECHO 2\r\n"},
		"before":          {"*0\r\n" + skip + echo1 + echo2},
		"between":         {skip + echo1 + "*0\r\n" + echo2},
		"two":             {skip + "*0\r\n*0\r\n" + skip + echo1 + echo2},
		"later":           {skip, "*0\r\n", echo1, echo2},
		"later, together": {skip, "*0\r\n" + echo1 + echo2},
		"in parts":        {skip + "*0", "\r\n*2\r\n$4\r\nEC", "HO\r\n$1\r\n1\r\n", echo2},
		"large":           {skip + "*0\r\n" + large + echo1 + echo2, skip + large + echo1},
		"off":             {string(words("CLIENT", "REPLY", "OFF")) + "*0\r\n" + echo1 + string(words("CLIENT", "REPLY", "ON")) + echo2},
	}
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		for name, pieces := range cases {
			t.Run(name, func(t *testing.T) {
				compare(t, said(t, w.proxy.Addr().String(), pieces), said(t, w.source.Addr(), pieces))
			})
		}
		t.Run("caching", func(t *testing.T) {
			invalidated := func(addr, between string) bool {
				c, other := dialRaw(t, addr), dialRaw(t, addr)
				defer c.close()
				defer other.close()
				c.send("HELLO 3", "CLIENT TRACKING ON OPTIN")
				c.next()
				c.next()
				c.write([]byte(string(words("CLIENT", "CACHING", "YES")) + between + string(words("GET", "k"))))
				c.next()
				c.next()
				other.want("SET k v", ok)
				other.want("DEL k", ":1\r\n")
				c.send("PING")
				other.want("PING", "+PONG\r\n")
				c.send("ECHO end")
				return strings.Contains(c.transcript("end"), "invalidate")
			}
			for _, between := range []string{"", "*0\r\n", "\r\n"} {
				if got, want := invalidated(w.proxy.Addr().String(), between), invalidated(w.source.Addr(), between); got != want {
					t.Errorf("with %q between: %v, want %v", between, got, want)
				}
			}
		})
	})
}

// said sends pieces one by one and returns what is answered.
func said(t *testing.T, addr string, pieces []string) string {
	c, other := dialRaw(t, addr), dialRaw(t, addr)
	defer c.close()
	defer other.close()
	for _, piece := range pieces {
		c.write([]byte(piece))
		other.want("PING", "+PONG\r\n")
	}
	c.send("PING", "ECHO end")
	return strings.ReplaceAll(c.transcript("end"), "\r\n", "\n")
}

// TestCachingIsForTheWholeRead: what is asked for the $ of an XREAD does not use up the CLIENT
// CACHING that was said for it.
func TestCachingIsForTheWholeRead(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c := w.client()
		c.do("HELLO 3")
		c.want("CLIENT TRACKING ON OPTIN", ok)
		c.want("CLIENT CACHING YES", ok)
		c.want("XREAD BLOCK 1 STREAMS a b $ 0", "_\r\n")
		w.do(router.Source, 0, "XADD", "b", "*", "f", "v")
		c.expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nb\r\n")
	})
}
