package fleet_test

import (
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/etcdtest"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/fleet/etcd"
)

func TestEtcd(t *testing.T) {
	server := etcdtest.Start(t, nil)
	contract(t, func(t *testing.T) (fleet.Store, func()) {
		link := redistest.NewLink(t, server.Addr())
		id := func() string { return t.Name() }
		st := etcd.New(config.Meeting{Addresses: []string{link.Addr()}, Prefix: "contract/"}, id, 5*time.Second)
		t.Cleanup(func() { _ = st.Close() })
		return st, func() {
			link.Refuse(true)
			link.Cut()
		}
	})
}
