package sentinel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// grace is how long the slower sentinels are waited for when one has answered.
const grace = 250 * time.Millisecond

// answer is what one sentinel says.
type answer struct {
	sentinel string
	master   string
	epoch    int64 // of the configuration that says so
	err      error
}

// ask returns the master that the newest configuration among the sentinels names. One
// that was cut off from the others goes by an older one (sentinel.c: config_epoch). all
// says that every sentinel has named a master.
func (f *Follower) ask(ctx context.Context) (best answer, all bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(f.sentinels))
	for _, s := range f.sentinels {
		go func() { answers <- f.askOne(ctx, s) }()
	}
	var failed []answer
	var late <-chan time.Time
	for range f.sentinels {
		select {
		case a := <-answers:
			switch {
			case a.err != nil:
				failed = append(failed, a)
			case best.master == "" || a.epoch > best.epoch:
				best = a
			}
		case <-late:
			return best, false, nil
		}
		if best.master != "" && late == nil {
			late = time.After(grace)
		}
	}
	if best.master == "" {
		return answer{}, false, f.nobodyKnows(failed)
	}
	return best, len(failed) == 0, nil
}

func (f *Follower) askOne(ctx context.Context, s watcher) answer {
	a := answer{sentinel: s.address}
	address, err := s.client.GetMasterAddrByName(ctx, f.Name()).Result()
	switch {
	case errors.Is(err, redis.Nil):
		a.err = &unknownName{name: f.Name(), known: names(ctx, s.client)}
	case err != nil:
		a.err = explain(err)
	case len(address) != 2:
		a.err = fmt.Errorf("its answer has %d parts", len(address))
	default:
		a.master = net.JoinHostPort(address[0], address[1])
		// The epoch only decides between sentinels that disagree.
		if m, err := s.client.Master(ctx, f.Name()).Result(); err == nil {
			a.epoch, _ = strconv.ParseInt(m["config-epoch"], 10, 64)
		}
	}
	return a
}

// nobodyKnows is the error when no sentinel has named a master.
func (f *Follower) nobodyKnows(failed []answer) error {
	slices.SortFunc(failed, func(a, b answer) int { return strings.Compare(a.sentinel, b.sentinel) })
	var errs []error
	for _, a := range failed {
		errs = append(errs, fmt.Errorf("sentinel %s: %w", a.sentinel, a.err))
	}
	return &noMaster{name: f.Name(), errs: errs}
}

// noMaster keeps the errors of all sentinels in one line.
type noMaster struct {
	name string
	errs []error
}

func (e *noMaster) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = err.Error()
	}
	return fmt.Sprintf("no sentinel says where the master %q is: %s", e.name, strings.Join(texts, "; "))
}

func (e *noMaster) Unwrap() []error { return e.errs }

// unknownName means that a sentinel watches others.
type unknownName struct {
	name  string
	known []string // that it does watch
}

func (e *unknownName) Error() string {
	if len(e.known) == 0 {
		return fmt.Sprintf("it watches no master %q", e.name)
	}
	return fmt.Sprintf("it watches no master %q, but %s (the name is the last part of the URL)", e.name, strings.Join(e.known, ", "))
}

// names returns the masters that a sentinel watches, none when it does not say.
func names(ctx context.Context, c *redis.SentinelClient) []string {
	list, err := c.Masters(ctx).Result()
	if err != nil {
		return nil
	}
	var out []string
	for _, one := range list {
		fields, _ := one.([]any)
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == "name" {
				out = append(out, fmt.Sprint(fields[i+1]))
			}
		}
	}
	slices.Sort(out)
	return out
}

// explain says what a sentinel's refusal asks for.
func explain(err error) error {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "NOAUTH"), strings.HasPrefix(text, "WRONGPASS"), strings.Contains(text, "without any password configured"):
		return fmt.Errorf("%w (the sentinels' own user and password are sentinel.username and sentinel.password)", err)
	case strings.HasPrefix(text, "NOPERM"):
		return fmt.Errorf("%w (allow the user SENTINEL, SUBSCRIBE and PING)", err)
	case strings.HasPrefix(text, "ERR unknown command"):
		return fmt.Errorf("%w (it is no sentinel: their port is 26379 by default)", err)
	}
	return err
}

// demoted means that a server says itself that it is no master.
type demoted struct{ role, where string }

func (e demoted) Error() string {
	if e.where == "" {
		return "it says that it is no master (" + e.role + ")"
	}
	return "it says that it is no master but a replica of " + e.where
}

// isMaster asks a server for its role. ROLE may be forbidden, by a fence of ours too,
// where HELLO is not.
func isMaster(ctx context.Context, c *redis.Client) error {
	reply, err := c.Do(ctx, "ROLE").Slice()
	if err == nil {
		return roleIn(reply)
	}
	if text := err.Error(); !strings.HasPrefix(text, "NOPERM") && !strings.HasPrefix(text, "ERR unknown command") {
		return fmt.Errorf("asking it whether it is the master: %w", err)
	}
	hello, helloErr := c.Do(ctx, "HELLO", "2").Slice()
	if helloErr != nil {
		return fmt.Errorf("asking it whether it is the master: %w, and %w (allow the user ROLE)", err, helloErr)
	}
	for i := 0; i+1 < len(hello); i += 2 {
		if hello[i] == "role" && hello[i+1] != "master" {
			return demoted{role: fmt.Sprint(hello[i+1])}
		}
	}
	return nil
}

// roleIn reads the answer to ROLE: "master", or "slave" with where its master is.
func roleIn(reply []any) error {
	if len(reply) == 0 {
		return errors.New("asking it whether it is the master: the answer to ROLE is empty")
	}
	role := fmt.Sprint(reply[0])
	switch {
	case role == "master":
		return nil
	case len(reply) > 2:
		return demoted{role, net.JoinHostPort(fmt.Sprint(reply[1]), fmt.Sprint(reply[2]))}
	}
	return demoted{role: role}
}
