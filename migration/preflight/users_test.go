package preflight

import (
	"slices"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestUsers: those that the other server lacks are named, but for the one that we are.
func TestUsers(t *testing.T) {
	from := redistest.Start(t, redistest.WithACL("app on >hidden ~* +get", "web on >hidden ~* +get", "me on >hidden ~* &* +@all"))
	to := redistest.Start(t, redistest.WithACL("web on >hidden"))
	env := environment(t, from, to)
	env.From = pool(t, from.Addr(), "me", "hidden")
	expect(t, run(t, env, StageCheck, from, to), "users", Warn, "1 ACL user", `"app"`, "crossfade acl plan")
	must(t, to.Client(0).Do(t.Context(), "ACL", "SETUSER", "app").Err())
	findings := run(t, env, StageCheck, from, to)
	if slices.ContainsFunc(findings, func(f Finding) bool { return f.Check == "users" }) {
		t.Errorf("all are there: %+v", findings)
	}
}
