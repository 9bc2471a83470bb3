package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/conn"
)

// Replicas returns the addresses at which a server says that its replicas are.
func Replicas(ctx context.Context, p *conn.Pool) ([]string, error) {
	text, err := p.DB(0).Info(ctx, "replication").Result()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its replicas: %w", p, err)
	}
	var out []string
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if n := strings.TrimPrefix(name, "slave"); n == name || n == "" || strings.Trim(n, "0123456789") != "" {
			continue
		}
		f := make(map[string]string)
		for field := range strings.SplitSeq(value, ",") {
			if k, v, ok := strings.Cut(field, "="); ok {
				f[k] = v
			}
		}
		if f["ip"] != "" && f["port"] != "" && f["port"] != "0" { // a tool that follows need not listen
			out = append(out, net.JoinHostPort(f["ip"], f["port"]))
		}
	}
	return out, nil
}

// replicaWait bounds looking at one replica.
const replicaWait = 2 * time.Second

// checkReplicas looks whether the replicas of the server that is left can be fenced with
// it: one that cannot would take writes if it became the master.
func checkReplicas(ctx context.Context, in *inspection) []Finding {
	list, err := Replicas(ctx, in.From)
	if err != nil {
		return one(unknown(in.from, "looking for replicas", err))
	}
	findings := make([]Finding, len(list))
	var wait sync.WaitGroup
	for i, address := range list {
		wait.Go(func() { findings[i] = lookAtReplica(ctx, in, address) })
	}
	wait.Wait()
	return findings
}

func lookAtReplica(ctx context.Context, in *inspection, address string) Finding {
	ctx, cancel := context.WithTimeoutCause(ctx, replicaWait, fmt.Errorf("no answer within %v", replicaWait))
	defer cancel()
	env := in.Env
	env.From, env.Proxied = in.From.Like(in.From.Endpoint().At(address), "check", replicaWait), nil
	defer func() { _ = env.From.Close() }()
	c := env.From.DB(0)
	err := c.Ping(ctx).Err()
	if err == nil {
		err = c.Do(ctx, "ROLE").Err()
	}
	if err == nil {
		if err = c.Do(ctx, "ACL", "USERS").Err(); err != nil && !unanswered(err) {
			if err2 := c.ConfigGet(ctx, "min-replicas-to-write").Err(); err2 == nil {
				err = nil // F2
			}
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return warn("Have it announce an address that can be reached from here (replica-announce-ip), and let us in with the user and password of "+in.FromName+".url; else, should it become the master after the switch, it takes writes for a moment, which are not kept.",
			"%s: its replica %s cannot be fenced with it: %v", in.from, address, err)
	}
	clients, err := bypasses(ctx, env)
	clients = slices.DeleteFunc(clients, bypassing.watches)
	var reply redis.Error
	switch {
	case errors.As(err, &reply):
	case err == nil && len(clients) > 0:
		return warn("Point them at the proxy before the switch: afterwards the fence refuses them there too.",
			"%s: %s to its replica %s: %s", in.from, plural(int64(len(clients)), "client is connected", "clients are connected"), address, grouped(clients))
	}
	return pass("%s: its replica %s can be fenced with it", in.from, address)
}
