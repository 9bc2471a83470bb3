package migration

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/conn"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

const (
	ownPassword = "own-secret"
	testTimeout = 5 * time.Second
)

// ownACL is our user as identity creates it.
var ownACL = OwnUser + " on >" + ownPassword + " ~* &* +@all"

// endpointOf returns the server's address with the credentials of a user.
func endpointOf(s *redistest.Server, user, password string) config.Endpoint {
	return config.Endpoint{Network: "tcp", Address: s.Addr(), Username: user, Password: password}
}

// poolOf returns connections as a user, closed with the test.
func poolOf(t *testing.T, s *redistest.Server, user, password string) *conn.Pool {
	t.Helper()
	p := conn.New(endpointOf(s, user, password), "test", testTimeout)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// do sends a command that must succeed.
func do(t *testing.T, c redis.UniversalClient, args ...any) any {
	t.Helper()
	v, err := c.Do(t.Context(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("%v: %v", args[:min(len(args), 3)], err)
	}
	return v
}

// aclList returns the server's users, in the server's own words and sorted.
func aclList(t *testing.T, c redis.UniversalClient) []string {
	t.Helper()
	list, err := c.Do(t.Context(), "ACL", "LIST").StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// wantRefusal fails unless err is the server's refusal with one of the codes.
func wantRefusal(t *testing.T, what string, err error, codes ...string) {
	t.Helper()
	for _, c := range codes {
		if err != nil && strings.HasPrefix(err.Error(), c) {
			return
		}
	}
	t.Errorf("%s: %v, want %s", what, err, strings.Join(codes, " or "))
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
