package main

import (
	"fmt"
	"strings"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/router"
)

// mostMembers are shown one a line; of more, only those that are not as they should be.
const mostMembers = 12

// memberLines say what other sidecars do.
func memberLines(members []migration.MemberStatus, side router.Side) []string {
	if len(members) == 0 {
		return nil
	}
	alive := 0
	var lines []string
	for _, m := range members {
		if m.Alive {
			alive++
		}
		odd := !m.Alive || m.State != fleet.Open || m.Side != side
		if odd || len(members) <= mostMembers {
			lines = append(lines, memberLine(m))
		}
	}
	return append([]string{fmt.Sprintf("%d of %s that only proxy are alive", alive, plural(len(members), "sidecar"))}, lines...)
}

func memberLine(m migration.MemberStatus) string {
	text := fmt.Sprintf("%s (%s): %s on the %s, %d in flight, %d commands", m.Name, m.Version, m.State, m.Side, m.InFlight, m.Commands)
	if !m.Alive {
		text += fmt.Sprintf("; SILENT for %.0f s", m.AgeMS/1000)
	}
	return text
}

// fleetLine says how other sidecars took part in a switch.
func fleetLine(f *migration.FleetReport) string {
	text := fmt.Sprintf("%d of %s held their clients", f.Held, plural(f.Members, "other sidecar"))
	if len(f.Missing) > 0 {
		text += "; refused by the fence until they knew: " + strings.Join(f.Missing, ", ")
	}
	return text
}
