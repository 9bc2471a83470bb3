package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// promoter moves clients as is done without crossfade: the new server is a replica of the
// old one, and haproxy leads to one of them. At the switch the replica is promoted and
// haproxy told to lead to it, which closes the connections to the old one.
type promoter struct {
	servers [2]*redistest.Server
	clients [2]*redis.Client // of ours to them
	now     int              // which of them clients are on
	socket  string           // haproxy's
	paused  bool             // writes are, before, until the replica has all
}

// behind are the names of the servers in haproxy's configuration.
var behind = [2]string{"one", "two"}

// promote measures promotions there and back.
func (p *park) promote(ctx context.Context, o options, paused bool) (*switched, error) {
	name, prefix := unpausedSwitch, "plain"
	if paused {
		name, prefix = pausedSwitch, "paused"
	}
	m := &promoter{paused: paused, socket: filepath.Join(p.dir, prefix+".sock")}
	for i := range m.servers {
		var err error
		if m.servers[i], err = p.server(ctx, redistest.WithConfig("repl-diskless-sync-delay", "0")); err != nil {
			return nil, err
		}
		m.clients[i] = m.servers[i].Client(0)
	}
	front := haproxy
	front.files = map[string]string{"haproxy.cfg": strings.NewReplacer(
		"\ndefaults", "\n  stats socket "+m.socket+" mode 600 level admin\ndefaults",
		"server one UPHOST:UPPORT", fmt.Sprintf("server %s %s\n  server %s %s disabled", behind[0], m.servers[0].Addr(), behind[1], m.servers[1].Addr()),
	).Replace(haproxy.files["haproxy.cfg"])}
	proc, addr, err := front.start(ctx, p.dir, m.servers[0].Addr())
	if err != nil {
		return nil, err
	}
	if proc == nil {
		return nil, errors.New("haproxy is not here (scripts/deps.sh bench installs it; -promotions 0 does without)")
	}
	defer proc.stop()
	if err := m.follow(ctx); err != nil {
		return nil, err
	}
	sw := swing{name: name, addr: addr, prefix: prefix, rate: o.rate, once: func(ctx context.Context, _ int) (switching, error) { return m.once(ctx) }}
	return sw.run(ctx, o.promotions, m.servers[o.promotions%2].Addr())
}

// follow makes the server that clients are not on a replica of the other one.
func (m *promoter) follow(ctx context.Context) error {
	host, port, _ := strings.Cut(m.servers[m.now].Addr(), ":")
	if err := m.clients[1-m.now].Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
		return fmt.Errorf("making %s a replica: %w", m.servers[1-m.now].Addr(), err)
	}
	return m.await(ctx, func(left, entered map[string]string) bool {
		return entered["role"] == "slave" && entered["master_link_status"] == "up" && strings.Contains(left["slave0"], "state=online")
	}, "the replica does not follow")
}

// await waits until what both servers say of their replication is as wanted.
func (m *promoter) await(ctx context.Context, wanted func(left, entered map[string]string) bool, what string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New(what))
	defer cancel()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for {
		var said [2]map[string]string
		for i, c := range []*redis.Client{m.clients[m.now], m.clients[1-m.now]} {
			info, err := c.InfoMap(ctx, "replication").Result()
			if err != nil {
				return errors.Join(context.Cause(ctx), err)
			}
			said[i] = info["Replication"]
		}
		if wanted(said[0], said[1]) {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// once makes one promotion, and has the old server follow the new one.
func (m *promoter) once(ctx context.Context) (switching, error) {
	left, entered := m.clients[m.now], m.clients[1-m.now]
	began := time.Now()
	if m.paused {
		if err := left.Do(ctx, "CLIENT", "PAUSE", 10_000, "WRITE").Err(); err != nil {
			return switching{}, fmt.Errorf("pausing writes: %w", err)
		}
		err := m.await(ctx, func(left, entered map[string]string) bool {
			return left["master_repl_offset"] == entered["slave_repl_offset"]
		}, "the replica does not catch up")
		if err != nil {
			return switching{}, err
		}
	}
	if err := entered.Do(ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
		return switching{}, fmt.Errorf("promoting: %w", err)
	}
	if err := m.lead(ctx); err != nil {
		return switching{}, err
	}
	took := time.Since(began)
	m.now = 1 - m.now
	if err := m.follow(ctx); err != nil {
		return switching{}, err
	}
	return switching{held: inMS(took)}, m.unpause(ctx, left)
}

// unpause is for the server that was left, when it takes no writes any more.
func (m *promoter) unpause(ctx context.Context, left *redis.Client) error {
	if !m.paused {
		return nil
	}
	if err := left.Do(ctx, "CLIENT", "UNPAUSE").Err(); err != nil {
		return fmt.Errorf("ending the pause: %w", err)
	}
	return nil
}

// lead has haproxy lead to the other server.
func (m *promoter) lead(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", m.socket)
	if err != nil {
		return fmt.Errorf("asking haproxy to switch: %w", err)
	}
	defer func() { _ = conn.Close() }()
	left, entered := "redis/"+behind[m.now], "redis/"+behind[1-m.now]
	if _, err := fmt.Fprintf(conn, "enable server %s; disable server %s; shutdown sessions server %s\n", entered, left, left); err != nil {
		return fmt.Errorf("asking haproxy to switch: %w", err)
	}
	said, err := io.ReadAll(conn)
	if text := strings.TrimSpace(string(said)); err != nil || text != "" {
		return fmt.Errorf("haproxy does not switch: %q, %w", text, err)
	}
	return nil
}
