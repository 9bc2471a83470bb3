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
	source := redistest.Start(t, redistest.WithPassword("sesame"), redistest.WithACL("app on >pw-of-app ~a:* resetchannels -@all +@read"))
	target := redistest.Start(t, redistest.WithACL("old on >pw-of-old", "app on >pw-of-old ~b:*"))
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
	text := do(0, with("plan")...)
	for _, want := range []string{"change  app", "commands   now   -@all\n", "then  -@all +@read", "passwords  now   1\n", "then  1, 1 of them new", "leave   default", "leave   old", "Nothing was changed"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	narrow(t, text)
	var plan struct {
		OK      bool       `json:"ok"`
		Applied bool       `json:"applied"`
		Kept    string     `json:"kept"`
		Users   []acl.Step `json:"users"`
	}
	if err := json.Unmarshal([]byte(do(0, with("plan", "--json")...)), &plan); err != nil || !plan.OK || plan.Applied || len(plan.Users) != 3 || plan.Users[0].Action != acl.Change {
		t.Errorf("--json: %+v, %v", plan, err)
	}
	do(1, with("plan", "--users", "nobody")...)
	if text := do(0, with("apply", "--users", "app")...); !strings.Contains(text, "0 users created, 1 changed") || !strings.Contains(text, "--persist runs CONFIG REWRITE") {
		t.Errorf("apply:\n%s", text)
	}
	if err := target.ClientAs("app", "pw-of-app", 0).Do(t.Context(), "GET", "a:x").Err(); err == nil || err.Error() != "redis: nil" {
		t.Errorf("as app: %v", err)
	}
	if text := do(0, with("apply", "--prune", "--persist")...); !strings.Contains(text, "0 users created, 0 changed, 1 removed, 1 were") || !strings.Contains(text, "CONFIG REWRITE") {
		t.Errorf("apply:\n%s", text)
	}
	if conf, err := os.ReadFile(filepath.Join(target.Dir(), "redis.conf")); err != nil || !strings.Contains(string(conf), "user app on") || strings.Contains(string(conf), "user old") {
		t.Errorf("the target's configuration file: %v", err)
	}
	if err := json.Unmarshal([]byte(do(0, with("apply", "--json")...)), &plan); err != nil || !plan.OK || !plan.Applied || plan.Kept != acl.Nowhere {
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

// narrow fails for a text of more than 80 columns.
func narrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}

// TestACLRefuses: a user that the target cannot have is left out, and all else copied.
func TestACLRefuses(t *testing.T) {
	user := func(commands string) []any {
		return []any{"flags", []string{"on"}, "passwords", []string{hashOf("pw")}, "commands", commands, "keys", "~*", "channels", "&*", "selectors", []any{}}
	}
	source := redistest.Recorded{
		"get crossfade:record": nil, "get crossfade:journal": nil,
		"acl users": []string{"default", "plain", "vectors"}, "acl whoami": "default",
		"acl getuser default": user("+@all"), "acl getuser plain": user("-@all +get"), "acl getuser vectors": user("-@all +get +vsim"),
		"acl cat": []string{"read", "fast"}, "acl cat read": []string{"get", "vsim"}, "acl cat fast": []string{"get"},
	}.Listen(t)
	target := redistest.Start(t)
	dir := shortDir(t)
	with := func(verb string, more ...string) []string {
		return append([]string{"acl", verb, "--source", "redis://" + source, "--target", url(target)}, more...)
	}
	r := must(t, dir, 3, with("plan")...)
	for _, want := range []string{"create  plain", "refuse  vectors", "+vsim: the target has no command VSIM", "1 user to create, 0 to change, 0 to remove, 0 as they should be, 1 refused"} {
		if !strings.Contains(strings.Join(strings.Fields(r.stdout), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	narrow(t, r.stdout)
	var plan struct {
		OK    bool       `json:"ok"`
		Users []acl.Step `json:"users"`
	}
	r = must(t, dir, 3, with("apply", "--json")...)
	if err := json.Unmarshal([]byte(r.stdout), &plan); err != nil || plan.OK || len(plan.Users) != 3 || len(plan.Users[2].Lost) != 1 || plan.Users[2].Lost[0].Rule != "+vsim" {
		t.Errorf("--json: %+v, %v", plan, err)
	}
	users, err := target.Client(0).Do(t.Context(), "ACL", "USERS").StringSlice()
	if err != nil || strings.Join(users, " ") != "default plain" {
		t.Errorf("the target's users: %v, %v", users, err)
	}
	must(t, dir, 0, with("apply", "--force-weaker")...)
	must(t, dir, 0, with("plan", "--force-weaker")...)
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
