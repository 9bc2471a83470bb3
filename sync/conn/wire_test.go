package conn

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
)

func TestMain(m *testing.M) {
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func pool(t *testing.T, url string) *Pool {
	t.Helper()
	e, err := config.Server{URL: config.Secret(url)}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	p := New(e, "wire-test", 5*time.Second)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestWireIsWhoAndWhereItSays(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("app on >secret ~* &* +@all"))
	w, err := pool(t, "redis://app:secret@"+s.Addr()).Wire(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Command("SET", "k", "v")
	w.Command("CLIENT", "LIST", "ID", "0")
	w.Command("NOSUCH")
	w.Command("CLIENT", "GETNAME")
	w.Command("ACL", "WHOAMI")
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.Status(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Text(); err != nil {
		t.Fatal(err)
	}
	if err := w.Status(); !errors.As(err, new(Refusal)) {
		t.Errorf("an unknown command: %v", err)
	}
	for _, want := range []string{NamePrefix + "wire-test", "app"} {
		if got, err := w.Text(); err != nil || got != want {
			t.Errorf("%q, not %q; %v", got, want, err)
		}
	}
	if got := s.Client(3).Get(t.Context(), "k").Val(); got != "v" {
		t.Errorf("k in database 3 is %q", got)
	}
}

// TestNoWireWithoutItsName refuses a connection that could not be found again to be
// closed, and one that may not be where it should.
func TestNoWireWithoutItsName(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("app on >secret ~* &* +@all -client|setname", "low on >secret ~* &* +@all -select"))
	for user, db := range map[string]int{"app:secret": 0, "low:secret": 3, "app:wrong": 0} {
		w, err := pool(t, "redis://"+user+"@"+s.Addr()).Wire(t.Context(), db)
		if err == nil {
			w.Close()
			t.Errorf("%s, database %d: connected", user, db)
		} else if !strings.Contains(err.Error(), s.Addr()) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", user, err)
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "-1": -1, "-2": -2, "999999999999999999": 999999999999999999} {
		if n, ok := number([]byte(text)); !ok || n != want {
			t.Errorf("%q: %d, %v", text, n, ok)
		}
	}
	for _, text := range []string{"", "-", "1a", "+1", "1234567890123456789", " 1"} {
		if _, ok := number([]byte(text)); ok {
			t.Errorf("%q is a number", text)
		}
	}
}
