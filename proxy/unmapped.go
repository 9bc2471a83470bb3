package proxy

import (
	"errors"
	"strings"

	"github.com/crossfade/crossfade/internal/lua"
	"github.com/crossfade/crossfade/router"
)

// Scripts and functions. What they name inside no map reaches: one that goes to another
// database on the target would write where others' keys are, or where nothing is copied back
// from. So those that seem to are kept off the target, unless all that it has is mapped.

const (
	namesDatabase = "ERR Crossfade: this script names databases by number, which cannot be mapped; it is refused since the switch"
	unreadDump    = "ERR Crossfade: this dump of functions cannot be looked into for databases by number, which cannot be mapped; it is refused since the switch: load the libraries one by one"
)

// againstScript says why a command about scripts or functions must not go where a route
// leads; "" is that it may.
func (s *Server) againstScript(route router.Route, sp *spec, args [][]byte) string {
	if route.Map.IsWhole() || len(args) < 2 {
		return ""
	}
	switch sp.verb {
	case vEval: // the same ones all the time, as a rule
		if names, known := s.scripts.namesDatabase(digestOf(args[1])); known {
			return against(names)
		}
		return againstText(args[1])
	case vEvalSHA:
		names, _ := s.scripts.namesDatabase(strings.ToLower(string(args[1])))
		return against(names)
	case vScript:
		if len(args) > 2 && is(args[1], "load") {
			return againstText(args[len(args)-1])
		}
	case vFunction:
		return againstFunction(args)
	}
	return ""
}

func againstText(text []byte) string { return against(lua.NamesDatabase(text)) }

func against(names bool) string {
	if names {
		return namesDatabase
	}
	return ""
}

// againstFunction is againstScript of FUNCTION. Libraries that come as a dump are looked into.
func againstFunction(args [][]byte) string {
	switch {
	case len(args) < 3: // the server's own error
	case is(args[1], "load"):
		return againstText(args[len(args)-1])
	case is(args[1], "restore"):
		texts, err := lua.Libraries(args[2])
		for _, text := range texts {
			if lua.NamesDatabase(text) {
				return namesDatabase
			}
		}
		if err != nil && !errors.Is(err, lua.ErrShort) {
			return unreadDump
		}
	}
	return ""
}
