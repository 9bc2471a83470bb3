package migration

import (
	"fmt"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/router"
)

// A switch may be one that nobody can take back: by its fence (F2), or because the server
// that is entered cannot be followed. Whoever asks for one of the second kind says so, and
// is told before.

const fromCluster = "the target is a cluster, and writes cannot be carried back from a cluster yet"

// unfollowed says why a server with that address cannot be kept another one's source, or "".
func unfollowed(address string) string {
	if config.NamesCluster(address) {
		return fromCluster
	}
	return ""
}

// noReturn says why there will be no way back from the target, or "". It speaks of the
// target alone: what a fence does is known when there is one.
func (m *Migration) noReturn() string {
	if m.ids[router.Target].url.Cluster == nil {
		return ""
	}
	return fromCluster
}

// onlyWay reports whether this attempt is one without a way back by what it enters.
func (a *attempt) onlyWay() bool { return a.from == router.Source && a.noReturn() != "" }

// mayGoOneWay refuses a cutover without a way back that nobody has asked for as such.
func (m *Migration) mayGoOneWay(from router.Side, o SwitchOptions) error {
	why := m.noReturn()
	if from != router.Source || why == "" || o.OneWay || o.DryRun || o.Rehearse {
		return nil
	}
	return &Refused{[]string{fmt.Sprintf("there will be no way back: %s; if that is accepted: crossfade cutover --one-way", why)}}
}

// oneWay reports whether there is no way back: the server that was left refuses our own
// writes as well (F2), so that it cannot be kept up to date, or what was entered cannot be
// followed.
func (r Record) oneWay() bool {
	f := r.Servers[r.Side.Other()].Fence
	return f != nil && f.Raised && f.Level == FenceReplicas || r.Side == router.Target && unfollowed(r.Target) != ""
}

// noWayBack is what an operator is told then.
func (r Record) noWayBack() string {
	if why := unfollowed(r.Target); r.Side == router.Target && why != "" {
		return fmt.Sprintf("there is no way back: %s, so the %s does not have what was written since the switch; end with crossfade complete", why, r.Side.Other())
	}
	return fmt.Sprintf("there is no way back: the %s is fenced by min-replicas-to-write (F2), which refuses our own writes too, so it does not have what was written since the switch; end with crossfade complete", r.Side.Other())
}
