package migration

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
)

// A fence that stands is never taken for what was there before it: who knows its mark knows
// what that was, and who does not raises none.
func TestFenceKnowsItsOwn(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(allKinds...))
	f := fence{pool: poolOf(t, s, OwnUser, ownPassword), own: OwnUser, migration: "test"}
	before := aclList(t, f.db())
	st, err := f.save(t.Context(), FenceACL)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.arm(t.Context(), testToken); err != nil {
		t.Fatal(err)
	}
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	if id, _, _ := strings.Cut(st.Mark, "."); id != "test" {
		t.Errorf("its mark is %q", st.Mark)
	}
	if _, err := f.save(t.Context(), FenceACL); err == nil || !strings.Contains(err.Error(), st.Mark) {
		t.Errorf("to who knows nothing of the fence it is what is to be put back: %v", err)
	}
	one := Record{Former: []Former{{Address: "other:1", Kept: Kept{Fence: st}}}}
	two := f
	two.known = one.knownFence
	again, err := two.save(t.Context(), FenceACL)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(st.Users, again.Users); diff != "" {
		t.Errorf("what is to be put back has changed:\n%s", diff)
	}
	if again.Mark == st.Mark {
		t.Error("two fences have the same mark")
	}
	// An operator who lets one user in has not changed what it was.
	do(t, f.db(), "ACL", "SETUSER", "everything", "+@all")
	three := f
	three.before = st
	third, err := three.save(t.Context(), FenceACL)
	if err != nil || !slices.EqualFunc(third.Users, st.Users, func(a, b ACLUser) bool { return cmp.Equal(a, b) }) || third.Mark != st.Mark {
		t.Errorf("by what is known of this server: %v, %+v", err, third)
	}
	if err := f.raise(t.Context(), again, testToken); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context(), again); err != nil {
		t.Error(err)
	}
	if err := f.lower(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, aclList(t, f.db())); diff != "" {
		t.Errorf("the users differ afterwards (-before +after):\n%s", diff)
	}
}

// A fence of a former version has no mark. Only who has it in the record of this very server
// knows what was before it.
func TestFenceWithoutAMark(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := armed(t, s, FenceACL)
	st.Mark = ""
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	if _, err := f.save(t.Context(), FenceACL); err == nil {
		t.Error("it is what is to be put back")
	}
	f.before = st
	again, err := f.save(t.Context(), FenceACL)
	if err != nil || !cmp.Equal(again.Users, st.Users) {
		t.Errorf("%v, %+v", err, again)
	}
}

// A server that was left is restarted, with other rights for its users in its file: those are
// what lowering the fence, which the guard raises again, puts back.
func TestRightsOfARestartAreKept(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all", "app on >pw ~* &* +@all"))
	m := quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(redistest.Start(t), "", ""), nil)
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	f, st := raised(t, source, FenceACL)
	st.Raised = true
	m.rec.Phase, m.rec.Side, m.rec.Epoch, m.rec.Token, m.rec.Copied = ReverseTailing, router.Target, 1, testToken, true
	m.rec.Servers[router.Source].Fence = st
	do(t, f.db(), "ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all") // as from a file
	do(t, f.db(), "ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "&*", "+@read")
	before := aclList(t, f.db())
	m.guardFence(t.Context(), router.Source, st)
	if err := f.check(t.Context(), m.record().Servers[router.Source].Fence); err != nil {
		t.Fatalf("it was not raised again: %v", err)
	}
	if err := m.lowerFence(t.Context(), router.Source); err != nil {
		t.Fatal(err)
	}
	if after := aclList(t, f.db()); !slices.Equal(before, after) {
		t.Errorf("users\n%q\nhave become\n%q", before, after)
	}
}

// Who was removed behind the fence is not made again at the end, as a user that is off.
func TestWhoWasRemovedBehindTheFenceStaysSo(t *testing.T) {
	m, src, _ := leftBehind(t)
	admin := m.ids[router.Source].Pool().DB(0)
	do(t, admin, "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all")
	m.guardFence(t.Context(), router.Source, m.record().Servers[router.Source].Fence)
	do(t, admin, "ACL", "DELUSER", "app")
	if _, err := m.cleanUp(t.Context(), router.Source); err != nil {
		t.Fatal(err)
	}
	if list := aclList(t, src.Client(0)); len(list) != 1 || !strings.HasPrefix(list[0], "user default on ") {
		t.Errorf("the users are %q", list)
	}
}

// Users that were saved behind the fence come back with it when the server that the applications
// have entered again is restarted. What an administrator has taken away since stays away.
func TestFenceThatWasSaved(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all", "app on >pw ~* &* +@all"))
	m := quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(redistest.Start(t), "", ""), nil)
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	f, st := armed(t, source, FenceACL)
	before := aclList(t, f.db())
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	if !st.HasSelectors {
		t.Skip("this server has no selectors, so its users wear no marks")
	}
	st.Raised = true
	m.rec.Phase, m.rec.Side, m.rec.Epoch, m.rec.Token = RolledBack, router.Source, 2, testToken
	m.rec.Servers[router.Source].Fence = st
	restarted := func(run string) {
		t.Helper()
		if err := f.raise(t.Context(), st, testToken); err != nil { // as from the file
			t.Fatal(err)
		}
		m.seat.setRun(router.Source, run)
	}
	if err := m.openEntered(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, run := range []string{"first", "second"} {
		restarted(run)
		m.guard(t.Context())
		if after := aclList(t, f.db()); !slices.Equal(before, after) {
			t.Errorf("%s: users\n%q\nhave become\n%q", run, before, after)
		}
	}
	restarted("third")
	do(t, f.db(), "ACL", "SETUSER", "app", "reset", "on", ">pw", "+ping")
	if m.guard(t.Context()); m.record().Servers[router.Source].Fence != nil {
		t.Error("the record still has a fence")
	}
	if u, err := aclUser(t.Context(), f.db(), "app"); err != nil || u.Commands != "-@all +ping" {
		t.Errorf("who may no more has got: %+v, %v", u, err)
	}
	if u, err := aclUser(t.Context(), f.db(), "default"); err != nil || u.Commands != "+@all" {
		t.Errorf("who wears the mark has: %+v, %v", u, err)
	}
}

// The same of the fence by min-replicas-to-write, which has no mark either.
func TestFenceReplicasKnowsItsOwn(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := raised(t, s, FenceReplicas)
	if _, err := f.save(t.Context(), FenceReplicas); err == nil {
		t.Error("it is what is to be put back")
	}
	f.before = st
	again, err := f.save(t.Context(), FenceReplicas)
	if err != nil || again.MinReplicas != "0" || again.MaxLag != st.MaxLag {
		t.Errorf("%v, %+v", err, again)
	}
	// What a failover has put in place of it knows no settings.
	again.keepRules(&FenceState{Level: FenceReplicas, Raised: true})
	if again.MinReplicas != "0" {
		t.Errorf("to be put back: %q", again.MinReplicas)
	}
}

// leaveProbe leaves on a server what a check leaves that is killed.
func leaveProbe(t *testing.T, s *redistest.Server) {
	t.Helper()
	rules := append([]any{"ACL", "SETUSER", preflight.ProbeUsers + "0123", "off"}, anys(append(slices.Concat(fencedRules, replicaRules), (&FenceState{}).selectors(ACLUser{})...))...)
	if err := s.Client(0).Do(t.Context(), rules...).Err(); err != nil {
		t.Skip("this server has no selectors: ", err)
	}
}

// A check that was killed leaves a user behind that has the rules of a fence. It is nobody's:
// a fence is raised and lowered beside it, and it goes with our own user.
func TestAKilledCheckLeavesNoFence(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all"))
	leaveProbe(t, s)
	f, st := raised(t, s, FenceACL)
	if err := f.check(t.Context(), st); err != nil {
		t.Errorf("the fence stands, but: %v", err)
	}
	if slices.ContainsFunc(st.Users, func(u ACLUser) bool { return strings.HasPrefix(u.Name, preflight.ProbeUsers) }) {
		t.Error("the probe is taken for a user of the applications")
	}
	if err := f.lower(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	m := quietMigration(t, endpointOf(s, "", ""), endpointOf(redistest.Start(t), "", ""), nil)
	if err := m.ids[router.Source].leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, line := range aclList(t, s.Client(0)) {
		if strings.Contains(line, preflight.ProbeUsers) {
			t.Errorf("it is still there: %q", line)
		}
	}
}

// An attempt that died before it raised the fence: what an administrator has made of the users
// since is not undone by who lowers it.
func TestWhoIsNotFencedKeepsItsRights(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all", "app on >pw ~* &* +@all", "gone on >pw ~* &* +@all"))
	m := quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(redistest.Start(t), "", ""), nil)
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	f, st := armed(t, source, FenceACL)
	m.rec.Phase, m.rec.Token, m.rec.Copied = SoftFenced, testToken, true
	m.rec.Switch = &Switch{From: router.Source, To: router.Target, Token: testToken}
	m.rec.Servers[router.Source].Fence = st
	do(t, f.db(), "ACL", "SETUSER", "app", "-@all", "+get")
	do(t, f.db(), "ACL", "DELUSER", "gone")
	before := aclList(t, f.db())
	if err := m.undoSwitch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := aclList(t, f.db()); !slices.Equal(before, after) {
		t.Errorf("users\n%q\nhave become\n%q", before, after)
	}
}

// A fenced user to whom somebody has given rights by hand, while the sidecar was down, gets all
// that it had, and loses what a fence has left on it.
func TestWhoWasTouchedBehindTheFenceIsPutBack(t *testing.T) {
	for _, by := range []string{"+get", "+@all"} {
		source := redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all", "app on >pw ~* &* +@read +@write"))
		m := quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(redistest.Start(t), "", ""), nil)
		if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
			t.Fatal(err)
		}
		f, st := armed(t, source, FenceACL)
		if !st.HasSelectors {
			t.Skip("this server has no selectors, so its users wear no marks")
		}
		before := aclList(t, f.db())
		if err := f.raise(t.Context(), st, testToken); err != nil {
			t.Fatal(err)
		}
		st.Raised = true
		m.rec.Phase, m.rec.Token, m.rec.Copied = HardFenced, testToken, true
		m.rec.Switch = &Switch{From: router.Source, To: router.Target, Token: testToken}
		m.rec.Servers[router.Source].Fence = st
		do(t, f.db(), "ACL", "SETUSER", "app", by)
		if err := m.undoSwitch(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := aclList(t, f.db()); !slices.Equal(before, after) {
			t.Errorf("%s: users\n%q\nhave become\n%q", by, before, after)
		}
	}
}
