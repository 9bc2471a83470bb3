package migration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// closeOlder closes what other sidecars of this migration have connected to a server: their
// own connections, and those by which they serve clients. The seat must be ours there.
func (m *Migration) closeOlder(ctx context.Context, side router.Side) error {
	id := m.ids[side]
	if !m.serves.Load() { // or ours could be among them
		n, err := closeTheirClients(ctx, id)
		if err != nil {
			return fmt.Errorf("closing the connections of another sidecar's clients on %s: %w", id.Pool(), err)
		}
		if n > 0 {
			m.log.Warn("another sidecar was there: the connections from its address are closed, for its clients'", "server", id.Pool().String(), "connections", n)
		}
	}
	return killOlder(ctx, id)
}

// closeTheirClients closes all connections that come from where another sidecar's own come
// from, and returns how many. Those of its clients cannot be told from others from there by
// anything else: they have the names that clients give them. It comes before the sidecar's
// own are closed, so that it may be repeated.
func closeTheirClients(ctx context.Context, id *identity) (int, error) {
	var mu sync.Mutex
	hosts := make(map[string]bool) // of a cluster it need not be connected to each node
	err := everyNode(ctx, id.Pool(), func(ctx context.Context, c *redis.Client) error {
		all, err := listOf(ctx, c)
		mu.Lock()
		defer mu.Unlock()
		for _, one := range all {
			if by := sidecarOf(one.name); by != "" && by != id.instance {
				hosts[one.host()] = true
			}
		}
		return err
	})
	if err != nil || len(hosts) == 0 {
		return 0, err
	}
	var sum atomic.Int64
	err = everyNode(ctx, id.Pool(), func(ctx context.Context, c *redis.Client) error {
		n, err := closeClientsFrom(ctx, c, hosts)
		sum.Add(int64(n))
		return err
	})
	return int(sum.Load()), err
}

func listOf(ctx context.Context, c *redis.Client) ([]listedClient, error) {
	text, err := c.ClientList(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("listing clients: %w", err)
	}
	return listed(text), nil
}

func closeClientsFrom(ctx context.Context, c *redis.Client, hosts map[string]bool) (int, error) {
	all, err := listOf(ctx, c)
	if err != nil {
		return 0, err
	}
	pipe, n := c.Pipeline(), 0
	for _, one := range all {
		if one.isClients() && hosts[one.host()] {
			pipe.ClientKillByFilter(ctx, "ID", one.id)
			n++
		}
	}
	if n == 0 {
		return 0, nil
	}
	cmds, err := pipe.Exec(ctx)
	return n, firstError(cmds, err)
}

// sidecarOf returns which sidecar has a connection of that name, "" where it is none's: the
// stand-alone verbs have other names, and may run anywhere.
func sidecarOf(name string) string {
	rest, ours := strings.CutPrefix(name, mirror.KeyPrefix)
	instance, _, more := strings.Cut(rest, ":")
	if !ours || !more || len(instance) != 2*instanceBytes || strings.Trim(instance, "0123456789abcdef") != "" {
		return ""
	}
	return instance
}

// listedClient is a line of CLIENT LIST.
type listedClient struct {
	id, addr, name, user, flags string
	listens                     bool // to channels or patterns
}

func listed(text string) []listedClient {
	var all []listedClient
	for line := range strings.Lines(text) {
		var c listedClient
		for field := range strings.FieldsSeq(line) {
			switch k, v, _ := strings.Cut(field, "="); k {
			case "id":
				c.id = v
			case "addr":
				c.addr = v
			case "name":
				c.name = v
			case "user":
				c.user = v
			case "flags":
				c.flags = v
			case "sub", "psub", "ssub":
				c.listens = c.listens || v != "0" && v != ""
			}
		}
		if c.id != "" {
			all = append(all, c)
		}
	}
	return all
}

// isClients reports whether it is neither ours, by its name, nor replication's.
func (c listedClient) isClients() bool {
	return !strings.HasPrefix(c.name, mirror.KeyPrefix) && !strings.ContainsAny(c.flags, "SM")
}

// host is where it comes from: all of a unix socket's are from the same.
func (c listedClient) host() string {
	if i := strings.LastIndexByte(c.addr, ':'); i >= 0 {
		return c.addr[:i]
	}
	return c.addr
}
