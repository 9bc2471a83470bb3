package preflight

import (
	"log/slog"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/sentinel"
	"github.com/crossfade/crossfade/sync/conn"
)

// watchedPool is pool for a URL that names sentinels.
func watchedPool(t *testing.T, url string) *conn.Pool {
	t.Helper()
	e, err := config.Server{URL: config.Secret(url), Sentinel: config.Sentinel{Password: "s-hidden"}}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	e, f := sentinel.Follow(e, 2*time.Second, slog.New(slog.DiscardHandler))
	t.Cleanup(f.Close)
	p := conn.New(e, "check", 2*time.Second)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// TestSentinels: what the sentinels of a side know, and what is wrong with them.
func TestSentinels(t *testing.T) {
	g := redistest.StartGroup(t, redistest.GroupConfig{Name: "main", SentinelPassword: "s-hidden"})
	env := environment(t, g.Servers[0], redistest.Start(t))
	check := func(url string) []Finding {
		t.Helper()
		env := env
		env.From = watchedPool(t, url)
		return run(t, env, StageCheck, g.Servers[0])
	}
	one := "redis+sentinel://" + g.Sentinels[0].Addr() + "/"
	findings := check(g.URL())
	expect(t, findings, "sentinel", Pass, "source: 3 sentinels say that the master \"main\" is "+g.Master().Addr())
	expect(t, findings, "reach", Pass, "/main answers")
	expect(t, findings, "role", Pass, "is a master with 1 replica")
	expect(t, findings, "replicas", Pass, g.Servers[1].Addr()+" can be fenced with it")
	expect(t, check(one+"main"), "sentinel", Warn, "only one sentinel is named, and there are 2 more", g.Sentinels[1].Addr(), g.Sentinels[2].Addr())

	findings = check(one + "other")
	expect(t, findings, "sentinel", Fail, `no sentinel says where the master "other" is`, `it watches no master "other", but main`)
	expect(t, findings, "reach", Fail, "See the check sentinel.")
	expect(t, check("redis+sentinel://"+g.Servers[1].Addr()+"/main"), "sentinel", Fail, "source.sentinel.password")

	plain := env
	plain.From = pool(t, g.Sentinels[0].Addr(), "", "s-hidden")
	expect(t, run(t, plain, StageCheck), "cluster", Fail, "is a Sentinel", "redis+sentinel://"+g.Sentinels[0].Addr()+"/NAME")

	g.Sentinels[1].Kill()
	expect(t, check(g.URL()), "sentinel", Warn, "1 of 3 sentinels do not say where the master is", g.Sentinels[1].Addr())
	g.Sentinels[2].Kill()
	redistest.Eventually(t, 30*time.Second, func() bool {
		for _, f := range check(g.URL()) {
			if f.Check == "sentinel" && f.Level == Warn && f.Do[:9] == "Mend that" {
				return true
			}
		}
		return false
	}, "one sentinel alone has no quorum")
	g.Sentinels[0].Kill()
	expect(t, check(g.URL()), "sentinel", Fail, "no sentinel says where the master", "connection refused")
}
