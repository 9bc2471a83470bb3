package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The fence levels that a server allows, strongest first.
const (
	fenceACL      = "F3"
	fenceReplicas = "F2"
	fenceKey      = "F1"
)

// FenceLevel finds the strongest fence that From allows, by trying: a user that
// is switched off is created and removed, a setting is set to what it is. The
// reason says why it is that level, and for less than F3 what is in the way. An
// error means that the server did not answer: that it allows less is not known then.
func FenceLevel(ctx context.Context, env Env) (level, reason string, err error) {
	errACL := aclFence(ctx, env)
	if errACL == nil {
		return fenceACL, "ACL SETUSER works: every user but ours is refused", nil
	}
	if unanswered(errACL) {
		return "", "", fmt.Errorf("trying the fence on %s: %w", env.From, errACL)
	}
	s := &server{pool: env.From, name: env.FromName}
	why := fmt.Sprintf("no ACL fence: %v", errACL)
	present, err := s.setting(ctx, "min-replicas-to-write")
	if err == nil {
		err = s.settable(ctx, "min-replicas-to-write", present)
	}
	if err == nil {
		if err = s.load(ctx); err == nil && !s.info.refusesScripts() {
			return fenceKey, why + "; min-replicas-to-write does not refuse what scripts write: Redis does so from 6.0.17, 6.2.7 and 7.0 on", nil
		}
	}
	switch {
	case err == nil:
		return fenceReplicas, why + "; min-replicas-to-write works, it refuses every write, ours too", nil
	case unanswered(err):
		return "", "", fmt.Errorf("trying the fence on %s: %w", env.From, err)
	}
	return fenceKey, fmt.Sprintf("%s; no min-replicas-to-write: %v", why, err), nil
}

// refusesScripts reports whether min-replicas-to-write refuses what scripts write as well.
// The server looks at it before a command that writes, which EVAL is not; what a script calls
// is looked at from these versions on (scripting.c: noreplicaserr; script.c in 7.0). EXEC is
// since 6.0.6. A server that does not tell its version is believed to be old.
func (i info) refusesScripts() bool {
	v := i.compatible()
	switch {
	case i.valkey():
		return true
	case v[0] == 6 && v[1] == 0:
		return !v.before(version{6, 0, 17})
	case v[0] == 6 && v[1] == 2:
		return !v.before(version{6, 2, 7})
	}
	return !v.before(version{7, 0, 0})
}

// unanswered reports whether err is the connection's and not the server's word.
func unanswered(err error) bool {
	var reply redis.Error
	var network net.Error
	return !errors.As(err, &reply) && (errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// ProbeUsers begins the names of the users that a check makes, and removes again: one that
// was killed leaves such a user, which nobody can log in as and which looks like a fenced one.
const ProbeUsers = "crossfade-probe-"

// aclFence tries the rules of the fence (selectors are there since 7.0) on a user
// that nobody can log in as.
func aclFence(ctx context.Context, env Env) error {
	if err := ownIdentity(ctx, env); err != nil {
		return err
	}
	c := env.From.DB(0)
	if err := c.Do(ctx, "ACL", "USERS").Err(); err != nil {
		return fmt.Errorf("ACL USERS: %w", err)
	}
	name := ProbeUsers + probeKey()[len(probePrefix):]
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = c.Do(ctx, "ACL", "DELUSER", name).Err() // fails below first where it is not permitted
	}()
	ctx, cancel := shielded(ctx)
	defer cancel()
	// Who may not remove the user again shall not make it: this removes nobody.
	if err := c.Do(ctx, "ACL", "DELUSER", name).Err(); err != nil {
		return fmt.Errorf("ACL DELUSER: %w", err)
	}
	err := c.Do(ctx, "ACL", "SETUSER", name, "off", "resetkeys", "-@all", "+ping", "+hello", "+auth", "+select", "+client|setname", "+psync", "+replconf", "clearselectors", "(+get %R~crossfade:*)").Err()
	if err != nil {
		return fmt.Errorf("ACL SETUSER: %w", err)
	}
	if err := c.Do(ctx, "ACL", "GETUSER", name).Err(); err != nil {
		return fmt.Errorf("ACL GETUSER: %w", err)
	}
	return nil
}

// ownIdentity makes sure that there is, or can be, a user that the fence spares
// and that no application uses.
func ownIdentity(ctx context.Context, env Env) error {
	user := env.From.Endpoint().Username
	if env.CreateUser || env.User == ownUser && user == ownUser {
		return nil
	}
	if user == "" || user == "default" {
		return errors.New("we would have to share the user default with the applications: allow cutover.create_user, or give a user of our own in the URL")
	}
	env.Proxied = nil // clients of the proxy must not share it either
	list, err := bypasses(ctx, env)
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.user == user {
			return fmt.Errorf("the user %s that was given to us is used by others too (%s): allow cutover.create_user, or give a user of our own in the URL", quoted(user), b.addr)
		}
	}
	return nil
}

// checkFence says how the server that is left is kept from taking writes, and
// whether the same will be possible on the way back.
func checkFence(ctx context.Context, in *inspection) []Finding {
	var out []Finding
	if in.from.up {
		if level, reason, err := FenceLevel(ctx, in.Env); err != nil {
			out = append(out, fail("", "%v", err))
		} else {
			out = append(out, fenceFinding(ctx, in, level, reason))
		}
	}
	if in.to.up && !in.to.clustered() { // there is no way back from a cluster
		way := in.Env
		way.From, way.To, way.FromName, way.ToName = in.To, in.From, in.ToName, in.FromName
		if level, reason, err := FenceLevel(ctx, way); err != nil {
			out = append(out, fail("", "for the way back: %v", err))
		} else if level != fenceACL {
			out = append(out, warn(fenceAdvice(in.to), "%s: for the way back only fence %s: %s", in.to, level, reason))
		}
	}
	return out
}

func fenceFinding(ctx context.Context, in *inspection, level, reason string) Finding {
	do := fenceAdvice(in.from)
	switch level {
	case fenceACL:
		return pass("%s: fence F3: %s", in.from, reason)
	case fenceReplicas:
		return warn(do, "%s: fence F2: no way back without F3; %s", in.from, reason)
	}
	if in.stage != StageCutover || in.Unsafe {
		return warn(do, "%s: fence F1 only: writers past the proxy cannot be stopped; %s", in.from, reason)
	}
	list, err := bypasses(ctx, in.Env)
	switch {
	case err != nil:
		return fail(do, "%s: fence F1 only, and who else is connected cannot be seen (%v); %s", in.from, err, reason)
	case len(list) > 0:
		return fail("Close these connections, or:\n"+do, "%s: fence F1 only, and %s past the proxy whose writes would be lost: %s; %s",
			in.from, plural(int64(len(list)), "client is connected", "clients are connected"), list[0], reason)
	}
	return warn(do, "%s: fence F1 only: nobody is connected past the proxy now, but who comes is not stopped; %s", in.from, reason)
}

func fenceAdvice(s *server) string {
	user := s.pool.Endpoint().Username
	if user == "" {
		user = "default"
	}
	rules := []string{"+acl|users", "+acl|getuser", "+acl|setuser", "+acl|deluser"}
	return "Let us use ACL (Redis 7.0 or newer) and allow cutover.create_user:\n" + s.redisCLI() + " ACL SETUSER " + user + " " + strings.Join(rules, " ")
}
