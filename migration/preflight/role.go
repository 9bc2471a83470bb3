package preflight

import (
	"context"
	"fmt"
)

// checkRole looks at replication: a replica cannot be written to, and a fence on
// a replica does not stop its master.
func checkRole(_ context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range in.sides() {
		replica := s.info["role"] == "slave"
		master := fmt.Sprintf("%s:%s", s.info["master_host"], s.info["master_port"])
		replicas := s.info.number("connected_slaves")
		switch {
		case s.clustered():
			out = append(out, pass("%s: %s with %s", s, plural(int64(len(s.masters())), "master", "masters"), plural(replicas, "replica", "replicas")))
		case replica && s == in.to:
			out = append(out, fail("Give the address of its master, or promote it: "+"\n"+s.redisCLI()+" REPLICAOF NO ONE",
				"%s is a replica of %s and takes no writes (READONLY)", s, master))
		case replica && in.stage == StageCutover && !in.Unsafe:
			out = append(out, fail("Give the address of the master as "+s.name+".url.",
				"%s is a replica of %s: a fence here does not stop writes to the master, so a switch would lose them", s, master))
		case replica:
			out = append(out, warn("Give the address of the master as "+s.name+".url; a switch is refused from a replica.",
				"%s is a replica of %s: clients cannot write through it, and a fence here does not stop its master", s, master))
		default:
			out = append(out, pass("%s is a master with %s", s, plural(replicas, "replica", "replicas")))
		}
	}
	return out
}
