// Package router decides which server, which database and when a command may go there.
// It owns Side, Route, DBMap and Gate, all plain values and one counter.
// It never does I/O and imports no other package of this project.
package router

import "fmt"

// Side names one of the two servers of a migration. The zero value is Source:
// a sidecar that knows nothing else is a transparent proxy before the source.
type Side uint8

// The two sides.
const (
	Source Side = iota
	Target
)

// Other returns the opposite side.
func (s Side) Other() Side {
	if s == Source {
		return Target
	}
	return Source
}

// String returns "source" or "target".
func (s Side) String() string {
	if s == Target {
		return "target"
	}
	return "source"
}

// MarshalText implements encoding.TextMarshaler.
func (s Side) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Side) UnmarshalText(b []byte) error {
	switch string(b) {
	case "source":
		*s = Source
	case "target":
		*s = Target
	default:
		return fmt.Errorf("reading a side: %q is neither source nor target", b)
	}
	return nil
}

// Route is where a command goes: a value, so a command keeps the one it
// entered the gate with. Epoch rises by one at every switch, there or back.
type Route struct {
	Side  Side
	Epoch uint64
	Map   DBMap
}

// DB returns the database number on the route's side for a database number as
// the client knows it (always a number of the source). The second result is
// false when the target has no place for it; the command must then be refused.
func (r Route) DB(client int) (int, bool) {
	if r.Side == Source {
		return client, true
	}
	return r.Map.Target(client)
}

// Place returns where a client's database is on the route's side, as DB does, with the
// prefix that the names of its keys have there.
func (r Route) Place(client int) (Place, bool) {
	if r.Side == Source {
		return Place{DB: client}, true
	}
	return r.Map.Place(client)
}

// Rewrites reports whether database numbers in commands differ from what the
// client wrote, or may be refused, on this route.
func (r Route) Rewrites() bool { return r.Side == Target }
