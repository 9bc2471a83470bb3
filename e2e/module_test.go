package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// quietModule builds the module, whose command is QUIET.SET, and returns its file.
func quietModule(t *testing.T) string {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler, for the module")
	}
	module := filepath.Join(t.TempDir(), "quiet.so")
	if out, err := exec.Command(compiler, "-shared", "-fPIC", "-o", module, "testdata/module/quiet.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return module
}

// TestModuleThatTellsNothing moves keys that only a module's command changes, of which
// the server does not notify, there and back.
func TestModuleThatTellsNothing(t *testing.T) {
	loaded := redistest.WithConfig("loadmodule", quietModule(t))
	src, dst := redistest.Start(t, loaded), redistest.Start(t, loaded)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0,1=5"})
	c.start("")
	c.awaitReady()
	client := redis.NewClient(redistest.Options(c.addr, 1))
	defer func() { _ = client.Close() }()
	ctx := t.Context()
	change := func(n int) {
		t.Helper()
		do(t, client, "QUIET.SET", "alone", n)
		_, err := client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Do(ctx, "quiet.set", "queued", n)
			p.Do(ctx, "quiet.set", fmt.Sprint("new:", n), n)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	has := func(server *redis.Client, n int) {
		t.Helper()
		for _, k := range []string{"alone", "queued", fmt.Sprint("new:", n)} {
			redistest.Eventually(t, 20*time.Second, func() bool { return server.Get(ctx, k).Val() == fmt.Sprint(n) }, "%s is copied", k)
		}
	}
	change(1)
	has(dst.Client(5), 1)
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	change(2)
	if _, err := c.rollback(); err != nil {
		t.Fatal(err)
	}
	has(client, 2)
}

// TestUserOfAModuleThatIsGone: users of the source have rules about a module's command, and the
// module is unloaded while the source is fenced, so that the way back cannot give them back.
// Nobody waits for that, all others have theirs, and who is denied is named until the module is
// there again.
func TestUserOfAModuleThatIsGone(t *testing.T) {
	t.Parallel()
	module := quietModule(t)
	ours := []redistest.Option{
		redistest.WithACL("boss on >boss ~* &* +@all", "other on >pw ~* &* +@all -flushall"),
		redistest.WithConfig("enable-module-command", "yes"),
	}
	src, dst := redistest.Start(t, append(ours, redistest.WithConfig("loadmodule", module))...), redistest.Start(t, ours...)
	byHand := func(args ...any) any { // as whom the fence spares, and who must not be there when it goes up
		t.Helper()
		c := src.ClientAs("boss", "boss", 0)
		defer func() { _ = c.Close() }()
		return must[any](t)(c.Do(t.Context(), args...).Result())
	}
	byHand("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-quiet.set")
	byHand("ACL", "SETUSER", "some", "on", ">pw", "~*", "-@all", "+get", "+quiet.set")
	users := func() []string {
		t.Helper()
		var all []string
		for _, u := range byHand("ACL", "LIST").([]any) {
			all = append(all, fmt.Sprint(u))
		}
		slices.Sort(all)
		return all
	}
	before := users()
	c := newSidecar(t, setup{
		source: "redis://boss:boss@" + src.Addr(), target: "redis://boss:boss@" + dst.Addr(), dbmap: "0=0",
		extra: []string{"--cutover.create_user=false"},
	})
	c.start("")
	c.awaitReady()
	client := redis.NewClient(&redis.Options{Addr: c.addr, Username: "other", Password: "pw", MaxRetries: -1})
	defer func() { _ = client.Close() }()
	do(t, client, "SET", "k", "there")
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	byHand("MODULE", "UNLOAD", "quiet")
	if _, err := c.rollback(); err != nil {
		t.Fatal(err)
	}
	do(t, client, "SET", "k", "back")
	if got := src.ClientAs("other", "pw", 0).Get(t.Context(), "k").Val(); got != "back" {
		t.Errorf("on the source k is %q", got)
	}
	named := func(st migration.Status, user string) bool {
		return slices.ContainsFunc(st.Reasons, func(r string) bool {
			return strings.Contains(r, fmt.Sprintf("%q", user)) && strings.Contains(r, src.Addr()) && strings.Contains(r, "quiet.set")
		})
	}
	st := must[migration.Status](t)(c.status())
	for user, denied := range map[string]bool{"app": true, "some": true, "other": false, "default": false} {
		if named(st, user) != denied {
			t.Errorf("the status names %s: %v; it says %q", user, !denied, st.Reasons)
		}
	}
	if err := src.ClientAs("some", "pw", 0).Get(t.Context(), "k").Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Errorf("a read of one who is denied: %v", err)
	}
	if _, err := c.cutover(); err != nil { // what they were is not forgotten, there and back
		t.Fatal(err)
	}
	if _, err := c.rollback(); err != nil {
		t.Fatal(err)
	}
	byHand("MODULE", "LOAD", module)
	c.await("nobody is denied", func(st migration.Status) bool { return !named(st, "app") && !named(st, "some") })
	if diff := cmp.Diff(before, users()); diff != "" {
		t.Errorf("the users differ (-before +after):\n%s", diff)
	}
	c.end(true)
}
