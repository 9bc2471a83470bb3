package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/acl"
)

func hashOf(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// TestACL plans, applies and does so again; what it prints shows no password.
func TestACL(t *testing.T) {
	source := redistest.Start(t, redistest.WithPassword("sesame"), redistest.WithACL("app on >pw-of-app ~a:* resetchannels -@all +@read", "fun on >pw ~* -@all +lolwut"))
	target := redistest.Start(t, redistest.WithRenamed("LOLWUT", ""), redistest.WithACL("old on >pw-of-old"))
	dir := shortDir(t)
	with := func(verb string, more ...string) []string {
		return append([]string{"acl", verb, "--source", url(source), "--target", url(target)}, more...)
	}
	var out strings.Builder
	do := func(code int, args ...string) string {
		t.Helper()
		r := must(t, dir, code, args...)
		out.WriteString(r.stdout + r.stderr)
		return r.stdout
	}
	for _, args := range [][]string{{"acl"}, {"acl", "show"}, with("plan", "--persist"), with("plan", "--include", "crossfade"), {"acl", "plan"}, with("plan", "--sync.workers", "3"), with("plan", "app")} {
		if r := call(t, dir, nil, args...); r.code != 2 {
			t.Errorf("%v: exit status %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	text := do(3, with("plan")...)
	for _, want := range []string{"create  app", "commands   -@all +@read", "passwords  1", "refuse  fun", "+lolwut: the target has no command LOLWUT", "leave   default", "leave   old", "Nothing was changed"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	var plan struct {
		OK      bool       `json:"ok"`
		Applied bool       `json:"applied"`
		Users   []acl.Step `json:"users"`
	}
	if err := json.Unmarshal([]byte(do(3, with("plan", "--json")...)), &plan); err != nil || plan.OK || plan.Applied || len(plan.Users) != 4 || plan.Users[0].Action != acl.Create {
		t.Errorf("--json: %+v, %v", plan, err)
	}
	do(0, with("plan", "--users", "app")...)
	do(1, with("plan", "--users", "nobody")...)
	if text := do(3, with("apply")...); !strings.Contains(text, "1 user created") || !strings.Contains(text, "--persist runs CONFIG REWRITE") {
		t.Errorf("apply:\n%s", text)
	}
	if err := target.ClientAs("app", "pw-of-app", 0).Do(t.Context(), "GET", "a:x").Err(); err == nil || err.Error() != "redis: nil" {
		t.Errorf("as app: %v", err)
	}
	if text := do(0, with("apply", "--force-weaker", "--prune", "--persist")...); !strings.Contains(text, "1 user created, 0 changed, 1 removed, 1 were") || !strings.Contains(text, "CONFIG REWRITE") {
		t.Errorf("apply:\n%s", text)
	}
	if conf, err := os.ReadFile(filepath.Join(target.Dir(), "redis.conf")); err != nil || !strings.Contains(string(conf), "user app on") {
		t.Errorf("the target's configuration file: %v", err)
	}
	if err := json.Unmarshal([]byte(do(0, with("apply", "--force-weaker", "--json")...)), &plan); err != nil || !plan.OK || !plan.Applied {
		t.Errorf("--json: %+v, %v", plan, err)
	}
	for _, secret := range []string{"pw-of-app", "sesame", hashOf("pw-of-app"), hashOf("pw"), hashOf("pw-of-old")} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%s in\n%s", secret, out.String())
		}
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	do(1, with("plan", "--proxy.dial_timeout", "100ms")...)
}

// TestACLAcrossASwitch: clients who log in as a user of the source are the same user on
// the target, without anybody having made it there by hand.
func TestACLAcrossASwitch(t *testing.T) {
	source := redistest.Start(t, redistest.WithACL("app on >pw ~a:* +@all -@admin"))
	target := redistest.Start(t)
	cf := startSidecar(t, source, target)
	cf.awaitReady(t)
	servers := []string{"--source", url(source), "--target", url(target)}
	must(t, cf.dir, 0, append([]string{"acl", "apply"}, servers...)...)
	c := clientOf(t, cf.dir)
	c.do("AUTH", "app", "pw")
	c.do("SET", "a:1", "x")
	must(t, cf.dir, 0, "cutover")
	c.do("SET", "a:2", "x")
	redistest.Eventually(t, 15*time.Second, func() bool { return cf.status(t).Phase == migration.ReverseTailing }, "the way back")
	if got := target.Client(0).Get(t.Context(), "a:2").Val(); got != "x" {
		t.Errorf("a:2 is %q on the target", got)
	}
	// The source's users have the fence's rules now.
	r := must(t, cf.dir, 3, append([]string{"acl", "apply", "--include", "default"}, servers...)...)
	if !strings.Contains(r.stderr, "fenced") {
		t.Errorf("a fenced source: %s", r.stderr)
	}
	c.do("SET", "a:3", "x")
	cf.awaitReady(t)
	must(t, cf.dir, 0, "rollback")
	c.do("SET", "a:4", "x")
	redistest.Eventually(t, 15*time.Second, func() bool {
		return must(t, cf.dir, 3, append([]string{"acl", "plan"}, servers...)...).code == 3
	}, "the target is fenced")
}
