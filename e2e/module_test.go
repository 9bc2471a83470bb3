package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestModuleThatTellsNothing moves keys that only a module's command changes, of which
// the server does not notify, there and back.
func TestModuleThatTellsNothing(t *testing.T) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler, for the module")
	}
	module := filepath.Join(t.TempDir(), "quiet.so")
	if out, err := exec.Command(compiler, "-shared", "-fPIC", "-o", module, "testdata/module/quiet.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	loaded := redistest.WithConfig("loadmodule", module)
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
