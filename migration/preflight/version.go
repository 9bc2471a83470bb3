package preflight

import (
	"context"
	"slices"
)

var oldest = version{5, 0, 0} // RESTORE ABSTTL, CLIENT UNBLOCK, streams

// distinct leaves out nodes of a cluster that are of the same version as one before.
func distinct(list []*server) []*server {
	seen := make(map[string]bool)
	return slices.DeleteFunc(list, func(s *server) bool {
		if s.whole == nil {
			return false
		}
		was := seen[s.info.product()]
		seen[s.info.product()] = true
		return was
	})
}

// checkVersion says what the servers are. Whether their values fit is proved by
// the restore check, not guessed from versions.
func checkVersion(_ context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range distinct(in.machines()) {
		v := s.info.version()
		switch {
		case s.info["redis_version"] == "" && s.info["valkey_version"] == "":
			out = append(out, warn("Make sure that it is Redis 5.0 or newer, or Valkey.", "%s does not tell its version", s))
		case s.info.compatible().before(oldest) && !s.info.valkey():
			out = append(out, fail("Upgrade it to 5.0 or newer first.", "%s is %s; older than 5.0 lacks RESTORE ABSTTL and CLIENT UNBLOCK", s, s.info.product()))
		case v.before(version{6, 2, 0}) && !s.info.valkey():
			out = append(out, warn("Nothing has to be done; expect some errors instead of a short stall at the switch for clients that go past the proxy.",
				"%s is %s: CLIENT PAUSE WRITE (6.2) or ACL (6.0) are missing", s, s.info.product()))
		default:
			out = append(out, pass("%s is %s", s, s.info.product()))
		}
	}
	if !in.from.up || !in.to.up {
		return out
	}
	from, to := in.from.info, in.to.info
	if from.valkey() == to.valkey() && to.version().before(from.version()) {
		out = append(out, warn("Check that no client uses commands that only "+from.product()+" has.",
			"%s (%s) is older than %s (%s)", in.to.name, to.product(), in.from.name, from.product()))
	}
	return out
}
