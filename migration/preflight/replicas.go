package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/conn"
)

// replicaWait bounds looking at one replica.
const replicaWait = 2 * time.Second

// checkReplicas looks whether the replicas of the server that is left, and theirs, can be
// fenced with it: one that cannot would take writes if it became the master.
func checkReplicas(ctx context.Context, in *inspection) []Finding {
	master, err := AskStanding(ctx, in.From)
	if err != nil {
		return one(unknown(in.from, "looking for replicas", err))
	}
	level, _, err := FenceLevel(ctx, in.Env)
	switch {
	case err != nil:
		return one(unknown(in.from, "looking how replicas can be fenced", err))
	case level == fenceKey:
		if len(master.Replicas) == 0 {
			return nil
		}
		return one(warn("", "%s: its replicas are not fenced with it: fence %s is its own affair; one that becomes the master takes writes, which are not kept", in.from, level))
	}
	look := &replicaLook{in: in, master: master, level: level, seen: make(map[string]bool)}
	look.at(ctx, master.Replicas)
	look.wait.Wait()
	slices.SortFunc(look.findings, func(a, b Finding) int { return strings.Compare(a.What, b.What) })
	return look.findings
}

// replicaLook looks at replicas, all at the same time.
type replicaLook struct {
	in     *inspection
	master Standing
	level  string
	wait   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	seen     map[string]bool
	findings []Finding
}

func (l *replicaLook) at(ctx context.Context, addresses []string) {
	for _, address := range addresses {
		l.mu.Lock()
		seen := l.seen[address]
		l.seen[address] = true
		l.mu.Unlock()
		if seen {
			continue
		}
		l.wait.Go(func() {
			f := l.one(ctx, address)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.findings = append(l.findings, f)
		})
	}
}

// one looks at one replica. Nothing is tried on a server before it is proved to be one.
func (l *replicaLook) one(ctx context.Context, address string) Finding {
	in := l.in
	silent := fmt.Errorf("no answer within %v", replicaWait)
	bounded, cancel := context.WithTimeoutCause(ctx, replicaWait, silent)
	defer cancel()
	env := in.Env
	env.From, env.Proxied = conn.New(in.From.Endpoint().At(address), "check", replicaWait), nil
	env.From.Guard(in.Beside) // not From's: somebody else's may answer there
	defer func() { _ = env.From.Close() }()
	cannot := func(err error) Finding {
		switch {
		case bounded.Err() != nil:
			err = context.Cause(bounded)
		case errors.Is(err, os.ErrDeadlineExceeded): // the socket's timer was ahead of the context's
			err = silent
		}
		return warn("Have it announce an address at which it can be reached from here (replica-announce-ip, replica-announce-port), and let us in with the user and password of "+in.FromName+".url, and with the same rights; else, should it become the master after the switch, it takes writes for a moment, which are not kept.",
			"%s: its replica %s cannot be fenced with it: %v", in.from, address, err)
	}
	here, err := AskStanding(bounded, env.From)
	if err == nil {
		err = here.Hears(l.master)
	}
	if err != nil {
		return cannot(err)
	}
	l.at(ctx, here.Replicas)
	level, reason, err := FenceLevel(bounded, env)
	if err == nil && level != l.level && (l.level == fenceACL || level == fenceKey) {
		err = fmt.Errorf("fence %s is not possible there: %s", l.level, reason)
	}
	if err != nil {
		return cannot(err)
	}
	clients, err := bypasses(bounded, env)
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
