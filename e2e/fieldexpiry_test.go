package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// TestFieldExpiriesTowardsAServerWithoutThem moves hashes whose fields expire to the
// usual server, from one of those named in CROSSFADE_SERVERS that knows such a thing.
func TestFieldExpiriesTowardsAServerWithoutThem(t *testing.T) {
	others, err := redistest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, p := range others {
		src, dst := redistest.Start(t, redistest.WithBinary(p.Path)), redistest.Start(t)
		if !knows(t.Context(), src.Client(0), "HPEXPIREAT") || knows(t.Context(), dst.Client(0), "HPEXPIREAT") {
			continue
		}
		tried++
		t.Run(p.Name, func(t *testing.T) { fieldExpiries(t, src, dst) })
	}
	if tried == 0 {
		t.Skip("no server of CROSSFADE_SERVERS knows the expiry of hash fields where the usual one does not")
	}
}

func fieldExpiries(t *testing.T, src, dst *redistest.Server) {
	a, b := src.Client(0), dst.Client(0)
	for i := range 500 {
		do(t, a, "HSET", fmt.Sprintf("plain:%d", i), "f", i)
	}
	far := time.Now().Add(time.Hour).UnixMilli()
	do(t, a, "HSET", "small", "f", 1, "g", 2)
	do(t, a, "HPEXPIREAT", "small", far, "FIELDS", 1, "f")
	do(t, a, "HSET", "goes", "f", 1)
	do(t, a, "HPEXPIREAT", "goes", far, "FIELDS", 1, "f")
	for i := range 1000 {
		do(t, a, "HSET", "big", i, strings.Repeat("x", 1000))
	}
	do(t, a, "HPEXPIREAT", "big", far, "FIELDS", 2, 1, 999)
	args := []string{"check", "--source", src.URL(0), "--target", dst.URL(0), "--map", "0=0"}
	if text, code := verb(t, args...); code != exitRefused || !strings.Contains(unwrapped(text), "3 hashes of the source cannot be copied") {
		t.Errorf("check ended with status %d:\n%s", code, text)
	}
	if text, code := verb(t, append(args, "--sync.field_expiries", "drop")...); code != 0 || !strings.Contains(unwrapped(text), "will be copied without") {
		t.Errorf("check with drop ended with status %d:\n%s", code, text)
	}
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0"})
	c.start("")
	client := redis.NewClient(redistest.Options(c.addr, 0))
	defer func() { _ = client.Close() }()
	s := c.await("three keys cannot be copied", func(s migration.Status) bool {
		return len(s.Databases) == 1 && s.Databases[0].Uncopied == 3 && s.Databases[0].Done
	})
	if s.Ready || len(s.Uncopied) != 3 || s.Uncopied[0].Key != "big" || !strings.Contains(strings.Join(s.Reasons, " "), "3 keys cannot be copied") {
		t.Errorf("%+v", s)
	}
	if text, code := verb(t, "status", "--admin", c.adminAddress()); code != 0 || !strings.Contains(unwrapped(text), "its fields have expiries of their own") {
		t.Errorf("status ended with %d:\n%s", code, text)
	}
	if text, code := verb(t, "cutover", "--admin", c.adminAddress()); code != exitRefused || !strings.Contains(text, "field") {
		t.Errorf("cutover ended with status %d:\n%s", code, text)
	}
	if n := b.Exists(t.Context(), "small", "big", "goes").Val(); n != 0 {
		t.Errorf("%d of them are on the target", n)
	}
	// A key like any other again, one that is gone, and one that is left alone.
	do(t, client, "HPERSIST", "small", "FIELDS", 1, "f")
	do(t, client, "DEL", "goes")
	c.await("one key cannot be copied", func(s migration.Status) bool { return s.Databases[0].Uncopied == 1 })
	redistest.Eventually(t, 20*time.Second, func() bool { return b.HLen(t.Context(), "small").Val() == 2 }, "the key is copied that can be again")
	do(t, client, "DEL", "big")
	c.awaitReady()
	for i := range 1000 {
		do(t, client, "HSET", "big", i, strings.Repeat("x", 1000))
	}
	do(t, client, "HPEXPIREAT", "big", far, "FIELDS", 2, 1, 999)
	do(t, client, "HPEXPIREAT", "small", far, "FIELDS", 1, "f")
	c.await("two keys cannot be copied", func(s migration.Status) bool { return s.Databases[0].Uncopied == 2 })
	c.kill()

	c.args = append(c.args, "--sync.field_expiries", "drop")
	c.start("")
	if s := c.awaitReady(); s.Databases[0].Lossy != 2 || s.Databases[0].Uncopied != 0 {
		t.Errorf("%+v", s.Databases)
	}
	if text, code := verb(t, "verify", "--admin", c.adminAddress()); code != 0 {
		t.Errorf("verify ended with status %d:\n%s", code, text)
	}
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	if n := client.HLen(t.Context(), "big").Val(); n != 1000 {
		t.Errorf("%d fields of the big hash after the cutover", n)
	}
}
