package acl

import (
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestVersions copies users between every two servers of CROSSFADE_SERVERS and the
// installed one: what is copied is there, and nothing is left to do the next time.
func TestVersions(t *testing.T) {
	programs, err := redistest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	programs = append(programs, redistest.Program{Name: "installed"})
	users := [][]any{ // what the source knows of it
		{"plain", "on", ">pw", "~a:*", "-@all", "+@read", "-keys", "+config|get", "+select|0"},
		{"most", "on", ">pw", "~*", "+@all", "-@dangerous"},
		{"all", "on", "nopass", "~*", "+@all"},
		{"writes", "on", ">pw", "~*", "-@all", "+@write", "+@connection", "+@transaction", "+@scripting"},
		{"listens", "on", ">pw", "resetchannels", "&news:*", "-@all", "+@pubsub"},
		{"halves", "on", ">pw", "%R~a", "%W~b", "-@all", "+@read", "+@write"},
		{"chooses", "on", ">pw", "-@all", "+get", "~a", "(~b +set)"},
		{"one", "on", ">pw", "~*", "resetdbs", "db=1,2", "+@read"},
		{"noconfig", "on", ">pw", "~*", "+@all", "-config|set"},
	}
	for _, a := range programs {
		for _, b := range programs {
			t.Run(a.Name+" to "+b.Name, func(t *testing.T) {
				start := func(p redistest.Program) *redistest.Server {
					if p.Path == "" {
						return redistest.Start(t)
					}
					return redistest.Start(t, redistest.WithBinary(p.Path))
				}
				from, to := start(a).Client(0), start(b).Client(0)
				n := 0
				for _, u := range users {
					if from.Do(t.Context(), append([]any{"ACL", "SETUSER"}, u...)...).Err() == nil {
						n++
					}
				}
				p := planOf(t, from, to, Options{Weaker: true})
				if a == b && p.Count(Create) != n || p.Count(Create)+p.Count(Refuse) != n || p.Count(Create) < 4 {
					t.Errorf("%d users, the plan: %s", n, p.Text(100))
				}
				apply(t, to, p)
				again := planOf(t, from, to, Options{Weaker: true})
				if again.Count(Keep) != p.Count(Create) || again.Count(Create)+again.Count(Change) != 0 {
					t.Errorf("again: %s", again.Text(100))
				}
				// And back: what went there unchanged is level here.
				if a == b {
					back := planOf(t, to, from, Options{Weaker: true})
					if back.Count(Keep) != n {
						t.Errorf("back: %s", back.Text(100))
					}
				}
			})
		}
	}
}
