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
	remapped bool // only when database numbers change
	words    string
	do       string
}

func topics() []topic {
	return []topic{
		{[]string{"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"}, true,
			"scripts that call SELECT cannot be mapped to other database numbers",
			"Look through the scripts for SELECT; without it there is nothing to do."},
		{[]string{"flushall", "flushdb", "swapdb"}, false,
			"no notification reports them",
			"Through the proxy they are carried over. Nobody may run them past the proxy."},
		{[]string{"move"}, true,
			"with other database numbers it is mapped only when it goes through the proxy",
			"Send it through the proxy."},
		{[]string{"xreadgroup", "xack", "xclaim", "xautoclaim", "xackdel", "pfcount", "vadd", "vrem", "vsetattr"}, false,
			"no notification reports what they change: it is seen at once only when they go through the proxy",
			"Point these clients at the proxy; otherwise everything is scanned again each time that it is noticed."},
		{[]string{"function|load", "function|delete", "function|flush", "function|restore"}, false,
			"no notification reports changes of functions",
			"Change functions through the proxy only."},
		{[]string{"monitor"}, false, "somebody watches all commands; such connections are closed at the switch", "Connect again afterwards."},
		{[]string{"sync", "psync"}, false, "a replica or a replicating tool is, or was, connected; it does not move by itself", "Give the other server replicas of its own before the switch."},
		{[]string{"client|tracking", "client|caching"}, false, "clients cache values; after the switch their caches are emptied once", "Nothing has to be done."},
		{[]string{"wait", "waitaof"}, false, "clients wait for replicas of this server", "Give the other server as many replicas before the switch."},
		{[]string{"cluster", "cluster|slots", "cluster|shards", "cluster|nodes", "readonly", "asking"}, false, "clients try to speak to a cluster", "Set these clients to standalone mode."},
		{[]string{"debug", "debug|jmap", "debug|set-active-expire"}, false, "DEBUG can change values without a notification", "Do not use it during the migration."},
		{[]string{"migrate", "restore-asking"}, false, "keys are moved away to other servers by MIGRATE", "Stop that during the migration."},
		{[]string{"failover", "replicaof", "slaveof"}, false, "the replication was changed since the start of the server", "Leave it as it is during the migration."},
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
		if t.remapped && in.Map.IsIdentity() {
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
