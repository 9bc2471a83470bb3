package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestFenceSavedBehindACutover: the users of the source are saved behind the cutover, so that a
// restart does not take its fence down. Behind a rollback a restart brings it back, to the server
// that the applications are on: they are let in again.
func TestFenceSavedBehindACutover(t *testing.T) {
	t.Parallel()
	users := func() redistest.Option {
		file := filepath.Join(t.TempDir(), "users.acl")
		if err := os.WriteFile(file, []byte("user mover on >secret ~* &* +@all\nuser default on nopass ~* &* +@all\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return redistest.WithConfig("aclfile", file)
	}
	src, dst := redistest.Start(t, append([]redistest.Option{users()}, keeping...)...), redistest.Start(t, users())
	url := func(s *redistest.Server) string { return fmt.Sprintf("redis://mover:secret@%s", s.Addr()) }
	c := newSidecar(t, setup{source: url(src), target: url(dst), dbmap: "0=0", extra: []string{"--cutover.create_user=false"}})
	c.start("")
	c.awaitReady()
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	hand := src.ClientAs("mover", "secret", 0)
	do(t, hand, "ACL", "SAVE")
	if err := hand.Close(); err != nil { // nobody but us is to be seen as that user
		t.Fatal(err)
	}
	c.awaitReady()
	if _, err := c.rollback(); err != nil {
		t.Fatal(err)
	}
	c.awaitReady()
	src.Kill()
	rise(t, src)
	for name, address := range map[string]string{"past the proxy": src.Addr(), "through the proxy": c.addr} {
		redistest.Eventually(t, 20*time.Second, func() error {
			app := redis.NewClient(redistest.Options(address, 0))
			defer func() { _ = app.Close() }()
			return app.Set(t.Context(), "k", "v", 0).Err()
		}, "a write %s", name)
	}
	if st := c.awaitReady(); st.Side != router.Source {
		t.Errorf("the applications are on the %s", st.Side)
	}
}
