package value

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// CROSSFADE_SERVERS names further server programs, see redistest.Programs. Every pair
// of them and the usual redis-server is tried both ways.
func TestAcrossVersions(t *testing.T) {
	list, err := redistest.Programs()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Skip("CROSSFADE_SERVERS is not set")
	}
	servers := []*redistest.Server{redistest.Start(t)}
	for _, p := range list {
		servers = append(servers, redistest.Start(t, redistest.WithBinary(p.Path)))
	}
	for i, s := range servers {
		src := s.Client(0)
		all := plant(t, src)
		fieldTTL := src.Do(t.Context(), "HPEXPIREAT", "hash small", time.Now().Add(time.Hour).UnixMilli(), "FIELDS", 1, "f1\xff").Err() == nil
		for j, d := range servers {
			if i == j && !fieldTTL {
				continue
			}
			t.Run(fmt.Sprintf("%s to %s", version(t, src), version(t, d.Client(0))), func(t *testing.T) {
				across(t, src, d.Client(2+i), all, fieldTTL)
			})
		}
	}
}

func version(t *testing.T, c *redis.Client) string {
	t.Helper()
	info, err := c.InfoMap(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	v := info["Server"]["redis_version"]
	if name := info["Server"]["valkey_version"]; name != "" {
		v = "valkey " + name
	}
	return v
}

func across(t *testing.T, src, dst *redis.Client, all []fixture, fieldTTL bool) {
	refused := 0
	out, err := (&Batch{}).Copy(t.Context(), src, dst, keysOf(all))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range all {
		switch {
		case errors.Is(out[i].Err, ErrRestoreRefused):
			refused++
		case out[i].Err != nil:
			t.Errorf("%q: %v", f.key, out[i].Err)
		default:
			wantEqual(t, src, dst, f.key, f.key)
		}
		o, err := Logical(t.Context(), src, dst, f.key)
		if fieldTTL && f.key == "hash small" && errors.Is(err, ErrFieldExpiry) {
			t.Logf("%q: %v", f.key, err)
			continue
		}
		if err != nil || !o.Copied {
			t.Errorf("%q: %+v, %v", f.key, o, err)
			continue
		}
		wantEqual(t, src, dst, f.key, f.key)
	}
	noTemp(t, dst)
	t.Logf("%d of %d payloads refused", refused, len(all))
	if n := len(run(t, dst, "KEYS", "*").([]any)); n < len(all)-1 {
		t.Errorf("%d keys", n)
	}
}
