package migration

import (
	"strings"
	"testing"

	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/preflight"
)

func TestFleetFindings(t *testing.T) {
	member := func(name, version string, protocol int, alive bool) MemberStatus {
		return MemberStatus{Name: name, Version: version, Protocol: protocol, Alive: alive}
	}
	const p = fleet.Protocol
	for _, tt := range []struct {
		name    string
		members []MemberStatus
		level   []preflight.Level
		says    string
	}{
		{"nobody", nil, nil, ""},
		{"all alike", []MemberStatus{member("a", "v2", p, true), member("b", "v2", p, true)}, []preflight.Level{preflight.Pass}, "2 other sidecars"},
		{"an update", []MemberStatus{member("a", "v1", p, true), member("b", "v2", p, true)}, []preflight.Level{preflight.Warn}, "v1 on a; v2 on b, this one"},
		{"not understood", []MemberStatus{member("a", "v1", p+1, true)}, []preflight.Level{preflight.Fail}, "a (v1)"},
		{"silent", []MemberStatus{member("a", "v1", p+1, false)}, []preflight.Level{preflight.Pass, preflight.Warn}, "say nothing any more: a"},
	} {
		var text string
		var levels []preflight.Level
		for _, f := range fleetFindings(tt.members, "v2") {
			levels, text = append(levels, f.Level), text+f.What+"\n"
		}
		if len(levels) != len(tt.level) || !strings.Contains(text, tt.says) {
			t.Errorf("%s: %v: %s", tt.name, levels, text)
			continue
		}
		for i := range levels {
			if levels[i] != tt.level[i] {
				t.Errorf("%s: %v, want %v", tt.name, levels, tt.level)
			}
		}
	}
}

func TestWaitsOrListens(t *testing.T) {
	for line, want := range map[string]bool{
		"flags=N sub=0 psub=0": false, "flags=b sub=0": true, "flags=P sub=1": true, "flags=N sub=0 psub=0 ssub=2": true,
		"flags=t": true, "flags=O": true, "flags=S sub=1": false, "flags=x multi=1": false,
	} {
		c := listed("id=1 " + line)[0]
		if got := c.isClients() && c.waitsOrListens(); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
}
