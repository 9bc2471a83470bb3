package acl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Writer writes a plan to the target.
type Writer struct {
	Client *redis.Client
	// Watch are keys of the target's database 0; when one is written before all is done,
	// nothing is. May is asked once they are watched, on the connection that then writes.
	Watch []string
	May   func(context.Context, *redis.Tx) error
}

// ErrMoved means that a key which was watched was written: nothing was changed.
var ErrMoved = errors.New("a switch has begun meanwhile; nothing was changed")

// Apply writes the users of a plan, all in one transaction, and reads them back. An error
// that is Unequal names users that are there otherwise than they were to be; with any other
// one but ErrMoved it is not known what was done, so plan again.
func (w Writer) Apply(ctx context.Context, p Plan) error {
	steps := p.writes()
	if len(steps) == 0 {
		return nil
	}
	err := w.Client.Watch(ctx, func(tx *redis.Tx) error {
		if w.May != nil {
			if err := w.May(ctx, tx); err != nil {
				return err
			}
		}
		if err := tryAll(ctx, tx, steps, p.to.Known); err != nil {
			return err
		}
		cmds, err := tx.TxPipelined(ctx, func(q redis.Pipeliner) error {
			for _, s := range steps {
				q.Do(ctx, s.command(p.to.Known)...)
			}
			return nil
		})
		if errors.Is(err, redis.TxFailedErr) {
			return ErrMoved
		}
		for i, c := range cmds {
			if e := c.Err(); e != nil && i < len(steps) {
				return told(fmt.Sprintf("writing ACL user %q", steps[i].Name), e)
			}
		}
		return err
	}, w.Watch...)
	if err != nil {
		return err
	}
	return w.readBack(ctx, steps, p.to.Catalog)
}

// writes are the steps that change something. Users as whom we are logged in come last, so
// that nothing is refused to us before.
func (p Plan) writes() (steps []Step) {
	for _, s := range p.Steps {
		if s.Action == Create || s.Action == Change || s.Action == Remove {
			steps = append(steps, s)
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return order(a.Name == p.self) - order(b.Name == p.self) })
	return steps
}

func order(last bool) int {
	if last {
		return 1
	}
	return 0
}

func (s Step) command(k Known) []any {
	if s.Action == Remove {
		return []any{"ACL", "DELUSER", s.Name}
	}
	out := []any{"ACL", "SETUSER", s.Name}
	for _, w := range s.user.setWords(k) {
		out = append(out, w)
	}
	return out
}

// tryAll has the server read all rules, with a wrong one behind them, before it is to take
// any: a transaction does not undo its first commands when a later one is refused.
func tryAll(ctx context.Context, tx *redis.Tx, steps []Step, k Known) error {
	p := tx.Pipeline()
	answers := make(map[string]*redis.Cmd)
	for _, s := range steps {
		if s.Action == Remove {
			continue
		}
		args := append(s.command(k), wrong)
		args[2] = probeUser
		answers[s.Name] = p.Do(ctx, args...)
	}
	if len(answers) == 0 {
		return nil
	}
	_, _ = p.Exec(ctx) // each has its own error
	for _, s := range steps {
		a := answers[s.Name]
		if a == nil {
			continue
		}
		why, err := refusal(a.Err())
		if err != nil {
			if a.Err() == nil {
				err = errors.Join(err, tx.Do(context.WithoutCancel(ctx), "ACL", "DELUSER", probeUser).Err())
			}
			return err
		}
		if why != "" {
			return fmt.Errorf("the target does not take the rules of ACL user %q: %s; nothing was changed", s.Name, redacted(why))
		}
	}
	return nil
}

// Unequal are users that are on the target otherwise than they were to be.
type Unequal []string

func (u Unequal) Error() string {
	return "ACL users that are on the target otherwise than they were written: " + strings.Join(u, ", ") + "; somebody else may be changing them, so plan again"
}

func (w Writer) readBack(ctx context.Context, steps []Step, c Catalog) error {
	users, _, err := Read(ctx, w.Client)
	if err != nil {
		return fmt.Errorf("reading back what was written: %w", err)
	}
	var wrong Unequal
	for _, s := range steps {
		at := slices.IndexFunc(users, func(u User) bool { return u.Name == s.Name })
		switch {
		case s.Action == Remove && at < 0:
		case s.Action == Remove || at < 0:
			wrong = append(wrong, fmt.Sprintf("%q", s.Name))
		case !same(users[at], *s.user, c):
			of := make([]string, 0, 2)
			for _, d := range differences(users[at], *s.user, c) {
				of = append(of, d.Of)
			}
			wrong = append(wrong, fmt.Sprintf("%q (%s)", s.Name, strings.Join(of, ", ")))
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// Where the users of a server are kept over its restart.
const (
	InFile   = "aclfile"
	InConfig = "config"
	Nowhere  = "nowhere"
)

// Save has the server keep its users: in its aclfile where it has one, and in its
// configuration file if persist allows that, for all its other settings are written with
// it. It returns where they are kept now.
func (w Writer) Save(ctx context.Context, persist bool) (string, error) {
	err := w.Client.Do(ctx, "ACL", "SAVE").Err()
	switch {
	case err == nil:
		return InFile, nil
	case !strings.Contains(err.Error(), "not configured to use an ACL file"):
		return Nowhere, told("ACL SAVE", err)
	case !persist:
		return Nowhere, nil
	}
	if err := w.Client.Do(ctx, "CONFIG", "REWRITE").Err(); err != nil {
		return Nowhere, told("CONFIG REWRITE", err)
	}
	return InConfig, nil
}
