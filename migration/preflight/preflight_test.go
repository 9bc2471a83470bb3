package preflight

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// pool logs in as the operator would.
func pool(t *testing.T, addr, user, password string) *conn.Pool {
	t.Helper()
	p := conn.New(config.Endpoint{Network: "tcp", Address: addr, Username: user, Password: password}, "check", 2*time.Second)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// environment is a migration of databases 0 and 3 between two servers.
func environment(t *testing.T, from, to *redistest.Server) Env {
	t.Helper()
	m, err := router.NewDBMap(map[int]int{0: 0, 3: 5})
	if err != nil {
		t.Fatal(err)
	}
	return Env{
		From: pool(t, from.Addr(), "", from.Password()), To: pool(t, to.Addr(), "", to.Password()),
		FromName: "source", ToName: "target", Map: m, Explicit: true,
		SetNotifications: true, CreateUser: true,
	}
}

// run makes the checks and holds them to what is true of every result: probe keys
// and probe users are gone, no secret is shown, lines can be printed.
func run(t *testing.T, env Env, stage Stage, servers ...*redistest.Server) []Finding {
	t.Helper()
	findings := Run(t.Context(), env, stage)
	for _, s := range servers {
		nothingLeft(t, s)
	}
	for _, f := range findings {
		if strings.Contains(f.What+f.Do, "hidden") {
			t.Errorf("a secret is shown: %+v", f)
		}
		if f.Level != Pass && f.Do == "" {
			t.Errorf("no advice: %+v", f)
		}
		if f.Check == "" || f.What == "" || strings.Contains(f.What, "\n") {
			t.Errorf("an odd finding: %+v", f)
		}
	}
	return findings
}

func nothingLeft(t *testing.T, s *redistest.Server) {
	t.Helper()
	ctx := context.Background()
	for db := range 16 {
		c := s.Client(db)
		keys, err := c.Keys(ctx, "crossfade:*").Result()
		if err != nil {
			continue // a server with fewer databases, or one that is down
		}
		if len(keys) > 0 {
			t.Errorf("database %d of %s: left over: %q", db, s.Addr(), keys)
		}
	}
	users, err := s.Client(0).Do(ctx, "ACL", "USERS").StringSlice()
	if err == nil && strings.Contains(strings.Join(users, " "), "crossfade") {
		t.Errorf("users left over: %q", users)
	}
}

// expect wants a finding of a check at a level whose text and advice contain all words.
func expect(t *testing.T, findings []Finding, check string, level Level, words ...string) {
	t.Helper()
	for _, f := range findings {
		if f.Check != check || f.Level != level {
			continue
		}
		all := true
		for _, w := range words {
			all = all && strings.Contains(f.What+"\n"+f.Do, w)
		}
		if all {
			return
		}
	}
	t.Errorf("no finding %s %s with %q in\n%s", check, level, words, Table(findings, 120))
}

// only wants every finding of a check to be a pass.
func only(t *testing.T, findings []Finding, check string) {
	t.Helper()
	seen := false
	for _, f := range findings {
		if f.Check == check {
			seen = true
			if f.Level != Pass {
				t.Errorf("want a pass: %+v", f)
			}
		}
	}
	if !seen {
		t.Errorf("no finding of %s in\n%s", check, Table(findings, 120))
	}
}

func TestAllPass(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	must(t, from.Client(0).Set(t.Context(), "a", "hidden", 0).Err())
	must(t, from.Client(3).RPush(t.Context(), "b", "hidden").Err())
	env := environment(t, from, to)
	proxied(t, &env, from)

	findings := run(t, env, StageCheck, from, to)
	if Failed(findings) {
		t.Errorf("failed:\n%s", Table(findings, 120))
	}
	for _, name := range []string{"reach", "permissions", "version", "cluster", "role", "restore", "notifications", "databases",
		"memory", "eviction", "foreign-keys", "clients", "fence", "big-keys", "commands", "modules", "functions", "clock"} {
		only(t, findings, name)
	}
	expect(t, findings, "notifications", Pass, "source", "will be switched on", `now ""`, `"AE"`)
	expect(t, findings, "databases", Pass, "2 keys")
	expect(t, findings, "fence", Pass, "F3")
	if got := from.Client(0).ConfigGet(t.Context(), notifySetting).Val()[notifySetting]; got != "" {
		t.Errorf("the check changed %s to %q", notifySetting, got)
	}
	t.Logf("\n%s", Table(findings, 80))

	// The same again: what the first run did to the statistics is no finding.
	only(t, run(t, env, StageCheck, from, to), "commands")
	if stage := run(t, env, StageCutover, from, to); Failed(stage) {
		t.Errorf("failed:\n%s", Table(stage, 120))
	}
}

func TestUnreachable(t *testing.T) {
	to := redistest.Start(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	closed := listener.Addr().String()
	must(t, listener.Close())
	env := environment(t, to, to)
	env.From = pool(t, closed, "", "")

	findings := run(t, env, StageCheck, to)
	expect(t, findings, "reach", Fail, "source", closed, "nothing listens there")
	expect(t, findings, "reach", Pass, "target")
	expect(t, findings, "not-run", Warn, "the source could not be looked at", "restore", "databases")
	only(t, findings, "version")
	if len(findings) > 12 {
		t.Errorf("the same said too often:\n%s", Table(findings, 120))
	}
	env.To = env.From
	if findings := run(t, env, StageCheck); len(findings) != 3 || !Failed(findings) {
		t.Errorf("want two failures and a list of what was not run:\n%s", Table(findings, 120))
	}
}

func TestSilentServer(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	link := redistest.NewLink(t, from.Addr())
	link.Stall(true)
	env := environment(t, from, to)
	env.From = pool(t, link.Addr(), "", "")
	expect(t, run(t, env, StageCheck, to), "reach", Fail, "source", "timeout")
}

func TestLogin(t *testing.T) {
	open := redistest.Start(t)
	closed := redistest.Start(t, redistest.WithPassword("right"), redistest.WithACL("app on >right ~* &* +@all", "off off >right ~* +@all"))
	tests := []struct {
		server         *redistest.Server
		user, password string
		want           string
	}{
		{closed, "", "", "wants a password and none was given"},
		{closed, "", "hidden", "the password is wrong"},
		{closed, "app", "hidden", `the user "app", or the password is wrong`},
		{closed, "nobody", "right", `does not know the user "nobody"`},
		{closed, "off", "right", "switched off"},
		{open, "", "hidden", "the server has none"},
	}
	for _, test := range tests {
		env := environment(t, open, closed)
		env.To = pool(t, test.server.Addr(), test.user, test.password)
		expect(t, run(t, env, StageCheck), "reach", Fail, "target", test.want)
	}
}

func TestTLSAgainstPlainPort(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	env := environment(t, from, to)
	env.To = conn.New(config.Endpoint{Network: "tcp", Address: to.Addr(), Password: "hidden", TLS: &tls.Config{MinVersion: tls.VersionTLS12}}, "check", time.Second)
	t.Cleanup(func() { _ = env.To.Close() })
	expect(t, run(t, env, StageCheck, from), "reach", Fail, "target", "TLS", "redis://")
}

func TestUnixSocket(t *testing.T) {
	from, to := redistest.Start(t, redistest.WithUnixSocket()), redistest.Start(t)
	env := environment(t, from, to)
	env.From = conn.New(config.Endpoint{Network: "unix", Address: from.SocketPath()}, "check", time.Second)
	t.Cleanup(func() { _ = env.From.Close() })
	env.SetNotifications = false
	findings := run(t, env, StageCheck, from, to)
	only(t, findings, "reach")
	expect(t, findings, "notifications", Fail, "redis-cli -s "+from.SocketPath()+" CONFIG SET")
}

func TestSameServer(t *testing.T) {
	s := redistest.Start(t)
	expect(t, run(t, environment(t, s, s), StageCheck, s), "reach", Fail, "one and the same server")
}

func TestInterrupted(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	findings := Run(ctx, environment(t, from, to), StageCheck)
	if last := findings[len(findings)-1]; last.Check != "interrupted" || !Failed(findings) {
		t.Errorf("an unfinished run looks finished:\n%s", Table(findings, 120))
	}
	// In the middle, at any moment, nothing is left behind.
	for after := range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(after)*3*time.Millisecond)
		_ = Run(ctx, environment(t, from, to), StageCheck)
		cancel()
		nothingLeft(t, from)
		nothingLeft(t, to)
	}
}

// proxied declares the harness's own clients to be the proxy's.
func proxied(t *testing.T, env *Env, s *redistest.Server) {
	t.Helper()
	env.Proxied = make(map[string]struct{})
	for line := range strings.Lines(s.Client(0).ClientList(t.Context()).Val()) {
		env.Proxied[fields(line)["addr"]] = struct{}{}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil && err != redis.Nil { //nolint:errorlint // as go-redis returns it
		t.Fatal(err)
	}
}

// TestKillsNobody: where the trial of a command runs it, CLIENT KILL with the id 0
// would close every connection of a server before Redis 7.0.
func TestKillsNobody(t *testing.T) {
	found := false
	for _, n := range needs(probeKey()) {
		if len(n.args) > 3 && n.args[1] == "KILL" {
			found = true
			if fmt.Sprint(n.args[2:]) != "[ID "+nobody+"]" {
				t.Errorf("%v may close a connection", n.args)
			}
		}
	}
	if !found {
		t.Error("CLIENT KILL is not tried at all")
	}
}
