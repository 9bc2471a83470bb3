package main

import "github.com/crossfade/crossfade/admin"

func rollbackVerb() *verb {
	return &verb{name: "rollback", short: "move the clients back to the source", run: switchWith("rollback", (*admin.Client).Rollback), long: `
The same as a cutover with the sides exchanged: what clients wrote to the target
is on the source by then, so nothing is lost on the way back either.
` + waysToSwitch + `
A rollback does not look at cutover.postpone_file.`}
}
