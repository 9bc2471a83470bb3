package migration

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/acl"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// userConfig names two servers.
func userConfig(source, target *redistest.Server) config.Config {
	c := config.Default()
	c.Source.URL, c.Target.URL = config.Secret(source.URL(0)[:len(source.URL(0))-2]), config.Secret(target.URL(0)[:len(target.URL(0))-2])
	return c
}

// wantRefused fails unless err is a refusal that says so.
func wantRefused(t *testing.T, err error, text string) {
	t.Helper()
	var no *Refused
	if !errors.As(err, &no) || !strings.Contains(err.Error(), text) {
		t.Errorf("no refusal with %q: %v", text, err)
	}
}

// A server that is fenced has the fence's rules: they are nobody's to copy, nor to write over.
func TestUsersOfFencedServers(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL(allKinds...))
	target := redistest.Start(t, redistest.WithACL(ownACL, "app on >pw ~* +@all"))
	cfg := userConfig(source, target)
	there := userConfig(target, source)
	cfg.Source.Username, cfg.Source.Password = OwnUser, ownPassword
	there.Target.Username, there.Target.Password = OwnUser, ownPassword
	ctx := t.Context()
	if r, err := PlanUsers(ctx, cfg, acl.Options{}); err != nil || r.Count(acl.Refuse) > 0 {
		t.Fatal(err, r.Text(80))
	}
	f, st := raised(t, source, FenceACL)
	_, err := PlanUsers(ctx, cfg, acl.Options{})
	wantRefused(t, err, "the source")
	_, err = ApplyUsers(ctx, cfg, acl.Options{}, false)
	wantRefused(t, err, "is fenced")
	before := aclList(t, f.db())
	_, err = ApplyUsers(ctx, there, acl.Options{}, false)
	wantRefused(t, err, "to write users there would open it")
	if !slices.Equal(before, aclList(t, f.db())) {
		t.Error("the fence was written over")
	}
	if err := f.letListen(ctx, st, true); err != nil {
		t.Fatal(err)
	}
	_, err = PlanUsers(ctx, cfg, acl.Options{})
	wantRefused(t, err, "is fenced")
	if err := f.lower(ctx, st); err != nil {
		t.Fatal(err)
	}
	if r, err := ApplyUsers(ctx, cfg, acl.Options{Prune: true}, false); err != nil || r.Count(acl.Refuse) > 0 || r.Kept != acl.Nowhere {
		t.Error(err, r.Text(80))
	}
	if r, err := PlanUsers(ctx, cfg, acl.Options{}); err != nil || r.Count(acl.Create)+r.Count(acl.Change) > 0 {
		t.Error(err, r.Text(80))
	}
}

// What a check has left that was killed is no fence, on either side, and is not copied.
func TestUsersBesideAKilledCheck(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithACL("app on >pw ~* +@all")), redistest.Start(t)
	leaveProbe(t, source)
	r, err := ApplyUsers(t.Context(), userConfig(source, target), acl.Options{}, false)
	if err != nil || r.Count(acl.Create) != 1 {
		t.Fatal(err, r.Text(80))
	}
	if got := strings.Join(aclList(t, target.Client(0)), "\n"); strings.Contains(got, preflight.ProbeUsers) || !strings.Contains(got, "user app ") {
		t.Errorf("the target has:\n%s", got)
	}
	leaveProbe(t, target)
	if r, err := ApplyUsers(t.Context(), userConfig(source, target), acl.Options{Prune: true}, false); err != nil || r.Count(acl.Create) > 0 {
		t.Error(err, r.Text(80))
	}
	if got := strings.Join(aclList(t, target.Client(0)), "\n"); strings.Contains(got, preflight.ProbeUsers) {
		t.Errorf("it is not pruned:\n%s", got)
	}
}

// While a switch is under way users stay as they are, and when one begins in the middle.
func TestUsersInASwitch(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithACL("app on >pw ~* +@all")), redistest.Start(t)
	cfg := userConfig(source, target)
	ctx := t.Context()
	put := func(s *redistest.Server, key string, seq uint64, phase Phase) {
		t.Helper()
		e, err := Record{ID: "m", Token: 1, Seq: seq, Phase: phase}.entry()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(e)
		if err == nil {
			err = s.Client(0).Set(ctx, key, text, 0).Err()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		server  *redistest.Server
		key     string
		phase   Phase
		refused bool
	}{
		{target, store.RecordKey, Tailing, false},
		{target, store.RecordKey, Prepared, true},
		{target, store.RecordKey, Tailing, false},
		{source, store.JournalKey, Committing, true},
		{target, store.RecordKey, Committed, true},
		{target, store.RecordKey, ReverseTailing, false}, // newer than the journal
		{source, store.RecordKey, HardFenced, true},
		{source, store.RecordKey, RolledBack, false},
	} {
		put(c.server, c.key, uint64(i+1), c.phase)
		_, err := PlanUsers(ctx, cfg, acl.Options{})
		if c.refused {
			wantRefused(t, err, string(c.phase))
		} else if err != nil {
			t.Errorf("%s: %v", c.phase, err)
		}
	}
	u, err := openUsers(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	p, err := u.plan(ctx, acl.Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(target, store.RecordKey, 20, Prepared)
	err = acl.Writer{Client: u.to.DB(0), Watch: []string{store.RecordKey, store.FenceKey}, May: u.may}.Apply(ctx, p)
	wantRefused(t, err, "under way")
	if users := target.Client(0).Do(ctx, "ACL", "USERS").Val(); len(users.([]any)) != 1 {
		t.Errorf("users were written: %v", users)
	}
	if err := target.Client(0).Set(ctx, store.RecordKey, "something", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := PlanUsers(ctx, cfg, acl.Options{}); err == nil || !strings.Contains(err.Error(), store.RecordKey) {
		t.Errorf("a key that is not ours: %v", err)
	}
}

// The map of the configuration is heeded, servers without ACL are named, and replicas.
func TestUsersOfConfigurations(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithACL("app on >pw ~a:* +@all")), redistest.Start(t)
	cfg := userConfig(source, target)
	ctx := t.Context()
	cfg.Databases = map[int]config.Place{0: {DB: 0, Prefix: "c0:"}, 3: {DB: 0, Prefix: "c3:"}}
	if r, err := ApplyUsers(ctx, cfg, acl.Options{}, false); err != nil || !strings.Contains(strings.Join(aclList(t, target.Client(0)), " "), "~c0:a:* ~c3:a:*") {
		t.Error(err, r.Text(80))
	}
	cfg.Databases = map[int]config.Place{0: {DB: 0}, 3: {DB: 0}}
	if _, err := PlanUsers(ctx, cfg, acl.Options{}); err == nil {
		t.Error("a map that overwrites")
	}
	old := redistest.Start(t, redistest.WithRenamed("ACL", ""))
	for side, c := range map[router.Side]config.Config{router.Source: userConfig(old, target), router.Target: userConfig(source, old)} {
		_, err := PlanUsers(ctx, c, acl.Options{})
		if !errors.Is(err, acl.ErrNoACL) || !strings.Contains(err.Error(), "the "+side.String()+" ") || !strings.Contains(err.Error(), old.Addr()) {
			t.Errorf("%s without ACL: %v", side, err)
		}
	}
	replica := redistest.Start(t)
	if err := replica.Client(0).Do(ctx, "REPLICAOF", "127.0.0.1", target.Port()).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, testTimeout, func() bool {
		r, err := PlanUsers(ctx, userConfig(source, target), acl.Options{})
		return err == nil && strings.Contains(r.Text(200), "connected replicas: 1")
	}, "the replica is told of")
	if r, err := ApplyUsers(ctx, userConfig(source, replica), acl.Options{}, false); err != nil || r.Count(acl.Create) != 1 {
		t.Errorf("to the replica: %v\n%s", err, r.Text(80))
	}
}
