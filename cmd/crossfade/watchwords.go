package main

import (
	"slices"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// The dashboard's words; a test holds them together.

// station is one of those between the source and the target.
type station struct{ id, name string }

var stations = []station{{"preflight", "Preflight"}, {"copy", "First copy"}, {"follow", "Following"}, {"switch", "Switch"}, {"target", "On the target"}, {"done", "Completed"}}

// phaseWord is at which station a phase is, and what is going on.
type phaseWord struct{ station, sentence string }

var phaseWords = map[migration.Phase]phaseWord{
	migration.Idle:           {"preflight", "Nothing has begun yet."},
	migration.Preflight:      {"preflight", "Both servers are looked at before anything is copied."},
	migration.Copying:        {"copy", "The first copy is under way. Clients work on the source as before."},
	migration.Tailing:        {"follow", "The copy is complete, and every change on the source follows within moments."},
	migration.Resync:         {"copy", "Changes may have been missed, so everything is compared and copied again. Clients notice nothing of it."},
	migration.Prepared:       {"switch", "A switch is being made ready. Clients notice nothing yet."},
	migration.Holding:        {"switch", "A switch is under way: clients are held for a moment."},
	migration.SoftFenced:     {"switch", "A switch is under way: writers past the proxy are paused too."},
	migration.HardFenced:     {"switch", "A switch is under way: the old server takes no more writes, and the rest is copied."},
	migration.Verifying:      {"switch", "A switch is under way: both servers stand still and are compared."},
	migration.Committing:     {"switch", "The switch is decided and is being carried through."},
	migration.Committed:      {"switch", "The switch is made; the way back is being opened."},
	migration.Aborting:       {"switch", "The switch is being taken back. Nothing has happened."},
	migration.ReverseTailing: {"target", "Clients are on the target, and every change there goes to the source as well."},
	migration.ReverseLost:    {"target", "Clients are on the target. The source may lack some changes and is being compared again."},
	migration.RolledBack:     {"follow", "Clients are back on the source. The target is being brought level again."},
	migration.Completed:      {"done", "The migration is complete. Clients belong to the target."},
	migration.Cancelled:      {"done", "The migration was given up. Clients belong to the source."},
}

// oneWayWords are the sentences that are others behind a switch that nobody can take back.
var oneWayWords = map[migration.Phase]string{
	migration.Committed:   "The switch is made.",
	migration.ReverseLost: "Clients are on the target. What was written since the switch is not on the source, and does not go there.",
}

// sentenceOf says what is going on.
func sentenceOf(st migration.Status) string {
	if words := oneWayWords[st.Phase]; words != "" && oneWay(st) {
		return words
	}
	if w, known := phaseWords[st.Phase]; known {
		return w.sentence
	}
	return "The migration is in phase " + string(st.Phase) + "."
}

// oneWay reports whether clients went to the target by a switch that nobody can take back.
func oneWay(st migration.Status) bool {
	return st.Side == router.Target && (st.NoWayBack != "" || st.Fence == string(migration.FenceReplicas))
}

// stationOf is where on the line a phase is.
func stationOf(p migration.Phase) int {
	id := phaseWords[p].station
	return max(0, slices.IndexFunc(stations, func(s station) bool { return s.id == id }))
}

// leadOf says whether the next switch can be made.
func leadOf(st migration.Status) string {
	verb := nextSwitch(st.Side)
	switch {
	case st.Phase == migration.Completed:
		return "Nothing is copied any more. Point the clients at the target itself one by one, then stop Crossfade."
	case st.Phase == migration.Cancelled:
		return "Nothing is copied any more. Point the clients at the source itself one by one, then stop Crossfade."
	case st.Phase.Switching(), st.Phase == migration.Committing, st.Phase == migration.Committed:
		return "A switch is under way."
	case st.Ready:
		return "A " + verb + " can be made now."
	}
	return "A " + verb + " cannot be made now."
}

// backOf says what leads back from here.
func backOf(st migration.Status) (open bool, words string) {
	switch {
	case st.Phase == migration.Completed:
		return false, "there is none any more. The source is as it was when the migration was completed."
	case st.Phase == migration.Cancelled:
		return true, "none is needed. Clients never left the source."
	case st.Side == router.Source:
		return true, "clients are on the source. Nothing has to be taken back; a switch that fails undoes itself."
	case st.Fence == string(migration.FenceReplicas):
		return false, "there is none: the source refuses our writes too, so it lacks what was written since the switch."
	case st.NoWayBack != "":
		return false, "there is none: " + st.NoWayBack + "."
	case st.Phase == migration.ReverseTailing:
		return true, "open. A rollback brings the clients to the source again, with everything that was written since."
	}
	return false, "not at this moment. It opens when the source is level again."
}
