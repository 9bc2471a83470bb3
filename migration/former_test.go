package migration

import (
	"slices"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestRecordMeetsMasters: what was changed on a server stays with its address, and is
// found again when it is the master once more.
func TestRecordMeetsMasters(t *testing.T) {
	events := "KEA"
	r := Record{}
	r.Servers[router.Source] = Kept{Notify: &events, User: true}
	at := func(side router.Side) string { return r.Servers[side].At }
	r.meet(router.Source, "a:1")
	if k := r.Servers[router.Source]; at(router.Source) != "a:1" || !k.User || k.Notify == nil || len(r.Former) != 0 {
		t.Fatalf("the first master: %+v, %+v", k, r.Former)
	}
	r.Servers[router.Source].Fence = &FenceState{Level: FenceACL, Raised: true}
	r.meet(router.Source, "a:1")
	r.meet(router.Source, "b:1")
	if k := r.Servers[router.Source]; at(router.Source) != "b:1" || k.changed() {
		t.Errorf("the second master: %+v", k)
	}
	if len(r.Former) != 1 || r.Former[0].Address != "a:1" || r.Former[0].Kept.Fence == nil || r.fencedBefore(router.Source) != FenceACL {
		t.Errorf("the first one afterwards: %+v", r.Former)
	}
	if r.fencedBefore(router.Target) != "" {
		t.Error("the other side counts as fenced")
	}
	r.meet(router.Source, "c:1") // of the second one there is nothing to put back
	if len(r.Former) != 1 {
		t.Errorf("former masters: %+v", r.Former)
	}
	r.Servers[router.Source].User = true
	r.meet(router.Source, "a:1")
	if k := r.Servers[router.Source]; !k.User || k.Fence == nil || k.Notify == nil {
		t.Errorf("the first one, again the master: %+v", k)
	}
	if len(r.Former) != 1 || r.Former[0].Address != "c:1" {
		t.Errorf("former masters: %+v", r.Former)
	}
}

// TestSentinelUserIsSpared: the user of sentinels is not fenced, one that can do more is.
func TestSentinelUserIsSpared(t *testing.T) {
	const rights = " on >pw allchannels -@all +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname +client|kill +script|kill"
	s := redistest.Start(t, redistest.WithACL(ownACL, "sentinel"+rights, "more"+rights+" +set", "keys"+rights+" (~* +@write)"))
	f := fence{pool: poolOf(t, s, OwnUser, ownPassword), own: OwnUser}
	users, err := f.users(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, u := range users {
		names = append(names, u.Name)
	}
	slices.Sort(names)
	if want := []string{"default", "keys", "more"}; !slices.Equal(names, want) {
		t.Errorf("%v would be fenced, want %v", names, want)
	}
}

// A server that nothing proves to be ours, and that takes no writes as ours did not, is not
// given up.
func TestAClosedServerIsNotForgotten(t *testing.T) {
	m, _, _ := leftBehind(t)
	closed := redistest.Start(t)
	do(t, closed.Client(0), "CONFIG", "SET", "min-replicas-to-write", maxInt32)
	m.rec.keep(router.Source, closed.Addr(), "", func(k *Kept) {
		k.Fence = &FenceState{Level: FenceReplicas, Raised: true, MinReplicas: "0", MaxLag: "10"}
	})
	for _, kept := range []bool{true, false} {
		if _, err := m.sweep(t.Context(), func(Former) bool { return true }); (err != nil) != kept {
			t.Errorf("putting it back: %v", err)
		}
		if _, is := m.record().kept(router.Source, closed.Addr()); is != kept {
			t.Errorf("it is known: %v", is)
		}
		do(t, closed.Client(0), "CONFIG", "SET", "min-replicas-to-write", "0")
	}
}
