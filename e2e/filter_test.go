package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// TestPartialCopy copies a part of the keys to a target that holds others: it is kept
// up, verify looks at nothing else, and no cutover is made that nobody has asked for.
func TestPartialCopy(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	filter := []string{"--sync.match", "user:*,session:[0-9]*", "--sync.types", "hash,zset"}
	a, b := src.Client(0), dst.Client(0)
	for i := range 300 {
		do(t, a, "HSET", fmt.Sprintf("user:%d", i), "f", i)
		do(t, a, "ZADD", fmt.Sprintf("session:%d", i), i, "m")
		do(t, a, "SET", fmt.Sprintf("user:string:%d", i), i)
		do(t, a, "HSET", fmt.Sprintf("order:%d", i), "f", i)
		do(t, b, "HSET", fmt.Sprintf("tenant:%d", i), "f", i)
		do(t, b, "SET", fmt.Sprintf("user:own:%d", i), i) // the name is inside, the type is not
	}
	servers := []string{"--source", src.URL(0), "--target", dst.URL(0), "--map", "0=0"}
	text, code := verb(t, append(append([]string{"check"}, servers...), filter...)...)
	if code != 0 || !strings.Contains(unwrapped(text), "a cutover is refused") || !strings.Contains(unwrapped(text), "hold no keys of those that are copied") {
		t.Errorf("check ended with status %d:\n%s", code, text)
	}
	if text, code := verb(t, append([]string{"check"}, servers...)...); code != exitRefused || !strings.Contains(unwrapped(text), "already holds") {
		t.Errorf("without a filter check ended with status %d:\n%s", code, text)
	}
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: filter})
	c.start("")
	client := redis.NewClient(redistest.Options(c.addr, 0))
	defer func() { _ = client.Close() }()
	c.await("copied", func(s migration.Status) bool { return s.Phase == "TAILING" && s.Dirty == 0 })
	do(t, client, "DEL", "user:1", "order:1", "session:2")
	do(t, client, "HSET", "user:3", "g", "new")
	do(t, client, "DEL", "user:4")
	do(t, client, "SET", "user:4", "a string now")
	do(t, client, "DEL", "user:string:5")
	do(t, client, "HSET", "user:string:5", "a", "hash now")
	inside := []string{"user:3", "user:string:5", "session:7"}
	redistest.Eventually(t, 20*time.Second, func() error {
		n, err := b.DBSize(t.Context()).Result()
		if err != nil {
			return err
		}
		// 300 + 300 copied, 3 gone or of another type, 1 more, 600 of the target's own.
		if n -= int64(len(b.Keys(t.Context(), "crossfade:*").Val())); n != 600-3+1+600 {
			return fmt.Errorf("%d keys on the target", n)
		}
		for _, k := range inside {
			if a.Dump(t.Context(), k).Val() != b.Dump(t.Context(), k).Val() {
				return fmt.Errorf("key %q differs", k)
			}
		}
		return nil
	}, "the changes arrive")

	// verify, by the sidecar and alone, sees what is inside and nothing else.
	if text, code := verb(t, "verify", "--admin", c.adminAddress()); code != 0 || !strings.Contains(text, "sync.match: user:*") {
		t.Errorf("verify ended with status %d:\n%s", code, text)
	}
	alone := slices.Concat([]string{"verify", "--report", filepath.Join(t.TempDir(), "report")}, servers, filter)
	if text, code := verb(t, alone...); code != 0 {
		t.Errorf("verify --source ended with status %d:\n%s", code, text)
	}

	// No cutover without a word in the configuration.
	_, err := c.cutover()
	var answered *admin.Error
	if !errors.As(err, &answered) || answered.Code != http.StatusConflict || !strings.Contains(err.Error(), "cutover.allow_partial") {
		t.Errorf("cutover: %v", err)
	}
	if text, code := verb(t, "cutover", "--admin", c.adminAddress()); code != exitRefused || !strings.Contains(text, "sync.match: user:*, session:[0-9]*; sync.types: hash, zset") {
		t.Errorf("cutover ended with status %d:\n%s", code, text)
	}
	if text, code := verb(t, "status", "--admin", c.adminAddress()); code != 0 || !strings.Contains(unwrapped(text), "only these keys are copied: sync.match") {
		t.Errorf("status ended with %d:\n%s", code, text)
	}
	c.kill()

	// It is not known to have been given up, so nobody repairs beside it.
	if text, code := verb(t, slices.Concat(alone, []string{"--repair"})...); code != 1 || !strings.Contains(unwrapped(text), "nothing is repaired directly") {
		t.Errorf("verify --repair of a migration that is not over ended with status %d:\n%s", code, text)
	}
	for _, client := range []*redis.Client{a, b} {
		do(t, client, "DEL", "crossfade:record", "crossfade:journal")
	}

	// What is planted inside is found and mended, what is outside is not touched.
	do(t, b, "HSET", "user:9", "f", "wrong")
	do(t, b, "DEL", "session:9")
	do(t, b, "ZADD", "session:999", 1, "too much")
	do(t, b, "HSET", "user:4", "left", "over") // the source has a string
	do(t, b, "HSET", "order:9", "not", "ours")
	report := filepath.Join(t.TempDir(), "r")
	if text, code := verb(t, append(alone, "--repair", "--json", "--report", report)...); code != 0 {
		t.Errorf("verify --repair ended with status %d:\n%s", code, text)
	} else {
		var r struct{ Differing, Repaired int }
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.Differing != 4 || r.Repaired != 4 {
			t.Errorf("%+v, %v:\n%s", r, err, text)
		}
	}
	for k, want := range map[string]int64{"user:9": 1, "session:9": 1, "session:999": 0, "user:4": 0, "order:9": 1, "tenant:5": 1, "user:own:5": 1} {
		if n := b.Exists(t.Context(), k).Val(); n != want {
			t.Errorf("%s: %d on the target, not %d", k, n, want)
		}
	}

	// With that word it is a cutover, and a way back for what is inside.
	c.args = append(c.args, "--cutover.allow_partial")
	c.start("")
	c.awaitReady()
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	do(t, client, "HSET", "user:after", "f", "v")
	do(t, client, "SET", "order:after", "v")
	if client.Exists(t.Context(), "tenant:5").Val() != 1 {
		t.Error("the clients are not on the target")
	}
	c.awaitReady()
	if _, err := c.rollback(); err != nil {
		t.Fatal(err)
	}
	if client.Exists(t.Context(), "user:after").Val() != 1 || client.Exists(t.Context(), "order:after").Val() != 0 ||
		client.Exists(t.Context(), "order:7").Val() != 1 || client.Exists(t.Context(), "user:string:7").Val() != 1 {
		t.Error("the source has not what it should after the rollback")
	}
}
