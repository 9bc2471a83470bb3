package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

const wrongPass = "-WRONGPASS invalid username-password pair or user is disabled.\r\n"

// knows adds users, each with all rights, to a server whose default user wants
// the password.
func knows(password string, users ...string) []redistest.Option {
	options := []redistest.Option{redistest.WithPassword(password), redistest.WithACL("default on >" + password + " ~* &* +@all")}
	for _, user := range users {
		name, pass, _ := strings.Cut(user, ":")
		options = append(options, redistest.WithACL(name+" on >"+pass+" ~* &* +@all"))
	}
	return options
}

func mapped(user, pass, targetUser, targetPass string) Identity {
	return Identity{Client: Login{user, pass}, Sides: [2]Login{{user, pass}, {targetUser, targetPass}}}
}

// TestMappedCredentials switches there and back with users whom the two servers
// know by different names and passwords.
func TestMappedCredentials(t *testing.T) {
	source := redistest.Start(t, knows("sp", "app:s1", "lib:s2", "other:s3")...)
	target := redistest.Start(t, knows("tp", "app-new:t1", "lib:t2", "other:s3")...)
	w := newWorldOn(t, source, target, func(c *Config) {
		c.Upstreams[0].Password, c.Upstreams[1].Password = "sp", "tp"
		c.Identities = []Identity{mapped("app", "s1", "app-new", "t1"), mapped("lib", "s2", "lib", "t2")}
	})
	app, lib, other, late := w.client(), w.client(), w.client(), w.client()
	app.want("AUTH app s1", ok)
	app.want("SET k 1", ok)
	lib.do("HELLO 3 AUTH lib s2 SETNAME me")
	lib.want("MULTI", ok)
	lib.want("INCR n", "+QUEUED\r\n")
	other.want("AUTH other s3", ok)
	late.want("GET k", "-NOAUTH Authentication required.\r\n")
	app.want("AUTH app-new t1", wrongPass)

	w.switchTo(router.Target)
	app.want("ACL WHOAMI", bulk("app-new"))
	app.want("SET k 2", ok)
	lib.want("EXEC", "*1\r\n:1\r\n")
	lib.want("CLIENT GETNAME", bulk("me"))
	lib.want("ACL WHOAMI", bulk("lib"))
	other.want("ACL WHOAMI", bulk("other"))
	late.want("GET k", "-NOAUTH Authentication required.\r\n")
	late.want("AUTH app wrong", wrongPass)
	late.want("AUTH app t1", wrongPass)
	late.want("HELLO 3 AUTH lib s1", wrongPass)
	late.send("AUTH app s1", "GET k", "AUTH lib s2", "ACL WHOAMI")
	for _, want := range []string{ok, bulk("2"), ok, bulk("lib")} {
		late.expect(want)
	}
	if got := late.do("HELLO 3 AUTH app s1 SETNAME late"); !strings.HasPrefix(got, "%") {
		t.Errorf("got %q", got)
	}
	late.want("ACL WHOAMI", bulk("app-new"))
	other.want("AUTH lib t2", ok) // what only the target knows goes there as it is
	app.want("MULTI", ok)
	app.want("AUTH lib s2", "+QUEUED\r\n")
	app.want("ACL WHOAMI", "+QUEUED\r\n")
	app.want("EXEC", "*2\r\n"+ok+bulk("lib"))
	app.want("AUTH app s1", ok)
	app.want("MULTI", ok)
	app.want("AUTH lib s2", "+QUEUED\r\n")

	w.switchTo(router.Source)
	app.want("EXEC", "*1\r\n"+ok)
	app.want("ACL WHOAMI", bulk("lib"))
	app.want("AUTH app s1", ok)
	app.want("GET k", bulk("1"))
	lib.want("ACL WHOAMI", bulk("lib"))
	late.want("ACL WHOAMI", bulk("app"))
	late.want("CLIENT GETNAME", bulk("late"))
	other.want("ACL WHOAMI", bulk("lib"))
	app.want("AUTH app s1", ok)
}

// TestMappedToNobody has a target that wants no password.
func TestMappedToNobody(t *testing.T) {
	source := redistest.Start(t, knows("sp", "app:s1")...)
	target := redistest.Start(t, redistest.WithACL("lib on >t2 ~* &* +@all"))
	w := newWorldOn(t, source, target, func(c *Config) {
		c.Upstreams[0].Password = "sp"
		c.Identities = []Identity{mapped("app", "s1", "", "")}
	})
	app, late := w.client(), w.client()
	app.want("AUTH app s1", ok)
	w.switchTo(router.Target)
	app.want("ACL WHOAMI", bulk("default"))
	late.send("AUTH lib t2", "AUTH app s1", "ACL WHOAMI")
	for _, want := range []string{ok, ok, bulk("default")} {
		late.expect(want)
	}
	late.want("AUTH lib t2", ok)
	late.do("HELLO 3 AUTH app s1")
	late.want("ACL WHOAMI", bulk("default"))
	w.switchTo(router.Source)
	app.want("ACL WHOAMI", bulk("app"))
	late.want("ACL WHOAMI", bulk("app"))
}

// TestRollbackLogsNobodyIn has clients who never log in go to a target that wants no
// password and back: at the source they are nobody, as before, and not who the operator is.
func TestRollbackLogsNobodyIn(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorldOn(t, redistest.Start(t, knows("sp")...), redistest.Start(t), mode, func(c *Config) {
			c.Upstreams[0].Password = "sp"
		})
		const refused = "-NOAUTH Authentication required.\r\n"
		w.do(router.Source, 0, "SET", "k", "secret")
		plain, kept, queues, later, three := w.client(), w.client(), w.client(), w.client(), w.client()
		for _, c := range []*raw{plain, kept, queues} {
			c.want("GET k", refused)
		}
		w.switchTo(router.Target)
		late := w.client()
		for _, c := range []*raw{plain, kept, queues, late} {
			c.want("GET k", "$-1\r\n")
		}
		kept.do("CLIENT ID")
		three.do("HELLO 3")
		three.want("SELECT 3", ok)
		late.want("CLIENT SETNAME late", ok)
		queues.want("MULTI", ok)
		queues.want("GET k", "+QUEUED\r\n")
		later.want("MULTI", ok)
		later.want("RESET", "+RESET\r\n")
		w.switchTo(router.Source)
		if got := queues.next(); !strings.HasPrefix(got, "-NOAUTH Crossfade") {
			t.Errorf("in the middle of a transaction: got %q", got)
		}
		queues.expect("EOF")
		for name, c := range map[string]*raw{"plain": plain, "kept": kept, "late": late, "later": later, "three": three, "new": w.client()} {
			for _, line := range []string{"GET k", "ACL WHOAMI", "EVAL \"return redis.call('get', 'k')\" 0", "GET k"} {
				if got := c.do(line); got != refused {
					t.Errorf("%s: %s: got %q", name, line, got)
				}
			}
		}
		late.want("AUTH sp", ok)
		late.want("CLIENT GETNAME", bulk("late"))
		w.do(router.Source, 3, "SET", "k", "three")
		three.want("AUTH sp", ok)
		three.want("GET k", bulk("three"))
		three.want("GET none", "_\r\n")
	})
}

// TestHelloOfStrangers has those whom the proxy does not know yet make mistakes: they hear
// what a server would say that knows the same users.
func TestHelloOfStrangers(t *testing.T) {
	lines := []string{"HELLO", "HELLO 2", "HELLO 3", "HELLO 3 SETNAME me", "HELLO 3 SETNAME AUTH", "HELLO 9", "HELLO 1 SETNAME me", "HELLO -3", "HELLO abc",
		"HELLO 03", "HELLO 3.0", "HELLO \"\"", "HELLO 99999999999999999999", "HELLO 9 FOO", "HELLO abc AUTH web w", "HELLO 9 AUTH web w", "HELLO 4 AUTH web wrong",
		"HELLO 3 FOO", "HELLO 3 SETNAME", "HELLO 3 SETNAME me FOO", "HELLO 3 SETNAME \"a b\"", "HELLO 3 SETNAME me SETNAME \"a\xff\"", "HELLO 3 SETNAME me SETNAME",
		"HELLO 3 AUTH", "HELLO 3 AUTH web", "HELLO 3 AUTH web wrong", "HELLO 3 AUTH web w FOO", "HELLO 3 AUTH web wrong FOO", "HELLO 3 AUTH web w SETNAME",
		"HELLO 3 FOO AUTH web w", "HELLO 3 AUTH web wrong SETNAME \"a b\"", "HELLO AUTH web w"}
	direct := redistest.Start(t, knows("d", "web:w")...)
	w := newWorldOn(t, redistest.Start(t, knows("sp", "app:s1")...), redistest.Start(t), func(c *Config) {
		c.Users = true
		c.Identities = []Identity{
			{Client: Login{"web", "w"}, Sides: [2]Login{{"app", "s1"}, {}}},
			{Client: Login{"", "d"}, Sides: [2]Login{{"", "sp"}, {}}},
		}
	})
	for _, side := range []router.Side{router.Source, router.Target} {
		for _, line := range lines {
			c, other := w.client(), dialRaw(t, direct.Addr())
			asked := []string{line, "GET k", line}
			if strings.Contains(line, "AUTH web w") {
				asked = asked[:1] // before Redis 7.2 it may have been obeyed before the fault was found
			}
			for _, l := range asked {
				if got, want := c.do(l), other.do(l); got != want {
					t.Errorf("%s on the %s, %s: got %q, want %q", line, side, l, got, want)
				}
			}
			c.want("AUTH web w", ok)
			c.close()
			other.close()
		}
		if side == router.Source {
			w.switchTo(router.Target)
		}
	}
}

// TestUsersOfTheProxy lets in whom the proxy knows, by passwords that no server has.
func TestUsersOfTheProxy(t *testing.T) {
	source := redistest.Start(t, knows("sp", "app:s1")...)
	target := redistest.Start(t) // wants no password: the proxy does
	if got := (&world{t: t, target: target}).do(router.Target, 0, "ACL", "SETUSER", "app", "on", ">t1", "~*", "&*", "+@all"); got != "OK" {
		t.Fatal(got)
	}
	w := newWorldOn(t, source, target, func(c *Config) {
		c.Upstreams[0].Password = "sp"
		c.Users = true
		c.Identities = []Identity{
			{Client: Login{"web", "w"}, Sides: [2]Login{{"app", "s1"}, {"app", "t1"}}},
			{Client: Login{"", "d"}, Sides: [2]Login{{"", "sp"}, {}}},
		}
	})
	noAuthText := "-NOAUTH Authentication required.\r\n"
	check := func() {
		t.Helper()
		c := w.client()
		for _, line := range []string{"GET k", "PING", "MULTI", "SUBSCRIBE c", "SELECT 3", "BLPOP k 0", "CLIENT ID", "MONITOR"} {
			c.want(line, noAuthText)
		}
		for _, line := range []string{"HELLO 3", "HELLO", "HELLO 3 SETNAME AUTH"} {
			if got := c.do(line); !strings.HasPrefix(got, "-NOAUTH HELLO must be called") {
				t.Errorf("%s: got %q", line, got)
			}
		}
		c.want("AUTH app s1", wrongPass)
		c.want("AUTH sp", wrongPass)
		c.want("AUTH web x", wrongPass)
		c.want("HELLO 3 AUTH web x", wrongPass)
		c.want("HELLO 3 AUTH web w AUTH app s1", wrongPass)
		c.want("HELLO 3 AUTH web w AUTH app t1", wrongPass)
		c.want("AUTH", "-ERR wrong number of arguments for 'auth' command\r\n")
		c.send("GET k", "AUTH web w", "SET k 1", "ACL WHOAMI")
		for _, want := range []string{noAuthText, ok, ok, bulk("app")} {
			c.expect(want)
		}
		until(t, "the client shares connections", func() bool {
			w.proxy.mu.Lock()
			defer w.proxy.mu.Unlock()
			return len(w.proxy.sessions) < w.proxy.clients
		})
		c.want("GET k", bulk("1"))
		c.want("AUTH web x", wrongPass)
		c.want("AUTH d", ok)
		c.want("ACL WHOAMI", bulk("default"))
		if got := c.do("HELLO 3 AUTH web w"); !strings.HasPrefix(got, "%") {
			t.Errorf("got %q", got)
		}
		c.want("GET none", "_\r\n")
		c.want("RESET", "+RESET\r\n")
		c.want("GET k", noAuthText)
		c.close()
	}
	web, silent := w.client(), w.client()
	web.want("AUTH web w", ok)
	check()
	w.switchTo(router.Target)
	web.want("ACL WHOAMI", bulk("app"))
	silent.want("GET k", noAuthText)
	check()
	w.switchTo(router.Source)
	web.want("ACL WHOAMI", bulk("app"))
	silent.want("GET k", noAuthText)
}

// TestSelectorsPassThrough has a user whose rights are in selectors, which the
// proxy neither knows nor changes.
func TestSelectorsPassThrough(t *testing.T) {
	rule := redistest.WithACL("reader on >r ~own:* &* +@all (%R~shared:* +get) (+@connection)")
	w := newWorldOn(t, redistest.Start(t, rule), redistest.Start(t, rule))
	for _, side := range []router.Side{router.Source, router.Target} {
		c := w.client()
		if got := c.do("HELLO 3 AUTH reader r"); !strings.HasPrefix(got, "%") {
			t.Fatalf("got %q", got)
		}
		w.do(side, 0, "SET", "shared:a", "v")
		c.want("SET own:a 1", ok)
		c.want("GET shared:a", bulk("v"))
		direct := dialRaw(t, w.server(side).Addr())
		direct.do("HELLO 3 AUTH reader r")
		for _, line := range []string{"SET shared:a 1", "GET other", "EVAL \"return redis.call('SET', 'x', 1)\" 0", "ACL GETUSER reader", "ACL DRYRUN reader GET shared:a"} {
			if got, want := c.do(line), direct.do(line); got != want {
				t.Errorf("%s: got %q, want %q", line, got, want)
			}
		}
		if side == router.Source {
			w.switchTo(router.Target)
			c.want("ACL WHOAMI", bulk("reader"))
			if got := c.do("SET shared:a 1"); !strings.HasPrefix(got, "-NOPERM") {
				t.Errorf("got %q", got)
			}
		}
	}
}

// TestRefusedHelloTaintsItsConnection refuses a HELLO whose AUTH the server has
// obeyed already: its connection must not be given to anybody else.
func TestRefusedHelloTaintsItsConnection(t *testing.T) {
	const hello = `HELLO 3 AUTH app s1 SETNAME "a b"`
	ways := map[string]func(c *raw) string{
		"alone": func(c *raw) string { return c.do(hello) },
		"in a transaction": func(c *raw) string {
			c.want("MULTI", ok)
			c.want(hello, "+QUEUED\r\n")
			return strings.TrimPrefix(c.do("EXEC"), "*1\r\n")
		},
	}
	server := func() *redistest.Server { return redistest.Start(t, redistest.WithACL("app on >s1 ~* &* +@all")) }
	for name, refused := range ways {
		t.Run(name, func(t *testing.T) {
			w := newWorldOn(t, server(), server())
			c := w.client()
			if got := refused(c); !strings.HasPrefix(got, "-ERR Client names") {
				t.Fatalf("got %q", got)
			}
			me := c.do("ACL WHOAMI")
			c.want("GET k", "$-1\r\n")
			// Others come and go meanwhile; none of them is app.
			for deadline := time.Now().Add(3 * quietFor); time.Now().Before(deadline); {
				other := w.client()
				other.want("GET k", "$-1\r\n") // who was let in is given connections from before
				other.want("ACL WHOAMI", bulk("default"))
				other.close()
				c.want("GET k", "$-1\r\n")
			}
			c.want("ACL WHOAMI", me)
		})
	}
}
