package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/router"
)

// TestVectorSetsAreSilent: no notification tells of them, so the observer must.
func TestVectorSetsAreSilent(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	if strings.HasPrefix(c.do("VADD k VALUES 2 1 2 a"), "-ERR unknown command") {
		t.Skip("this server has no vector sets")
	}
	c.want("VADD k VALUES 2 1 3 b", ":1\r\n")
	c.want("VSETATTR k a {}", ":1\r\n")
	c.want("VREM k b", ":1\r\n")
	c.want("VCARD k", ":1\r\n")
	if got, want := w.heard.all(), slices.Repeat([]string{"silent 0 k"}, 4); !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	stats := strings.ToLower(fmt.Sprint(w.do(router.Source, 0, "INFO", "commandstats")))
	forwarded, finished := w.proxy.Silent()
	for name, n := range map[string]int64{"vadd": 2, "vsetattr": 1, "vrem": 1} {
		if forwarded[name] != n || finished[name] != n || !strings.Contains(stats, fmt.Sprintf("cmdstat_%s:calls=%d,", name, n)) {
			t.Errorf("%s: %d forwarded, %d finished; the server says %s", name, forwarded[name], finished[name], stats)
		}
	}
}
