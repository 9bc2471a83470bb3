package preflight

import "context"

// checkCluster refuses what this version cannot move.
func checkCluster(_ context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range in.sides() {
		switch {
		case s.info["redis_mode"] == "sentinel":
			_, address := s.pool.Endpoint().Where()
			out = append(out, fail("Name the master that it watches (SENTINEL MASTERS shows them), and the other sentinels: redis+sentinel://"+address+"/NAME.",
				"%s is a Sentinel, not a server with data", s))
		case s.info["cluster_enabled"] == "1" || s.info["redis_mode"] == "cluster":
			out = append(out, fail("Use a standalone server; clusters are not supported in this version.",
				"%s runs in cluster mode", s))
		}
	}
	if len(out) == 0 {
		out = one(pass("no cluster mode"))
	}
	return out
}
