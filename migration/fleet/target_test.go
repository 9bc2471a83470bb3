package fleet_test

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	m.Run()
}

func TestTarget(t *testing.T) {
	contract(t, func(t *testing.T) (fleet.Store, func()) {
		s := redistest.Start(t)
		c := s.Client(0)
		return fleet.Target{Client: func() *redis.Client { return c }}, func() {
			if err := c.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestTargetStrangers: what another version has written is a member that cannot be switched with.
func TestTargetStrangers(t *testing.T) {
	s := redistest.Start(t)
	c := s.Client(0)
	st := fleet.Target{Client: func() *redis.Client { return c }}
	if err := c.HSet(t.Context(), fleet.MembersKey, "new", `["in other words"]`).Err(); err != nil {
		t.Fatal(err)
	}
	list, err := st.Members(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != "new" || list[0].Protocol != 0 {
		t.Errorf("members: %+v, %v", list, err)
	}
}
