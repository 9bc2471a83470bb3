package migration

import (
	"strings"
	"testing"

	"github.com/crossfade/crossfade/router"
)

func TestOneWay(t *testing.T) {
	fenced := [2]Kept{router.Source: {Fence: &FenceState{Level: FenceReplicas, Raised: true}}}
	for i, test := range []struct {
		r    Record
		want string
	}{
		{Record{Side: router.Target, Target: "h:1"}, ""},
		{Record{Side: router.Target, Target: "redis+cluster://h:1,h:2"}, "from a cluster"},
		{Record{Side: router.Source, Target: "redis+cluster://h:1,h:2"}, ""},
		{Record{Side: router.Target, Target: "h:1", Servers: fenced}, "F2"},
	} {
		if got := test.r.oneWay(); got != (test.want != "") {
			t.Errorf("%d: one way: %v", i, got)
		}
		if text := test.r.noWayBack(); test.want != "" && !strings.Contains(text, test.want) {
			t.Errorf("%d: %s", i, text)
		}
	}
}
