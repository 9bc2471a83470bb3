package preflight

import (
	"fmt"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// prefixed is a migration of databases 0, 1 and 3 into two of the target, of which one
// is shared.
func prefixed(t *testing.T, from, to *redistest.Server) Env {
	t.Helper()
	env := environment(t, from, to)
	var err error
	if env.Map, err = router.NewDBMap(map[int]router.Place{0: {DB: 2, Prefix: "c0:"}, 1: {DB: 5}, 3: {DB: 2, Prefix: "{c3}:"}}); err != nil {
		t.Fatal(err)
	}
	return env
}

func TestPrefixes(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t, redistest.WithACL("app on >hidden ~c0:* ~{c3}:* &* +@all", "(ro) off nopass ~* +@all"))
	ctx := t.Context()
	for db := range 4 {
		must(t, from.Client(db).Set(ctx, "k", "hidden", 0).Err())
	}
	must(t, from.Client(0).Eval(ctx, "return 1", nil).Err())
	must(t, from.Client(0).Do(ctx, "SWAPDB", 4, 5).Err())
	must(t, to.Client(2).MSet(ctx, "theirs", 1, "c0", 1, "c3:x", 1).Err())
	env := prefixed(t, from, to)
	env.LeaveOut = []int{2}
	findings := run(t, env, StageCheck, from, to)
	expect(t, findings, "databases", Pass, "3 keys are to be moved", "0=2:c0:,1=5,3=2:{c3}:")
	expect(t, findings, "foreign-keys", Warn, "database 2 holds 3 keys of others", `"theirs"`, "left alone")
	expect(t, findings, "prefixes", Warn, "1 user may touch keys that begin with no prefix", "(default)", "ACL SETUSER USER resetkeys resetchannels ~c0:* ~{c3}:* &CHANNEL")
	expect(t, findings, "commands", Warn, "EVAL 1×", "KEYS")
	expect(t, findings, "commands", Warn, "SWAPDB 1×", "refused after the switch")
	for _, f := range findings {
		if f.Check == "prefixes" && strings.Contains(f.What, "app") {
			t.Errorf("a user that is limited is named: %s", f.What)
		}
	}

	must(t, to.Client(2).MSet(ctx, "c0:a", 1, "c0:b", 1, "{c3}:", 1).Err())
	must(t, to.Client(5).Set(ctx, "c0:a", 1, 0).Err())
	findings = run(t, env, StageCheck, from, to)
	expect(t, findings, "foreign-keys", Fail, "database 2 already holds 2 keys", `begin with "c0:", the prefix of source database 0`, `"c0:a"`)
	expect(t, findings, "foreign-keys", Fail, "database 2 already holds 1 key", `begins with "{c3}:", the prefix of source database 3`)
	expect(t, findings, "foreign-keys", Fail, "database 5 already holds 1 key", `"c0:a"`)
	env.Resumed = true
	expect(t, run(t, env, StageCheck, from, to), "foreign-keys", Pass, "ours, from before")

	// The way back: the servers are exchanged, the map is not.
	must(t, to.Client(5).Del(ctx, "c0:a").Err())
	env.From, env.To, env.FromName, env.ToName = env.To, env.From, env.ToName, env.FromName
	findings = run(t, env, StageCutover, from, to)
	expect(t, findings, "databases", Pass, "3 keys are to be moved")
}

func TestPrefixesUnlimited(t *testing.T) {
	m, err := router.NewDBMap(map[int]router.Place{0: {Prefix: "c0:"}, 3: {Prefix: "c?:"}, 5: {DB: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[string]bool{
		"~*": true, "allkeys": true, "(~*": true, "~c": true, "~c0*": true, "%R~c*": true, "~c?:*": true, "%RW~*": true,
		"~c0:*": false, "~c0:a": false, `~c\?:*`: false, "%W~c0:*)": false, "+@all": false, "&*": false, "on": false, ">x~y": false, "resetkeys": false,
	} {
		if got := wide(m, rule); got != want {
			t.Errorf("%s: %v", rule, got)
		}
	}
}

func TestHashTags(t *testing.T) {
	for prefix, want := range map[string]string{
		"c3:": " false", "{c3}:": "c3 false", "a{b}c": "b false", "{}x": " true", "{x": " true", "}{": " true", "x}": " false", "{a}{": "a false",
	} {
		if tag, open := hashTag(prefix); fmt.Sprint(tag, " ", open) != want {
			t.Errorf("%s: %q, %v", prefix, tag, open)
		}
	}
	in := &inspection{}
	m, err := router.NewDBMap(map[int]router.Place{0: {Prefix: "c0:"}, 3: {Prefix: "{c3}:"}, 4: {Prefix: "{4"}})
	if err != nil {
		t.Fatal(err)
	}
	in.Map = m
	p := pool(t, "127.0.0.1:1", "", "")
	if got := slotted(in, &server{pool: p, name: "target", info: info{}}); len(got) != 0 {
		t.Errorf("no cluster, and %v", got)
	}
	got := slotted(in, &server{pool: p, name: "target", info: info{"cluster_enabled": "1"}})
	expect(t, named("prefixes", got), "prefixes", Warn, "source database 3 ({c3}:) are in one slot")
	expect(t, named("prefixes", got), "prefixes", Fail, "source database 4 ({4) opens a brace")
}
