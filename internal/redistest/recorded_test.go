package redistest_test

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

func TestRecordedSaysWhatItWasGiven(t *testing.T) {
	addr := redistest.Recorded{"get a": "1", "get b": nil, "acl users": []string{"x", "y"}, "set a 1": errors.New("OOM no")}.Listen(t)
	c := redis.NewClient(redistest.Options(addr, 0))
	defer func() { _ = c.Close() }()
	if got, err := c.Get(t.Context(), "a").Result(); got != "1" || err != nil {
		t.Errorf("GET a: %q, %v", got, err)
	}
	if err := c.Get(t.Context(), "b").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("GET b: %v", err)
	}
	if got, err := c.Do(t.Context(), "ACL", "USERS").StringSlice(); len(got) != 2 || err != nil {
		t.Errorf("ACL USERS: %q, %v", got, err)
	}
	for command, want := range map[string]string{"set": "OOM no", "del": "ERR unknown command 'del'"} {
		if err := c.Do(t.Context(), command, "a", "1").Err(); err == nil || err.Error() != want {
			t.Errorf("%s: %v", command, err)
		}
	}
}
