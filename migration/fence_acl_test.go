package migration

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// allKinds are users of every kind of rule that a fence takes and must give back.
var allKinds = []string{
	ownACL,
	"everything on >pw1 >pw2 ~* &* +@all",
	"nopass on nopass allkeys allchannels allcommands",
	"off off >pw ~* +@all",
	"categories on >pw ~app:* ~other:* resetchannels &news:* +@all -@dangerous -@admin +info",
	"reader on >pw %R~app:* %W~out:* %RW~both:* resetchannels +@read +@connection -keys",
	"subcommands on >pw ~* -@all +config|get +client|list +client|setname +acl|whoami +memory",
	"firstarg on >pw ~* -@all +select|0 +get",
	"mixed on >pw ~* +@all -config +config|get -debug",
	"nothing on >pw resetkeys resetchannels -@all",
	"sanitized on sanitize-payload >pw ~* +@all",
	"trusted on skip-sanitize-payload >pw ~* +@all",
	"selectors on >pw ~root:* resetchannels &root +get +set (~a:* resetchannels &ch:* +@all -@write) (%R~b:* %W~c:* -@all +get +set)",
	"onlyselector on >pw -@all (~* &* +@all)",
	"wide on >pw -@all (+@read ~*) (+publish &*) (+ping)",
	"hashed on #5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8 ~* +@all",
	"replica on >pw -@all +psync +replconf +ping",
}

// followers are those of them, and the one that is always there, as which a replica may
// log in. Nobody else may take all data because a fence is up.
var followers = []string{"default", "everything", "nopass", "off", "mixed", "sanitized", "trusted", "hashed"}

const testToken = 7

// armed returns a fence on s that is saved and armed, and what was saved.
func armed(t *testing.T, s *redistest.Server, level FenceLevel) (fence, *FenceState) {
	t.Helper()
	f := fence{pool: poolOf(t, s, OwnUser, ownPassword), own: OwnUser}
	st, err := f.save(t.Context(), level)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.arm(t.Context(), testToken); err != nil {
		t.Fatal(err)
	}
	return f, st
}

// raised is armed with the fence up.
func raised(t *testing.T, s *redistest.Server, level FenceLevel) (fence, *FenceState) {
	t.Helper()
	f, st := armed(t, s, level)
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	return f, st
}

// The rules of every user come back byte for byte, whatever the default for
// channels is, and also when lowering is repeated.
func TestFenceACLPutsEverythingBack(t *testing.T) {
	for _, channels := range []string{"resetchannels", "allchannels"} {
		t.Run(channels, func(t *testing.T) {
			s := redistest.Start(t, redistest.WithACL(allKinds...), redistest.WithConfig("acl-pubsub-default", channels))
			f, st := armed(t, s, FenceACL)
			before := aclList(t, f.db())
			if !st.HasSelectors {
				t.Error("the server's selectors are not seen")
			}
			for round := range 2 {
				if err := f.raise(t.Context(), st, testToken); err != nil {
					t.Fatal(err)
				}
				if err := f.check(t.Context(), st); err != nil {
					t.Errorf("the fence is up, but check says: %v", err)
				}
				wantFenced(t, aclList(t, f.db()))
				for range 2 { // a lost answer is asked for again
					if err := f.lower(t.Context(), st); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(before, aclList(t, f.db())); diff != "" {
						t.Errorf("round %d, the users differ (-before +after):\n%s", round, diff)
					}
				}
			}
			if err := f.check(t.Context(), st); !errors.Is(err, errFenceLost) {
				t.Errorf("the fence is down, but check says: %v", err)
			}
		})
	}
}

// wantFenced fails when a user in a list of ACL LIST can do more than it may
// under the fence. It reads the list on its own, not with the fence's eyes.
func wantFenced(t *testing.T, list []string) {
	t.Helper()
	for _, line := range list {
		name := strings.Fields(line)[1]
		if name == OwnUser || name == "replica" {
			continue
		}
		root, selectors, _ := strings.Cut(line, "(")
		// Some versions keep the order of rules, some make their own.
		_, rules, _ := strings.Cut(root, " -@all ")
		may := strings.Fields(rules)
		slices.Sort(may)
		want := []string{"+auth", "+client|setname", "+hello", "+ping", "+select"}
		if slices.Contains(followers, name) {
			want = []string{"+auth", "+client|setname", "+hello", "+ping", "+psync", "+replconf", "+select"}
		}
		if !slices.Equal(may, want) {
			t.Errorf("the fence lets a user do other things than %v: %s", want, line)
		}
		if !strings.HasPrefix(selectors, "%R~crossfade:*") || !strings.HasSuffix(selectors, "-@all +get)") || strings.Contains(selectors, "(") {
			t.Errorf("a selector of the fence is wrong: %s", line)
		}
	}
}

// A fence that a crash left up is lowered by who reads its state from the record.
func TestFenceStateSurvivesTheRecord(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(allKinds...))
	f, st := armed(t, s, FenceACL)
	before := aclList(t, f.db())
	st.Raised = true
	e, err := Record{ID: "x", Servers: [2]Kept{{Fence: st}}}.entry()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	r, err := decode(e)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(st, r.Servers[0].Fence); diff != "" {
		t.Errorf("the state changes in the record:\n%s", diff)
	}
	if err := f.lower(t.Context(), r.Servers[0].Fence); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, aclList(t, f.db())); diff != "" {
		t.Errorf("the users differ:\n%s", diff)
	}
}

// A pattern with quotes: ACL SETUSER reads selectors as redis-cli reads words.
func TestFenceACLPutsQuotesBack(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	admin := s.Client(0)
	do(t, admin, "ACL", "SETUSER", "quoted", "on", ">pw", `~a"b`, "+@all", `(~"c\"d" ~e\f ~"g'h" "~i\\x01" +get)`)
	f, st := armed(t, s, FenceACL)
	before := aclList(t, f.db())
	if list := strings.Join(before, "\n"); !strings.Contains(list, `(~c"d ~e\f ~g'h ~i`) {
		t.Fatalf("the server has not understood what is to be tried:\n%s", list)
	}
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	if err := f.lower(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, aclList(t, f.db())); diff != "" {
		t.Errorf("the users differ:\n%s", diff)
	}
}

// TestLoweringSparesNobodyButTheDenied: a user whose old rules the server does not know any more
// keeps none of the others from theirs, is named, and is tried again.
func TestLoweringSparesNobodyButTheDenied(t *testing.T) {
	for _, ends := range []bool{false, true} {
		s := redistest.Start(t, redistest.WithACL(allKinds...))
		f, st := armed(t, s, FenceACL)
		f.ends = ends
		before := aclList(t, f.db())
		gone := slices.IndexFunc(st.Users, func(u ACLUser) bool { return u.Name == "wide" })
		was := st.Users[gone].Commands
		st.Users[gone].Commands += " +module.command"
		if err := f.raise(t.Context(), st, testToken); err != nil {
			t.Fatal(err)
		}
		if !ends { // its end writes, and comes when nobody is paused
			if err := f.pause(t.Context(), f.db(), time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		left, err := lowered(f.lower(t.Context(), st))
		if err != nil || left == nil {
			t.Fatalf("lowered with %v, %v", left, err)
		}
		for _, text := range []string{`"wide"`, s.Addr(), "+module.command", "ACL SETUSER wide -@all"} {
			if !strings.Contains(left.Error(), text) {
				t.Errorf("it does not say %s: %v", text, left)
			}
		}
		if strings.Contains(left.Error(), ownPassword) || strings.Contains(left.Error(), "#") {
			t.Errorf("it tells a password: %v", left)
		}
		do(t, s.ClientAs("everything", "pw1", 0), "SET", "k", "v") // the pause has ended as well
		wantRefusal(t, "GET as one who is denied", s.ClientAs("wide", "pw", 0).Get(t.Context(), "k").Err(), "NOPERM")
		if len(left.state.Users) != 1 || left.state.Raised {
			t.Errorf("what is left: %+v", left.state)
		}
		left.state.Users[0].Commands = was
		if err := f.lower(t.Context(), left.state); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, aclList(t, f.db())); diff != "" {
			t.Errorf("the users differ (-before +after):\n%s", diff)
		}
	}
}

// TestDeniedUserOfTheApplicationsServer: the record remembers it and the status names it, whatever
// is tried meanwhile, until somebody has put it right.
func TestDeniedUserOfTheApplicationsServer(t *testing.T) {
	m, src, _ := leftBehind(t)
	admin := m.ids[router.Source].Pool().DB(0)
	do(t, admin, "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all")
	m.guardFence(t.Context(), router.Source, m.record().Servers[router.Source].Fence)
	st := m.rec.Servers[router.Source].Fence
	st.Users[slices.IndexFunc(st.Users, func(u ACLUser) bool { return u.Name == "app" })].Commands += " -module.command"
	m.rec.Side, m.rec.Phase = router.Source, RolledBack
	for range 2 {
		if err := m.openEntered(t.Context()); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(m.Status().Reasons, "\n"); !strings.Contains(text, `ACL user "app" stays denied every command on `) {
			t.Errorf("the status says: %s", text)
		}
	}
	do(t, src.Client(0), "SET", "k", "v")
	// Who asks for the end hears of it, and our user stays.
	if _, err := m.cleanUp(t.Context(), router.Source); err == nil || !strings.Contains(err.Error(), `"app"`) || !m.record().Servers[router.Source].User {
		t.Errorf("at the end: %v", err)
	}
	do(t, src.Client(0), "ACL", "SETUSER", "app", "+@all", "clearselectors")
	if _, err := m.cleanUp(t.Context(), router.Source); err != nil || m.record().Servers[router.Source].Fence != nil {
		t.Errorf("put right by hand: %v", err)
	}
	if text := strings.Join(m.Status().Reasons, "\n"); strings.Contains(text, `"app"`) {
		t.Errorf("the status says: %s", text)
	}
}

// TestFenceACLKeepsSubscribers: who has subscribed by the rights of a selector goes on
// hearing behind the fence, and may subscribe there when a switch leads back.
func TestFenceACLKeepsSubscribers(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL,
		"some on >pw resetchannels &root +@all (resetchannels &ch:a~b &ch:a* +@pubsub) (resetchannels &ch:a* +subscribe)",
		"every on >pw resetchannels -@all +subscribe (resetchannels &other +subscribe) (&* +@pubsub)"))
	f, st := armed(t, s, FenceACL)
	hear := func(user string) (*redis.PubSub, error) {
		c := s.ClientAs(user, "pw", 0)
		t.Cleanup(func() { _ = c.Close() })
		sub := c.Subscribe(t.Context(), "ch:a~b")
		t.Cleanup(func() { _ = sub.Close() })
		_, err := sub.Receive(t.Context())
		return sub, err
	}
	users := []string{"some", "every"}
	for _, user := range users {
		if _, err := hear(user); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	st.Raised = true
	hears := func(when string) {
		t.Helper()
		if err := f.check(t.Context(), st); err != nil {
			t.Errorf("%s: the fence is up, but check says: %v", when, err)
		}
		if n := f.db().Publish(t.Context(), "ch:a~b", "m").Val(); n != int64(len(users)) {
			t.Errorf("%s: %d clients are reached, not %d", when, n, len(users))
		}
	}
	hears("when the fence has gone up")
	for _, allow := range []bool{true, false} {
		if err := f.letListen(t.Context(), st, allow); err != nil {
			t.Fatal(err)
		}
		for _, user := range users {
			sub, err := hear(user)
			if may := err == nil; may != allow {
				t.Errorf("%s subscribes, which it may: %v; %v", user, allow, err)
			}
			_ = sub.Close()
			if err := s.ClientAs(user, "pw", 0).Publish(t.Context(), "ch:a~b", "m").Err(); err == nil {
				t.Errorf("%s publishes behind the fence", user)
			}
		}
	}
	redistest.Eventually(t, testTimeout, func() bool {
		return f.db().PubSubNumSub(t.Context(), "ch:a~b").Val()["ch:a~b"] == int64(len(users))
	}, "those who came later have gone")
	hears("when nobody may come any more")
	if err := f.lower(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if n := f.db().Publish(t.Context(), "ch:a~b", "m").Val(); n != int64(len(users)) {
		t.Errorf("when the fence is down %d clients are reached", n)
	}
}

// TestFenceACLLetsNobodyListenWhoCouldNot: who goes on listening when a switch was taken back might
// listen before it.
func TestFenceACLLetsNobodyListenWhoCouldNot(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL,
		"may on >pw ~* &* -@all +subscribe",
		"mute on >pw ~* &* -@all +info",
		"taken on >pw ~* &* +@all -subscribe -psubscribe -@connection",
		"half on >pw &* -@all +get (resetchannels &a -@all +@pubsub) (resetchannels &b -@all +publish +client)"))
	f, st := raised(t, s, FenceACL)
	st.Raised = true
	if err := f.letListen(t.Context(), st, true); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context(), st); err != nil {
		t.Errorf("the fence is up, but check says: %v", err)
	}
	for _, tt := range []struct {
		user    string
		command []any
		may     bool
	}{
		{"may", []any{"SUBSCRIBE", "a"}, true},
		{"may", []any{"PSUBSCRIBE", "a*"}, false},
		{"may", []any{"CLIENT", "TRACKING", "ON", "BCAST"}, false},
		{"mute", []any{"SUBSCRIBE", "a"}, false},
		{"mute", []any{"SSUBSCRIBE", "a"}, false},
		{"mute", []any{"CLIENT", "TRACKING", "ON", "BCAST"}, false},
		{"mute", []any{"CLIENT", "NO-EVICT", "ON"}, false},
		{"taken", []any{"SUBSCRIBE", "a"}, false},
		{"taken", []any{"SSUBSCRIBE", "a"}, true},
		{"taken", []any{"CLIENT", "TRACKING", "ON", "BCAST"}, false},
		{"half", []any{"SUBSCRIBE", "a"}, true},
		{"half", []any{"SUBSCRIBE", "b"}, false},
		{"half", []any{"SUBSCRIBE", "c"}, false},
		{"half", []any{"CLIENT", "ID"}, true},
		{"half", []any{"CLIENT", "CACHING", "YES"}, true},
		{"default", []any{"SUBSCRIBE", "a"}, true},
		{"default", []any{"PSUBSCRIBE", "a*"}, true},
		{"default", []any{"CLIENT", "NO-TOUCH", "ON"}, true},
	} {
		c := s.ClientAs(tt.user, "pw", 0)
		if tt.user == "default" {
			c = s.Client(0)
		}
		err := c.Do(t.Context(), tt.command...).Err()
		if may := !errorPrefix(err, "NOPERM"); may != tt.may {
			t.Errorf("%v as %s: %v", tt.command, tt.user, err)
		}
		_ = c.Close()
	}
	if err := f.letListen(t.Context(), st, false); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "SUBSCRIBE when it is taken back", s.ClientAs("may", "pw", 0).Do(t.Context(), "SUBSCRIBE", "a").Err(), "NOPERM")
}

// TestFenceACLLetsListen: on the way back the sessions' subscriptions move to the fenced
// server before anybody may publish there, whatever version it is.
func TestFenceACLLetsListen(t *testing.T) {
	programs, err := redistest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(programs, redistest.Program{Name: "installed"}) {
		t.Run(p.Name, func(t *testing.T) {
			var opts []redistest.Option
			if p.Path != "" {
				opts = append(opts, redistest.WithBinary(p.Path))
			}
			s := redistest.Start(t, opts...)
			app := s.Client(0)
			do(t, app, "ACL", "SETUSER", OwnUser, "on", ">"+ownPassword, "~*", "+@all")
			_ = app.Do(t.Context(), "ACL", "SETUSER", OwnUser, "&*").Err() // unknown before 6.2
			f, st := raised(t, s, FenceACL)
			st.Raised = true
			for _, allow := range []bool{false, true, false} {
				if err := f.letListen(t.Context(), st, allow); err != nil {
					t.Fatal(err)
				}
				if err := f.check(t.Context(), st); err != nil {
					t.Errorf("the fence is up, but check says: %v", err)
				}
				sub := app.Subscribe(t.Context(), "news")
				_, err := sub.Receive(t.Context())
				if may := err == nil; may != allow {
					t.Errorf("it may subscribe: %v, not %v (%v)", may, allow, err)
				}
				_ = sub.Close()
				wantRefusal(t, "PUBLISH", app.Publish(t.Context(), "news", "m").Err(), "NOPERM")
			}
		})
	}
}

// TestFenceACLKeepsReplicas: one that logs in as the applications do goes on following,
// and may connect again.
func TestFenceACLKeepsReplicas(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL), redistest.WithConfig("repl-diskless-sync-delay", "0"))
	replica := redistest.Start(t, redistest.WithConfig("replicaof", "127.0.0.1", itoa(int64(s.Port()))))
	f, _ := raised(t, s, FenceACL)
	own := f.db()
	follows := func(value string) {
		t.Helper()
		redistest.Eventually(t, 20*time.Second, func() error {
			c := own.Conn() // WAIT is about what its own connection has written
			defer func() { _ = c.Close() }()
			if err := c.Set(t.Context(), "k", value, 0).Err(); err != nil {
				return err
			}
			n, err := c.Do(t.Context(), "WAIT", 1, 100).Int()
			if err == nil && n != 1 {
				err = errors.New("it has not")
			}
			return err
		}, "the replica acknowledges")
		if got := replica.Client(0).Get(t.Context(), "k").Val(); got != value {
			t.Errorf("the replica has %q, want %q", got, value)
		}
	}
	follows("1")
	do(t, own, "CLIENT", "KILL", "TYPE", "replica")
	follows("2")
	if text := own.Info(t.Context(), "errorstats").Val(); strings.Contains(text, "errorstat_NOPERM") {
		t.Errorf("something was refused: %s", text)
	}
}

func TestFenceACLRefusesOthersAndSparesUs(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL, "app on >pw ~* &* +@all", "scoped on >pw -@all (~* &* +@all)", "replica on >pw -@all +psync +replconf +ping"))
	def, app, scoped := s.Client(0), s.ClientAs("app", "pw", 3), s.ClientAs("scoped", "pw", 0)
	do(t, def, "SET", "k", "before")
	do(t, def, "SET", store.JournalKey, "journal")
	queued := app.Conn() // has a transaction open when the fence comes up
	t.Cleanup(func() { _ = queued.Close() })
	for _, cmd := range [][]any{{"MULTI"}, {"SET", "q", "1"}, {"INCR", "n"}} {
		if err := queued.Do(t.Context(), cmd...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	live := app.Conn() // a connection from before
	t.Cleanup(func() { _ = live.Close() })
	if err := live.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	f, st := raised(t, s, FenceACL)
	if i := slices.IndexFunc(st.Users, func(u ACLUser) bool { return u.Name == "replica" || u.Name == OwnUser }); i >= 0 {
		t.Errorf("%s is fenced", st.Users[i].Name)
	}
	wantRefusal(t, "EXEC", queued.Do(t.Context(), "EXEC").Err(), "EXECABORT", "NOPERM")
	wantRefusal(t, "SET on a live connection", live.Set(t.Context(), "k", "x", 0).Err(), "NOPERM")
	if err := live.Ping(t.Context()).Err(); err != nil {
		t.Errorf("PING on a live connection: %v", err)
	}
	for name, c := range map[string]*redis.Client{"default": def, "app": app, "scoped": scoped} {
		for _, cmd := range [][]any{
			{"SET", "k", "x"}, {"GET", "k"}, {"PUBLISH", "c", "m"}, {"EVAL", "return 1", "0"}, {"FLUSHALL"},
			{"CONFIG", "SET", "maxmemory", "0"}, {"ACL", "SETUSER", name, "+@all"}, {"SUBSCRIBE", "c"},
			{"SET", store.JournalKey, "x"}, {"GETDEL", store.JournalKey}, {"CLIENT", "KILL", "TYPE", "normal"},
		} {
			wantRefusal(t, name+": "+cmd[0].(string), c.Do(t.Context(), cmd...).Err(), "NOPERM")
		}
	}
	// A sidecar that lost its state file reads the control keys as the operator.
	if v := do(t, def, "GET", store.JournalKey); v != "journal" {
		t.Errorf("the journal cannot be read under the fence: %v", v)
	}
	do(t, f.db(), "SET", "k", "ours")
	if v := do(t, f.db(), "GET", "k"); v != "ours" {
		t.Errorf("our own write: %v", v)
	}
	if n := f.pool.DB(3).Exists(t.Context(), "q", "n").Val(); n != 0 {
		t.Errorf("%d writes of a refused transaction are there", n)
	}
	if err := f.lower(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if err := live.Set(t.Context(), "k", "after", 0).Err(); err != nil {
		t.Errorf("after lowering: %v", err)
	}
}

// A writer that the soft fence stalls is refused by the hard fence: its write
// is not applied, neither now nor when the pause would have ended.
func TestFenceACLRefusesStalledWriters(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := armed(t, s, FenceACL)
	if err := f.pause(t.Context(), f.db(), time.Minute); err != nil {
		t.Fatal(err)
	}
	set, publish, exec := stalled(t, s, "SET stalled 1\r\n"), stalled(t, s, "PUBLISH c m\r\n"), stalled(t, s, "MULTI\r\nSET stalled 2\r\nEXEC\r\n")
	redistest.Eventually(t, testTimeout, func() bool {
		info := f.db().Info(t.Context(), "clients").Val()
		return strings.Contains(info, "blocked_clients:3")
	}, "three clients are stalled")
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*line{"SET": set, "PUBLISH": publish} {
		if got := c.next(); !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("the stalled %s: %q", name, got)
		}
	}
	if got := exec.next() + exec.next() + exec.next(); !strings.Contains(got, "-EXECABORT") && !strings.Contains(got, "-NOPERM") {
		t.Errorf("the stalled EXEC: %q", got)
	}
	if n := do(t, f.db(), "EXISTS", "stalled"); n != int64(0) {
		t.Error("a stalled write was applied")
	}
	do(t, f.db(), "SET", "ours", "1") // the pause is over, for us too
}

// line is a bare connection, because go-redis would wait with a stalled command.
type line struct {
	t    *testing.T
	conn net.Conn
}

// stalled sends text and does not wait for an answer.
func stalled(t *testing.T, s *redistest.Server, text string) *line {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return &line{t, c}
}

// next reads one line.
func (l *line) next() string {
	l.t.Helper()
	var text []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(text), "\r\n") {
		if _, err := l.conn.Read(one); err != nil {
			l.t.Fatalf("after %q: %v", text, err)
		}
		text = append(text, one[0])
	}
	return string(text)
}

// Only who holds the newest token raises; otherwise nothing happens at all.
func TestFenceRaiseNeedsTheToken(t *testing.T) {
	for _, level := range []FenceLevel{FenceACL, FenceReplicas, FenceKey, FenceNone} {
		t.Run(string(level), func(t *testing.T) {
			s := redistest.Start(t, redistest.WithACL(ownACL, "app on >pw ~* &* +@all"))
			f, st := armed(t, s, level)
			app := s.ClientAs("app", "pw", 0).Conn()
			t.Cleanup(func() { _ = app.Close() })
			before := aclList(t, f.db())
			refused := func(what string) {
				t.Helper()
				if err := f.raise(t.Context(), st, testToken); !errors.Is(err, store.ErrSuperseded) {
					t.Errorf("%s: %v", what, err)
				}
				if diff := cmp.Diff(before, aclList(t, f.db())); diff != "" {
					t.Errorf("%s: users were changed:\n%s", what, diff)
				}
				if err := app.Set(t.Context(), "k", what, 0).Err(); err != nil {
					t.Errorf("%s: the application is refused: %v", what, err)
				}
			}
			if err := f.arm(t.Context(), testToken+1); err != nil {
				t.Fatal(err)
			}
			refused("a newer token")
			if err := f.arm(t.Context(), testToken-1); err != nil {
				t.Fatal(err)
			}
			refused("an older token")
			do(t, f.db(), "SET", store.FenceKey, "07")
			refused("not quite the token")
			do(t, f.db(), "DEL", store.FenceKey)
			refused("no token")
		})
	}
}

// overtake arms the fence with another token between its GET and its EXEC.
type overtake struct{ do func() }

func (overtake) DialHook(next redis.DialHook) redis.DialHook { return next }

func (overtake) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (o overtake) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "multi" {
			o.do()
		}
		return next(ctx, cmds)
	}
}

func TestFenceRaiseIsOvertaken(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := armed(t, s, FenceACL)
	before, admin := aclList(t, f.db()), s.Client(0)
	f.db().AddHook(overtake{func() { do(t, admin, "SET", store.FenceKey, strconv.Itoa(testToken+1)) }})
	if err := f.raise(t.Context(), st, testToken); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("raise: %v", err)
	}
	if diff := cmp.Diff(before, aclList(t, admin)); diff != "" {
		t.Errorf("users were changed:\n%s", diff)
	}
}

func TestFenceACLSeesLateUsers(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := armed(t, s, FenceACL)
	do(t, f.db(), "ACL", "SETUSER", "late", "on", ">pw", "~*", "+@all")
	if err := f.raise(t.Context(), st, testToken); err == nil || !strings.Contains(err.Error(), `"late" appeared during the cutover`) {
		t.Errorf("raise with a user that came after save: %v", err)
	}
	do(t, f.db(), "ACL", "DELUSER", "late")
	if err := f.check(t.Context(), st); err != nil {
		t.Errorf("check: %v", err)
	}
	for name, rules := range map[string][]any{
		"writer":    {"on", ">pw", "~*", "+set"},
		"bykeys":    {"on", ">pw", "-@all", "(~app:* +@write)"},
		"publisher": {"on", ">pw", "resetkeys", "&*", "+publish"},
		"reader":    {"on", ">pw", "~*", "+get"}, // a stale read is an answer that is wrong
		"psyncplus": {"on", ">pw", "~*", "+psync", "+set"},
	} {
		do(t, f.db(), append([]any{"ACL", "SETUSER", name}, rules...)...)
		if err := f.check(t.Context(), st); !errors.Is(err, errFenceLost) || !strings.Contains(err.Error(), strconv.Quote(name)) {
			t.Errorf("check with user %s: %v", name, err)
		}
		do(t, f.db(), "ACL", "DELUSER", name)
	}
	do(t, f.db(), "ACL", "SETUSER", "harmless", "on", ">pw", "~*", "-@all", "+ping")
	do(t, f.db(), "ACL", "SETUSER", "replica2", "on", ">pw", "-@all", "+psync", "+replconf")
	if err := f.check(t.Context(), st); err != nil {
		t.Errorf("check with users that can do no harm: %v", err)
	}
	// One that is given its rights back is seen as well.
	do(t, f.db(), "ACL", "SETUSER", "default", "+@all")
	if err := f.check(t.Context(), st); !errors.Is(err, errFenceLost) {
		t.Errorf("check with default back: %v", err)
	}
}

// A restart forgets ACL changes: check must see that, and errors of another kind
// must not look like it.
func TestFenceCheckAfterARestart(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := raised(t, s, FenceACL)
	if err := s.Restart(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, testTimeout, func() bool {
		return errors.Is(f.check(t.Context(), st), errFenceLost)
	}, "the fence is seen to be gone")
	s.Kill()
	if err := f.check(t.Context(), st); err == nil || errors.Is(err, errFenceLost) {
		t.Errorf("check without a server: %v", err)
	}
}
