package preflight

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/conn"
)

// TestEachRightIsMissed: of the rules that are given to a user of ours, each that is taken
// away is named by the check, and no other, on either side.
func TestEachRightIsMissed(t *testing.T) {
	from, to := redistest.Start(t), redistest.Start(t)
	own, err := RightsAt(t.Context(), pool(t, from.Addr(), "", ""))
	if err != nil {
		t.Fatal(err)
	}
	give := func(s *redistest.Server, rules []string) {
		t.Helper()
		args := []any{"ACL", "SETUSER", "least", "reset", "on", ">hidden"}
		for _, r := range rules {
			args = append(args, r)
		}
		must(t, s.Client(0).Do(t.Context(), args...).Err())
	}
	look := func() (bad []Finding) {
		env := environment(t, from, to)
		var pools []*conn.Pool
		for _, s := range []*redistest.Server{from, to} {
			pools = append(pools, conn.New(config.Endpoint{Network: "tcp", Address: s.Addr(), Username: "least", Password: "hidden"}, "check", 2*time.Second))
		}
		defer func() {
			for _, p := range pools {
				_ = p.Close()
			}
		}()
		env.From, env.To, env.CreateUser = pools[0], pools[1], false
		in := inspect(env, StageCheck)
		for _, f := range append(checkReach(t.Context(), in), checkPermissions(t.Context(), in)...) {
			if f.Level != Pass {
				bad = append(bad, f)
			}
		}
		return bad
	}
	give(from, own.Rules)
	give(to, own.Rules)
	if bad := look(); len(bad) > 0 {
		t.Fatalf("with all rules: %+v", bad)
	}
	if len(own.Rules) < 80 {
		t.Fatalf("%d rules: %v", len(own.Rules), own.Rules)
	}
	for _, s := range []*redistest.Server{from, to} {
		for i, rule := range own.Rules {
			if rule == "resetkeys" || rule == "resetchannels" || rule == "-@all" {
				continue
			}
			give(s, slices.Delete(slices.Clone(own.Rules), i, i+1))
			want := " ACL SETUSER least " + rule
			if strings.ContainsAny(rule, "~&*") {
				want = " ACL SETUSER least '" + rule + "'"
			}
			bad := look()
			exact := len(bad) > 0 && len(bad) <= 2 // two checks notice that INFO is missing
			for _, f := range bad {
				exact = exact && strings.HasSuffix(f.Do, want)
			}
			if !exact {
				t.Errorf("%s without %s: want findings that end in %q: %+v", s.Addr(), rule, want, bad)
			}
		}
		give(s, own.Rules)
	}
}

// TestRightsOfVersions: no server is given a rule that it does not know.
func TestRightsOfVersions(t *testing.T) {
	for version, without := range map[string][]string{
		"6.0.16": {"+function|list", "+pexpiretime", "+client|pause", "+acl|dryrun", "resetchannels", "+hpexpireat"},
		"6.2.7":  {"+function|list", "+pexpiretime", "+acl|dryrun", "+hpexpireat", "+xreadgroup"},
		"7.0.15": {"+hpexpireat", "+xreadgroup"},
		"7.4.0":  {"+xreadgroup"},
	} {
		rules := rights(info{"redis_version": version})
		for _, rule := range without {
			if slices.Contains(rules, rule) {
				t.Errorf("%s is given %s", version, rule)
			}
		}
		for _, rule := range []string{"~*", "-@all", "+acl|setuser", "+dump", "+restore", "+psubscribe"} {
			if !slices.Contains(rules, rule) {
				t.Errorf("%s is not given %s", version, rule)
			}
		}
	}
}
