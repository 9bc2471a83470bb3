package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// topic is a group of commands that need the operator's attention.
type topic struct {
	commands []string
	remapped bool // only when database numbers change, or the target has others
	prefixed bool // only when keys get prefixes
	words    string
	do       string
}

func topics() []topic {
	scripts := []string{"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"}
	return []topic{
		{scripts, false, true,
			"a script finds a key with a prefix only by a name that it was given in KEYS; one that it builds itself is looked for without the prefix",
			"Look through the scripts for such names, and limit the clients' users of the target to the prefixes (see prefixes): the server refuses the others then."},
		{[]string{"swapdb"}, false, true,
			"databases that have prefixes cannot change places: SWAPDB is refused after the switch",
			"Do without it from then on."},
		{[]string{"flushdb", "flushall"}, false, true,
			"a database that has a prefix is emptied key by key, which takes time and is no part of a transaction",
			"Do not rely on it being one step after the switch."},
		{scripts, true, false,
			"scripts that name databases by number (SELECT, MOVE, SWAPDB, COPY … DB), or say FLUSHALL, cannot be mapped: after the switch the proxy refuses those in which it finds these words in quotes",
			"Look through the scripts for them, and for command names that are put together as they run, which nobody sees; without either there is nothing to do."},
		{[]string{"flushall", "flushdb", "swapdb"}, false, false,
			"no notification reports them",
			"Through the proxy they are carried over. Nobody may run them past the proxy."},
		{[]string{"move"}, true, false,
			"it is mapped, or refused where its database is not in the map, only when it goes through the proxy",
			"Send it through the proxy."},
		{[]string{"xreadgroup", "xack", "xclaim", "xautoclaim", "xackdel", "pfcount", "vadd", "vrem", "vsetattr"}, false, false,
			"no notification reports what they change: it is seen at once only when they go through the proxy",
			"Point these clients at the proxy; otherwise everything is scanned again each time that it is noticed."},
		{[]string{"function|load", "function|delete", "function|flush", "function|restore"}, false, false,
			"no notification reports changes of functions",
			"Change functions through the proxy only."},
		{[]string{"monitor"}, false, false, "somebody watches all commands; such connections are closed at the switch", "Connect again afterwards."},
		{[]string{"sync", "psync"}, false, false, "a replica or a replicating tool is, or was, connected; it does not move by itself", "Give the other server replicas of its own before the switch."},
		{[]string{"client|tracking", "client|caching"}, false, false, "clients cache values; after the switch their caches are emptied once", "Nothing has to be done, unless the other server is a Redis Cluster: there a client must speak RESP3 and not redirect to another connection, or it is closed at the switch and refused afterwards."},
		{[]string{"wait", "waitaof"}, false, false, "clients wait for replicas of this server", "Give the other server as many replicas before the switch."},
		{[]string{"cluster", "cluster|slots", "cluster|shards", "cluster|nodes", "readonly", "asking"}, false, false, "clients try to speak to a cluster", "Set these clients to standalone mode."},
		{[]string{"debug", "debug|jmap", "debug|set-active-expire"}, false, false, "DEBUG can change values without a notification", "Do not use it during the migration."},
		{[]string{"migrate", "restore-asking"}, false, false, "keys are moved away to other servers by MIGRATE", "Stop that during the migration."},
		{[]string{"failover", "replicaof", "slaveof"}, false, false, "the replication was changed since the start of the server", "Leave it as it is during the migration."},
	}
}

// checkCommands reads which commands have run since the server's start.
func checkCommands(_ context.Context, in *inspection) []Finding {
	calls := in.from.info.calls()
	if len(calls) == 0 {
		return one(warn("Think about which commands your clients use.", "%s shows no command statistics", in.from))
	}
	var out []Finding
	for _, t := range topics() {
		if t.remapped && in.Map.IsWhole() || t.prefixed && !in.Map.Prefixed() {
			continue
		}
		var seen []string
		for _, name := range t.commands {
			if n := calls[name]; n > 0 {
				seen = append(seen, fmt.Sprintf("%s %d×", strings.ToUpper(strings.ReplaceAll(name, "|", " ")), n))
			}
		}
		if len(seen) > 0 {
			out = append(out, warn(t.do, "in use: %s: %s", strings.Join(slices.Compact(seen), ", "), t.words))
		}
	}
	if len(out) == 0 {
		return one(pass("%s: none of %d commands in use needs attention", in.from, len(calls)))
	}
	return out
}
