package main

import (
	"fmt"

	"github.com/crossfade/crossfade/migration"
)

// nodeLines are those of a cluster: a line for each master, with its replicas.
func nodeLines(nodes []migration.NodeStatus) []string {
	var lines []string
	for _, n := range nodes {
		if n.Master != "" {
			continue
		}
		text := fmt.Sprintf("%s with %s", n.Address, plural(n.Slots, "slot"))
		if n.Failed {
			text += ", failed"
		}
		replicas := ""
		for _, r := range nodes {
			if r.Master != n.Address {
				continue
			}
			replicas += " " + r.Address
			if r.Failed {
				replicas += " (failed)"
			}
		}
		if replicas == "" {
			replicas = " none"
		}
		lines = append(lines, text+", replicas:"+replicas)
	}
	return lines
}
