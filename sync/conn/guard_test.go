package conn

import (
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

var errNot = errors.New("not this one")

// Every connection that is made under a guard is looked at, those that were made before
// are not, and a refused one is of no use.
func TestGuardLooksAtNewConnections(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("app on >secret ~* &* +@all", "blind on >secret ~app:* &* +@all"))
	c := s.Client(0)
	for _, user := range []string{"app", "blind"} {
		t.Run(user, func(t *testing.T) {
			p := pool(t, fmt.Sprintf("redis://%s:secret@%s", user, s.Addr()))
			before, err := p.Wire(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer before.Close()
			var asked []string
			p.Guard(&Guard{Key: "who", Allow: func(value string) error {
				asked = append(asked, value)
				if value == "other" {
					return fmt.Errorf("the guard: %w", errNot)
				}
				return nil
			}})
			like := p.Like(p.Endpoint(), "like", p.timeout)
			defer func() { _ = like.Close() }()
			for i, value := range []string{"", "me", "other"} {
				if value != "" {
					if err := c.Set(t.Context(), "who", value, 0).Err(); err != nil {
						t.Fatal(err)
					}
				} else if err := c.Del(t.Context(), "who").Err(); err != nil {
					t.Fatal(err)
				}
				asked = nil
				refused := value == "other" && user == "app"
				for _, db := range []int{0, 3} {
					w, err := like.Wire(t.Context(), db)
					if refused != errors.Is(err, errNot) || !refused && err != nil {
						t.Errorf("%q: a wire to database %d: %v", value, db, err)
					}
					if err == nil {
						w.Close()
					}
					// A client of its own, so that there is a new connection.
					fresh := p.Like(p.Endpoint(), "fresh", p.timeout)
					err = fresh.DB(db).Set(t.Context(), "app:k", i, 0).Err()
					if refused != errors.Is(err, errNot) || !refused && err != nil {
						t.Errorf("%q: a client in database %d: %v", value, db, err)
					}
					if got := s.Client(db).Get(t.Context(), "app:k").Val(); !refused && got != fmt.Sprint(i) {
						t.Errorf("%q: what was written to database %d is %q there", value, db, got)
					}
					_ = fresh.Close()
				}
				if user == "blind" {
					value = ""
				}
				for _, was := range asked {
					if was != value {
						t.Errorf("the guard was told %q, want %q", was, value)
					}
				}
				if len(asked) != 4 {
					t.Errorf("%q: the guard was asked %d times", value, len(asked))
				}
			}
			before.Command("PING")
			if err := before.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := before.Status(); err != nil {
				t.Errorf("a connection from before the guard: %v", err)
			}
		})
	}
}

// A wrong password is what the error tells of, and not that nobody may look.
func TestGuardBehindAWrongPassword(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("app on >secret ~* &* +@all"))
	p := pool(t, "redis://app:wrong@"+s.Addr())
	p.Guard(&Guard{Key: "who", Allow: func(string) error { return nil }})
	if _, err := p.Wire(t.Context(), 0); err == nil || !errors.As(err, new(Refusal)) {
		t.Errorf("a wire: %v", err)
	}
}

// TestPipelinesOfARefusedConnection: each command of one says that nobody has heard it.
func TestPipelinesOfARefusedConnection(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("app on >secret ~* &* +@all"))
	p := pool(t, "redis://app:wrong@"+s.Addr())
	for name, client := range map[string]*redis.Client{"a database": p.DB(0), "a place": p.At(router.Place{DB: 2, Prefix: "p:"})} {
		for _, pipe := range []redis.Pipeliner{client.Pipeline(), client.TxPipeline()} {
			set, get := pipe.Set(t.Context(), "k", 1, 0), pipe.Get(t.Context(), "k")
			_, err := pipe.Exec(t.Context())
			if err == nil || set.Err() == nil || get.Err() == nil {
				t.Errorf("%s: %v: %v, %v", name, err, set.Err(), get.Err())
			}
		}
	}
}
