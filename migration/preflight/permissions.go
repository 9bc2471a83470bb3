package preflight

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// denial is what is missing at one server, for one purpose.
type denial struct {
	commands map[string]struct{} // the ACL says no
	unknown  map[string]struct{} // renamed or disabled
	keys     bool                // keys are restricted
	channels map[string]struct{} // that are not permitted
	purposes map[string]struct{}
}

func (d *denial) any() bool { return len(d.commands)+len(d.unknown)+len(d.channels) > 0 || d.keys }

// checkPermissions finds exactly what our user may not do: with ACL DRYRUN where
// that is allowed, otherwise by running each command so that it changes nothing.
func checkPermissions(ctx context.Context, in *inspection) []Finding {
	var out []Finding
	for _, s := range []*server{in.from, in.to} {
		if !s.reached {
			continue
		}
		var found []Finding
		for _, n := range s.each() {
			found = append(found, permissions(ctx, in, n)...)
		}
		out = append(out, alike(s, "our user may do all that is needed on %s", found)...)
	}
	return out
}

func permissions(ctx context.Context, in *inspection, s *server) []Finding {
	user := whoami(ctx, s)
	forward := roleFrom
	if s.on(in.to) {
		forward = roleTo
	}
	must, want := newDenial(), newDenial()
	var ask asker = tryOut
	how, trying := "tried", true
	if dryRunWorks(ctx, s, user) {
		ask, how, trying = dryRun(user), "ACL DRYRUN", false
	}
	if trying && s.node != nil && s.slots == 0 {
		return one(warn("Let our user run ACL DRYRUN there, or make sure that it has the same rights on all nodes.",
			"%s: what user %s may do cannot be tried on a replica", s, user))
	}
	key := probePrefix + s.tag() + probeKey()[len(probePrefix):]
	c := s.client()
	if s.node == nil {
		c = s.pool.DB(in.probeDB(s))
	}
	defer clean(ctx, c, key)
	var list []need
	for _, n := range needs(key) {
		if s.node != nil && n.at&forward == 0 {
			continue // there is no way back from a cluster
		}
		if !trying && !s.up && n.until != (version{}) {
			continue // who has ACL DRYRUN (7.0) is newer, although INFO says nothing
		}
		if n.applies(s) && (!trying || !n.noTry) && (trying || !n.tryOnly) {
			list = append(list, n)
		}
	}
	answers, err := ask(ctx, c, list)
	if err != nil {
		return one(unknown(s, "looking what user "+user+" may do", err))
	}
	for i, n := range list {
		d := must
		if n.at&forward == 0 {
			d, n.why = want, "the way back"
		} else if n.optional {
			d = want
		}
		if verdict := classify(answers[i]); verdict != allowed {
			d.add(n, verdict)
		}
	}
	switch {
	case !must.any() && !want.any():
		return one(pass("%s: user %s may do all that is needed (%d commands, %s)", s, user, len(list), how))
	case !must.any():
		return one(want.finding(warn, s, user, "what is wanted"))
	case !want.any():
		return one(must.finding(fail, s, user, "what is needed"))
	}
	must.add2(want) // one grant line for everything
	return one(must.finding(fail, s, user, "what is needed"))
}

func whoami(ctx context.Context, s *server) string {
	if user, err := s.client().Do(ctx, "ACL", "WHOAMI").Text(); err == nil {
		return user
	}
	if user := s.pool.Endpoint().Username; user != "" {
		return user
	}
	return "default"
}

type verdict int

const (
	allowed verdict = iota
	noCommand
	noKeys
	noChannels
	noSuch
)

// classify reads an error or ACL DRYRUN's answer. Any other error means that the
// command was let through and failed for its own reasons.
func classify(err error) verdict {
	if err == nil || errors.Is(err, redis.Nil) {
		return allowed
	}
	text := strings.ToLower(err.Error())
	has := func(sign string) bool { return strings.Contains(text, sign) }
	switch {
	case has("unknown command"), has("unknown subcommand"), strings.HasPrefix(text, "err command '") && has("not found"):
		return noSuch
	case !has("permission"):
		return allowed
	case has("to run"):
		return noCommand
	case has("channel"):
		return noChannels
	case has("key"):
		return noKeys
	default:
		return noCommand
	}
}

func dryRunWorks(ctx context.Context, s *server, user string) bool {
	return s.client().Do(ctx, "ACL", "DRYRUN", user, "PING").Err() == nil
}

// asker returns, for each command, the server's refusal or nil. The error is for
// when nothing could be asked.
type asker func(context.Context, *redis.Client, []need) ([]error, error)

func dryRun(user string) asker {
	return func(ctx context.Context, c *redis.Client, list []need) ([]error, error) {
		cmds := make([]*redis.Cmd, len(list))
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, n := range list {
				cmds[i] = p.Do(ctx, append([]any{"ACL", "DRYRUN", user}, n.args...)...)
			}
			return nil
		})
		if reply := redis.Error(nil); err != nil && !errors.As(err, &reply) {
			return nil, err
		}
		answers := make([]error, len(list))
		for i, cmd := range cmds {
			answer, err := cmd.Text()
			if err == nil && answer != "OK" {
				err = errors.New(answer)
			}
			answers[i] = err
		}
		return answers, nil
	}
}

// tryOut runs the commands. The arguments of needs are such that they change
// nothing but the probe key.
func tryOut(ctx context.Context, c *redis.Client, list []need) ([]error, error) {
	answers := make([]error, len(list))
	for i, n := range list {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		answers[i] = tryOne(ctx, c, n)
		if reply := redis.Error(nil); answers[i] != nil && !errors.As(answers[i], &reply) {
			return nil, fmt.Errorf("%s: %w", strings.ToUpper(n.name()), answers[i])
		}
	}
	return answers, nil
}

func tryOne(ctx context.Context, c *redis.Client, n need) error {
	ctx, cancel := shielded(ctx)
	defer cancel()
	if n.try != nil {
		return n.try(ctx, c)
	}
	return c.Do(ctx, n.args...).Err()
}

func newDenial() *denial {
	return &denial{commands: make(map[string]struct{}), channels: make(map[string]struct{}), unknown: make(map[string]struct{}), purposes: make(map[string]struct{})}
}

func (d *denial) add(n need, v verdict) {
	switch v {
	case noCommand:
		d.commands[n.name()] = struct{}{}
	case noSuch:
		d.unknown[n.name()] = struct{}{}
	case noKeys:
		d.keys = true
	case noChannels:
		d.channels[n.channel] = struct{}{}
	}
	if n.why != "" {
		d.purposes[n.why] = struct{}{}
	}
}

func (d *denial) add2(o *denial) {
	maps.Copy(d.commands, o.commands)
	maps.Copy(d.unknown, o.unknown)
	maps.Copy(d.purposes, o.purposes)
	d.keys = d.keys || o.keys
	maps.Copy(d.channels, o.channels)
}

func (d *denial) finding(level func(string, string, ...any) Finding, s *server, user, summary string) Finding {
	commands := slices.Sorted(maps.Keys(d.commands))
	var what, grant []string
	if len(commands) > 0 {
		what = append(what, "missing commands: "+strings.ToUpper(strings.Join(commands, " ")))
		for _, c := range commands {
			grant = append(grant, "+"+c)
		}
	}
	if d.keys {
		what = append(what, "only some keys are permitted")
		grant = append(grant, "'~*'")
	}
	if len(d.channels) > 0 {
		channels := slices.Sorted(maps.Keys(d.channels))
		what = append(what, "channels that are not permitted: "+strings.Join(channels, " "))
		for _, c := range channels {
			grant = append(grant, "'&"+c+"'")
		}
	}
	var do []string
	if len(grant) > 0 {
		do = append(do, "Grant it, as an administrator of the server:", s.redisCLI()+" ACL SETUSER "+user+" "+strings.Join(grant, " "))
	}
	if len(d.unknown) > 0 {
		unknown := strings.ToUpper(strings.Join(slices.Sorted(maps.Keys(d.unknown)), " "))
		what = append(what, "renamed or switched off: "+unknown)
		do = append(do, "Undo rename-command for "+unknown+", where that is possible.")
	}
	purposes := ""
	if len(d.purposes) > 0 {
		purposes = " (needed for: " + strings.Join(slices.Sorted(maps.Keys(d.purposes)), "; ") + ")"
	}
	return level(strings.Join(do, "\n"), "%s: user %s lacks %s: %s%s", s, user, summary, strings.Join(what, "; "), purposes)
}

// name is the command as an ACL rule names it: "dump", "client|list".
func (n need) name() string {
	name := strings.ToLower(fmt.Sprint(n.args[0]))
	if n.sub {
		name += "|" + strings.ToLower(fmt.Sprint(n.args[1]))
	}
	return name
}
