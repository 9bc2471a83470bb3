package conn

import (
	"bufio"
	"errors"
	"math"
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

// TestWireReadsEveryNumber of 64 bits: expiries have up to 19 digits.
func TestWireReadsEveryNumber(t *testing.T) {
	s := redistest.Start(t)
	w, err := pool(t, s.URL(0)).Wire(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, n := range []int64{0, 1, -1, 1e18 - 1, 1e18, math.MaxInt64, -1e18, math.MinInt64} {
		w.Begin(3)
		w.Arg("SET")
		w.Arg("n")
		w.Number(n)
		w.Command("INCRBY", "n", "0")
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := w.Status(); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := w.Int(); got != n || !ok || err != nil {
			t.Fatalf("%d, %v instead of %d: %v", got, ok, n, err)
		}
	}
}

// TestWireTrustsNoNumber that no server sends.
func TestWireTrustsNoNumber(t *testing.T) {
	for _, line := range []string{":", ":-", ":1a", ":+1", ": 1", ":9223372036854775808", ":-9223372036854775809", "$9223372036854775807", "*9223372036854775807"} {
		w := &Wire{r: bufio.NewReader(strings.NewReader(line + "\r\n"))}
		if _, err := w.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		if _, n, err := w.next(); err == nil {
			t.Errorf("%q is the number %d", line, n)
		}
	}
}
