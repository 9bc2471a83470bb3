package proxy

import (
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
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
