package migration

import (
	"cmp"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// identityOf returns how we log in to s with the operator's credentials.
func identityOf(t *testing.T, s *redistest.Server, user, password string) *identity {
	t.Helper()
	id := newIdentity(router.Source, endpointOf(s, user, password), "test", testTimeout)
	t.Cleanup(func() { _ = id.Pool().Close() })
	return id
}

func whoAmI(t *testing.T, id *identity) string {
	t.Helper()
	name, _ := do(t, id.Pool().DB(0), "ACL", "WHOAMI").(string)
	return name
}

func TestIdentityBecomesOurUser(t *testing.T) {
	for _, operator := range [][2]string{{"", ""}, {"", "default-pw"}, {"admin", "admin-pw"}} {
		t.Run(operator[0]+operator[1], func(t *testing.T) {
			opts := []redistest.Option{redistest.WithACL("admin on >admin-pw ~* &* +@all")}
			if operator[0] == "" && operator[1] != "" {
				opts = append(opts, redistest.WithPassword(operator[1]))
			}
			s := redistest.Start(t, opts...)
			id := identityOf(t, s, operator[0], operator[1])
			if id.isOwn() || id.user() != operator[0] {
				t.Errorf("before: own %v, spared %q", id.isOwn(), id.user())
			}
			if err := id.become(t.Context(), ownPassword); err != nil {
				t.Fatal(err)
			}
			if !id.isOwn() || id.user() != OwnUser || whoAmI(t, id) != OwnUser {
				t.Errorf("own %v, spared %q, logged in as %q", id.isOwn(), id.user(), whoAmI(t, id))
			}
			pool := id.Pool()
			do(t, pool.DB(3), "SET", "k", "v") // in every database, whatever it is
			if err := id.become(t.Context(), ownPassword); err != nil || id.Pool() != pool {
				t.Errorf("becoming it twice: %v, another pool: %v", err, id.Pool() != pool)
			}
			if err := id.leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			if id.isOwn() || whoAmI(t, id) != cmp.Or(operator[0], "default") {
				t.Errorf("after leaving: own %v, logged in as %q", id.isOwn(), whoAmI(t, id))
			}
			for _, line := range aclList(t, id.Pool().DB(0)) {
				if strings.HasPrefix(line, "user "+OwnUser+" ") {
					t.Errorf("our user is left: %s", line)
				}
			}
			if err := id.leave(t.Context()); err != nil {
				t.Errorf("leaving twice: %v", err)
			}
		})
	}
}

// A second sidecar of the same migration finds the user and logs in: it must not
// make it anew, which would close the first one's connections.
func TestIdentityFindsOurUser(t *testing.T) {
	s := redistest.Start(t)
	first, second := identityOf(t, s, "", ""), identityOf(t, s, "", "")
	if err := first.become(t.Context(), ownPassword); err != nil {
		t.Fatal(err)
	}
	before := aclList(t, s.Client(0))
	cn := first.Pool().DB(0).Conn()
	t.Cleanup(func() { _ = cn.Close() })
	if err := cn.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := second.become(t.Context(), ownPassword); err != nil || !second.isOwn() {
		t.Errorf("the second: %v, own %v", err, second.isOwn())
	}
	if after := aclList(t, s.Client(0)); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("the users changed:\n%s\n%s", before, after)
	}
	if err := cn.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the first one's connection: %v", err)
	}
}

// The state file was lost, and with it the password: ours is made anew.
func TestIdentityWithANewPassword(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	id := identityOf(t, s, "", "")
	if err := id.become(t.Context(), "another"); err != nil {
		t.Fatal(err)
	}
	if whoAmI(t, id) != OwnUser {
		t.Errorf("logged in as %q", whoAmI(t, id))
	}
	old := poolOf(t, s, OwnUser, ownPassword)
	wantRefusal(t, "the old password", old.DB(0).Ping(t.Context()).Err(), "WRONGPASS")
}

// ACL users live in the server's memory.
func TestIdentityAfterARestartThatForgotIt(t *testing.T) {
	s := redistest.Start(t)
	id := identityOf(t, s, "", "")
	if err := id.become(t.Context(), ownPassword); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	var ping error
	redistest.Eventually(t, testTimeout, func() bool {
		ping = id.Pool().DB(0).Ping(t.Context()).Err()
		return loginRefused(ping)
	}, "the server says that it does not know our user")
	if err := id.become(t.Context(), ownPassword); err != nil {
		t.Fatal(err)
	}
	if whoAmI(t, id) != OwnUser {
		t.Errorf("logged in as %q", whoAmI(t, id))
	}
}

// Who sets another password closes no connection: that ours answer does not say that the
// next one can log in.
func TestIdentityWhosePasswordSomebodyHasSet(t *testing.T) {
	s := redistest.Start(t)
	id := identityOf(t, s, "", "")
	if err := id.become(t.Context(), ownPassword); err != nil {
		t.Fatal(err)
	}
	if err := s.Client(0).Do(t.Context(), "ACL", "SETUSER", OwnUser, "resetpass", ">another").Err(); err != nil {
		t.Fatal(err)
	}
	if err := id.Pool().DB(0).Ping(t.Context()).Err(); err != nil {
		t.Fatalf("the connection that is there: %v", err)
	}
	wantRefusal(t, "a new connection", id.Pool().DB(1).Ping(t.Context()).Err(), "WRONGPASS")
	if err := id.become(t.Context(), ownPassword); err != nil {
		t.Fatal(err)
	}
	if err := id.Pool().DB(1).Ping(t.Context()).Err(); err != nil {
		t.Errorf("a new connection, once our user is made again: %v", err)
	}
}

// Where users may not be made, the operator's credentials stay in use and the
// reason is told; it is no error.
func TestIdentityWhereACLIsForbidden(t *testing.T) {
	for name, tt := range map[string]struct {
		opt            redistest.Option
		user, password string
	}{
		"no permission":  {redistest.WithACL("op on >pw ~* &* +@all -acl"), "op", "pw"},
		"no admin":       {redistest.WithACL("op on >pw ~* &* +@all -@dangerous +info"), "op", "pw"},
		"taken away":     {redistest.WithRenamed("ACL", ""), "", ""},
		"renamed":        {redistest.WithRenamed("ACL", "HIDDEN"), "", ""},
		"not setuser":    {redistest.WithACL("op on >pw ~* &* +@all -acl|setuser"), "op", "pw"},
		"default denied": {redistest.WithACL("default on nopass ~* &* +@all -acl"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t, tt.opt)
			id := identityOf(t, s, tt.user, tt.password)
			for range 2 {
				if err := id.become(t.Context(), ownPassword); err != nil {
					t.Fatalf("become: %v", err)
				}
				if id.isOwn() || id.user() != tt.user {
					t.Errorf("own %v, spared %q", id.isOwn(), id.user())
				}
				if !strings.Contains(id.reason, `user "crossfade" cannot be created`) || !strings.Contains(id.reason, s.Addr()) || strings.Contains(id.reason, ownPassword) {
					t.Errorf("the reason: %q", id.reason)
				}
				do(t, id.Pool().DB(0), "SET", "k", "v") // the operator's credentials work
			}
		})
	}
}

// Wrong credentials of the operator's are no reason to go on without a user:
// nothing would work. A server that does not answer is an error to repeat.
func TestIdentityErrors(t *testing.T) {
	s := redistest.Start(t)
	id := identityOf(t, s, "", "")
	s.Kill()
	err := id.become(t.Context(), ownPassword)
	if err == nil || !strings.Contains(err.Error(), s.Addr()) || strings.Contains(err.Error(), ownPassword) || id.isOwn() {
		t.Errorf("without a server: %v, own %v", err, id.isOwn())
	}
	if id.reason != "" {
		t.Errorf("taken for a refusal: %q", id.reason)
	}
}

func TestUserThatTheFenceSpares(t *testing.T) {
	for name, want := range map[string]string{"": "", "default": "", "op": "op"} {
		e := endpointOf(&redistest.Server{}, name, "")
		id := newIdentity(router.Source, e, "x", testTimeout)
		if got := id.user(); got != want {
			t.Errorf("logged in as %q the fence spares %q, want %q", name, got, want)
		}
		_ = id.Pool().Close()
	}
}

// A copy that goes on needs new connections: the guard's round finds that they are refused.
func TestTheGuardLogsInAgain(t *testing.T) {
	servers := [2]*redistest.Server{redistest.Start(t), redistest.Start(t)}
	m := quietMigration(t, endpointOf(servers[0], "", ""), endpointOf(servers[1], "", ""), nil)
	if err := m.login(t.Context(), router.Source, router.Target); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if err := s.Client(0).Do(t.Context(), "ACL", "SETUSER", OwnUser, "resetpass", ">another").Err(); err != nil {
			t.Fatal(err)
		}
	}
	m.loginWhereForgotten(t.Context())
	for _, id := range m.ids {
		if err := id.Pool().DB(1).Ping(t.Context()).Err(); err != nil {
			t.Errorf("a new connection to the %s: %v", id.side, err)
		}
	}
}
