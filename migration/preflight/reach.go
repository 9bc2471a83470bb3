package preflight

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// reachTimeout bounds the first PING to each server.
const reachTimeout = 5 * time.Second

// checkReach asks both servers at once whether they answer and let us in.
func checkReach(ctx context.Context, in *inspection) []Finding {
	servers := []*server{in.from, in.to}
	findings := make([]Finding, len(servers))
	var wait sync.WaitGroup
	for i, s := range servers {
		wait.Go(func() { findings[i] = reach(ctx, s) })
	}
	wait.Wait()
	if in.from.up && in.to.up {
		findings = append(findings, sameServer(in)...)
	}
	return findings
}

func reach(ctx context.Context, s *server) Finding {
	ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, errors.New("no answer within 5s"))
	defer cancel()
	start := time.Now()
	if s.clustered() {
		return reachNodes(ctx, s)
	}
	err := s.client().Ping(ctx).Err()
	took := time.Since(start)
	if err == nil {
		err = oldLogin(ctx, s)
	}
	if err == nil {
		s.reached = true
		if err = s.load(ctx); err == nil {
			return pass("%s answers (connect, login and PING: %.1f ms)", s, took.Seconds()*1000)
		}
	}
	do, words := unreachable(ctx, s, err)
	return fail(do, "%s: %s", s, words)
}

// reachNodes is reach for a cluster.
func reachNodes(ctx context.Context, s *server) Finding {
	err := s.load(ctx)
	if err == nil {
		err = oldLogin(ctx, s)
	}
	if err != nil {
		do, words := unreachable(ctx, s, err)
		return fail(do, "%s: %s", s, words)
	}
	s.reached = true
	return pass("%s answers: %s", s, plural(int64(len(s.nodes)), "node", "nodes"))
}

// oldLogin logs in once more with AUTH and the password alone. HELLO takes any
// password for a user without one, AUTH refuses it, and part of our connections
// and perhaps the applications' libraries use AUTH.
func oldLogin(ctx context.Context, s *server) error {
	e := s.pool.Endpoint()
	if e.Password == "" || e.Username != "" {
		return nil
	}
	single := s.client().Conn()
	defer func() { _ = single.Close() }()
	return single.Do(ctx, "AUTH", e.Password).Err()
}

// noRight finds the command in a refusal.
var noRight = regexp.MustCompile(`^(?:INFO: )?NOPERM .* run the '([a-z|]+)' command`)

// unreachable turns an error into what it means and what to do.
func unreachable(ctx context.Context, s *server, err error) (do, words string) {
	text := err.Error()
	user := s.pool.Endpoint().Username
	has := func(sign string) bool { return strings.Contains(text, sign) }
	key := s.name + ".url"
	switch {
	case s.pool.Endpoint().Watched != nil && has("no sentinel says where"):
		return "See the check sentinel.", text
	case has("it says that it is no master"):
		return "Wait until the failover that is under way is through; if there is none, look what the sentinels and the server say (SENTINEL MASTER, ROLE).", text
	case has("NOAUTH"):
		return "Give the password in " + key + " or " + s.name + ".password_file.", "the server wants a password and none was given"
	case has("without any password configured"):
		return "Take the password out of " + key + ", or look whether this is the right server.", "a password was given but the server has none"
	case has("WRONGPASS") || has("invalid password"):
		if user != "" && user != "default" {
			return "Check user name and password in " + key + " (special characters percent-encoded): ACL LIST on the server shows its users.",
				"the server does not know the user " + quoted(user) + ", or the password is wrong, or the user is switched off"
		}
		return "Check the password in " + key + " (special characters percent-encoded).", "the password is wrong"
	case noRight.MatchString(text):
		return "Grant it, as an administrator of the server:\n" + s.redisCLI() + " ACL SETUSER " + cmp.Or(user, "default") + " +" + noRight.FindStringSubmatch(text)[1],
			"the user may not even begin: " + text
	case has("NOPERM"):
		return "Allow the commands PING, SELECT, CLIENT|SETNAME and INFO to the user.", "the user may not even begin: " + text
	case has("LOADING"):
		return "Wait until it has loaded its data, then check again.", "the server is still loading its data"
	case has("MASTERDOWN"):
		return "Mend its replication, or choose the master.", "it is a replica that has lost its master"
	case has("DENIED"):
		return "Bind the server for this machine and give it a password (protected-mode).", "the server is in protected mode and refuses other machines"
	case has("max number of clients"):
		return "Raise maxclients on the server.", "the server has no connection left for us (maxclients)"
	}
	if tlsTrouble(err) {
		return "Check rediss:// or redis://, and the tls settings of the " + s.name + ".", "TLS: " + text
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, redis.ErrPoolTimeout) {
		if ctx.Err() != nil {
			text = context.Cause(ctx).Error()
		}
		return "Check address and firewall; if the server wants TLS, write rediss://.", text
	}
	if text == "EOF" || has("connection reset") {
		return "If the port speaks TLS, write rediss://; otherwise look whether it is Redis at all.", "the server hung up: " + text
	}
	return "Check the address in " + key + " and that the server runs.", text
}

func tlsTrouble(err error) bool {
	var (
		record tls.RecordHeaderError
		alert  tls.AlertError
		verify *tls.CertificateVerificationError
	)
	return errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &verify) || strings.Contains(err.Error(), "TLS handshake")
}

// sameServer catches two URLs that lead to one server: the copy would overwrite itself.
func sameServer(in *inspection) []Finding {
	id := in.from.info["run_id"]
	if id == "" || id != in.to.info["run_id"] {
		return nil
	}
	return one(fail("Correct "+in.ToName+".url.", "%s and %s are one and the same server (run_id %.8s…)", in.from, in.to, id))
}
