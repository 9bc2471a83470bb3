package preflight

import (
	"context"

	"github.com/crossfade/crossfade/internal/slot"
)

// room is how much memory the copy needs and how much there is, in bytes.
type room struct {
	need  int64 // what From's data takes, less what To already has of it
	free  int64
	limit int64 // maxmemory, or the machine's memory
	hard  bool  // limit is maxmemory
	known bool
}

// headroom estimates for in.to, or for a node of it: a master of a cluster gets as much as it
// has slots. What is left out of the map is counted too: INFO does not tell databases apart,
// and too careful is the right side.
func headroom(in *inspection, s *server) room {
	from, to := in.from.info, s.info
	r := room{need: data(from), known: from["used_memory"] != ""}
	if !in.back() {
		for db, keys := range from.keyspace() {
			place, _ := in.Map.Place(db)
			r.need += keys * int64(len(place.Prefix))
		}
	}
	if s.node != nil {
		r.need = r.need * int64(s.slots) / slot.Count
	}
	if in.Resumed || in.stage == StageCutover {
		// The copy, or a part of it, is there already.
		r.need = max(r.need-data(to), 0)
	}
	if r.limit = to.number("maxmemory"); r.limit > 0 {
		r.hard = true
		r.free = max(r.limit-to.number("used_memory"), 0)
		return r
	}
	r.limit = to.number("total_system_memory")
	r.free = max(r.limit-max(to.number("used_memory_rss"), to.number("used_memory")), 0)
	r.known = r.known && r.limit > 0
	return r
}

// data is what keys and values take, without the buffers of connections.
func data(i info) int64 {
	n := i.number("used_memory")
	for _, other := range []string{"used_memory_startup", "mem_clients_normal", "mem_clients_slaves", "mem_replication_backlog", "mem_aof_buffer"} {
		n -= i.number(other)
	}
	return max(n, 0)
}

func (r room) short() bool { return r.known && r.need > r.free }
func (r room) tight() bool { return r.known && r.need+r.need/5 > r.free }

// checkMemory compares what the copy needs with what To has, and looks whether From takes
// the few keys that are written there.
func checkMemory(_ context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range in.from.masters() {
		if over, limit := full(s.info); over >= 0 {
			out = append(out, fail("Delete keys, or raise it, where the machine has the memory:\n"+s.redisCLI()+" CONFIG SET maxmemory "+megabytes(limit+over+ourRoom),
				"%s is at its maxmemory (%s, noeviction): it refuses the heartbeat, by which changes are known to arrive, and the journal of a switch", s, size(limit)))
		}
	}
	for _, s := range in.to.masters() {
		out = append(out, memoryOf(in, s))
	}
	return out
}

// ourRoom is what is asked for where a server has no room for keys of ours: they take a few
// kilobytes, and the clients go on writing.
const ourRoom = 16 << 20

// full returns by how much a server is above its maxmemory, which keeps it from taking
// anything, and that; -1 where it is not, or makes room by eviction.
func full(i info) (over, limit int64) {
	limit = i.number("maxmemory")
	if limit == 0 || i["maxmemory_policy"] != "noeviction" {
		return -1, limit
	}
	return max(i.number("used_memory")-i.number("mem_not_counted_for_evict")-limit, -1), limit
}

func memoryOf(in *inspection, s *server) Finding {
	r := headroom(in, s)
	if !r.known {
		return warn("Make sure that it has room for all data.", "%s does not tell its memory", s)
	}
	kind := "of the machine's memory (maxmemory is not set)"
	do := "Give the machine more memory, or choose another."
	if r.hard {
		kind = "below maxmemory " + size(r.limit)
		do = "Raise it, where the machine has the memory:\n" + s.redisCLI() + " CONFIG SET maxmemory " + megabytes(r.limit-r.free+r.need+r.need/2)
	}
	switch {
	case r.short() && (r.hard || r.need > r.limit):
		return fail(do, "%s: the data needs %s, but only %s are free %s", s, size(r.need), size(r.free), kind)
	case r.tight():
		return warn(do, "%s: the data needs %s, and %s are free %s: that is tight", s, size(r.need), size(r.free), kind)
	}
	return pass("%s: the data needs %s, and %s are free %s", s, size(r.need), size(r.free), kind)
}
