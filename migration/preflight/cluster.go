package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/internal/spread"
)

// checkCluster looks at the state of a cluster, and refuses what cannot be moved.
func checkCluster(ctx context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range in.sides() {
		_, address := s.pool.Endpoint().Where()
		is := s.info["cluster_enabled"] == "1" || s.info["redis_mode"] == "cluster"
		switch {
		case s.clustered():
			out = append(out, clusterState(ctx, in, s)...)
		case s.info["redis_mode"] == "sentinel":
			out = append(out, fail("Name the master that it watches (SENTINEL MASTERS shows them), and the other sentinels: redis+sentinel://"+address+"/NAME.",
				"%s is a Sentinel, not a server with data", s))
		case is && s == in.to && !in.back():
			out = append(out, fail("Name some of its nodes: redis+cluster://"+address+",…",
				"%s is a node of a cluster: it has a part of the slots only", s))
		case is:
			out = append(out, fail("Use a standalone server: a cluster can be the target only.", "%s runs in cluster mode", s))
		}
	}
	if len(out) == 0 {
		out = one(pass("no cluster mode"))
	}
	return out
}

// clusterState looks at what a cluster says of itself, and tells what it cannot do.
func clusterState(ctx context.Context, in *inspection, s *server) []Finding {
	var out []Finding
	masters := s.masters()
	if !s.cluster.Whole() {
		out = append(out, fail("Give the slots to a master: redis-cli --cluster fix shows which they are.", "%s has slots without a master: keys of these can be neither copied nor used", s))
	}
	var wrong, partial, lonely, moving []*server
	for _, n := range masters {
		text, err := n.client().ClusterInfo(ctx).Result()
		if err != nil {
			out = append(out, unknown(n, "CLUSTER INFO", err))
		} else if !strings.Contains(text, "cluster_state:ok") {
			wrong = append(wrong, n)
		}
		if v, err := n.setting(ctx, "cluster-require-full-coverage"); err == nil && v == "no" {
			partial = append(partial, n)
		}
		if n.info.number("connected_slaves") == 0 {
			lonely = append(lonely, n)
		}
		if text, err := n.client().ClusterNodes(ctx).Result(); err == nil && moves(text) {
			moving = append(moving, n)
		}
	}
	if len(wrong) > 0 {
		out = append(out, fail("Mend the cluster first (CLUSTER NODES shows who has failed).", "%s: the state is not ok on %s", s, addresses(wrong)))
	}
	switch {
	case len(moving) > 0 && in.stage == StageCutover:
		out = append(out, fail("Wait until the resharding has ended, and do not begin one during the switch.",
			"%s: slots are being moved at %s, and with them copies, which the replicas of their new masters may not have yet", s, addresses(moving)))
	case len(moving) > 0:
		out = append(out, warn("Let the resharding end first: commands with several keys of such a slot are answered with TRYAGAIN meanwhile, and the copy scans again when slots have moved.",
			"%s: slots are being moved at %s", s, addresses(moving)))
	}
	if len(lonely) > 0 {
		out = append(out, warn("Give each master a replica before the switch.", "%s: no replica has what is at %s: should one fail, its slots are down, and what it did not keep is lost", s, addresses(lonely)))
	}
	if len(partial) > 0 {
		out = append(out, warn("Know that the keys of slots without a master are answered with CLUSTERDOWN then, and the others go on.",
			"%s: cluster-require-full-coverage is no at %s: with a master down the cluster serves a part of the keys", s, addresses(partial)))
	}
	if len(s.away) > 0 {
		out = append(out, warn("Look whether they run, and take away for good those that do not (CLUSTER FORGET).", "%s: of its nodes %s do not answer", s, strings.Join(s.away, ", ")))
	}
	if len(out) == 0 {
		out = append(out, pass("%s is whole: %s, each with a replica at least", s, plural(int64(len(masters)), "master", "masters")))
	}
	return append(append(out, spanning(in, s)...),
		warn("Cut over with --one-way, if that is accepted.", "%s: writes cannot be carried back from a cluster yet, so there is no way back from a cutover: no rollback", s))
}

// moves reports whether the answer to CLUSTER NODES shows that slots of the node that has
// answered are being moved: [7-<-id] or [7->-id] at the end of its line.
func moves(nodes string) bool {
	for line := range strings.Lines(nodes) {
		if strings.Contains(line, "myself") && strings.Contains(line, " [") {
			return true
		}
	}
	return false
}

// several are commands that may name several keys, which must be in one slot.
var several = strings.Fields(`
	bitop blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin copy eval eval_ro evalsha evalsha_ro exec fcall fcall_ro
	geosearchstore lcs lmove lmpop msetnx pfcount pfmerge rename renamenx rpoplpush sdiff sdiffstore sinter sintercard sinterstore
	smove sunion sunionstore watch xread xreadgroup zdiff zdiffstore zinter zintercard zinterstore zmpop zrangestore zunion zunionstore`)

// spanning names commands in use that a cluster refuses, or refuses for some keys.
func spanning(in *inspection, s *server) []Finding {
	calls := in.from.info.calls()
	var some, never []string
	for name, n := range calls {
		if n == 0 {
			continue
		}
		var words [][]byte
		for part := range strings.SplitSeq(name, "|") {
			words = append(words, []byte(part))
		}
		shown := fmt.Sprintf("%s %d×", strings.ToUpper(strings.ReplaceAll(name, "|", " ")), n)
		switch {
		case slices.Contains(several, name):
			some = append(some, shown)
		case spread.Of(words).Way == spread.Refused && !operators(name):
			never = append(never, shown)
		}
	}
	slices.Sort(some)
	slices.Sort(never)
	const do = "Where clients name keys of different slots in one of them, give these a common hash tag, such as {user:1}:a and {user:1}:b, before the switch: Crossfade answers CROSSSLOT as a cluster does."
	var out []Finding
	switch {
	case len(some) > 0:
		out = append(out, warn(do, "%s: a cluster takes these only with keys of one slot; in use at the %s: %s", s, in.FromName, strings.Join(some, ", ")))
	case len(calls) == 0:
		out = append(out, warn(do, "%s: a cluster takes commands with several keys only where these are in one slot (MSETNX, RENAME, SINTERSTORE, transactions, scripts); the %s does not tell which are in use", s, in.FromName))
	}
	if len(never) > 0 {
		out = append(out, warn("Have these clients do without before the switch.", "%s: a cluster cannot do these as one server does, and they are refused after the switch; in use at the %s: %s", s, in.FromName, strings.Join(never, ", ")))
	}
	return out
}

// operators reports whether a command is one that operators and we ourselves run, rather
// than applications.
func operators(name string) bool {
	name, _, _ = strings.Cut(name, "|")
	return slices.Contains([]string{"acl", "config", "client", "command", "debug", "info", "latency", "memory", "module", "monitor", "psync", "replconf", "replicaof", "slaveof", "slowlog", "sync", "cluster", "shutdown", "save", "bgsave", "bgrewriteaof", "lastsave", "role"}, name)
}
