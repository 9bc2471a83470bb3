package conn

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/redistest"
)

// clustered is a pool of a cluster whose topology is kept up to date.
func clustered(t *testing.T, c *redistest.Cluster) *Pool {
	t.Helper()
	e, err := config.Server{URL: config.Secret(c.URL())}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	e, topology := cluster.Follow(e, 5*time.Second, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); topology.Run(ctx) }()
	p := New(e, "test", 5*time.Second)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		<-ended
		topology.Close()
	})
	return p
}

// TestControlKeysAreTogether writes what a record needs as one transaction, wherever their
// slot is, and under names that the callers do not know.
func TestControlKeysAreTogether(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1)
	p, ctx := clustered(t, c), t.Context()

	err := p.Control().Watch(ctx, func(tx *redis.Tx) error {
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, "crossfade:record", "a", 0)
			pipe.Set(ctx, "crossfade:journal", "b", 0)
			pipe.Set(ctx, "crossfade:{q}:mark", "own tag", 0)
			return nil
		})
		return err
	}, "crossfade:record", "crossfade:seat")
	if err == nil {
		t.Fatal("a key with a tag of its own was written in the slot of the others")
	}
	set := func(value string) error {
		return p.Control().Watch(ctx, func(tx *redis.Tx) error {
			_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.Set(ctx, "crossfade:record", value, 0)
				pipe.Set(ctx, "crossfade:journal", value, 0)
				return nil
			})
			return err
		}, "crossfade:record", "crossfade:seat")
	}
	if err := set("1"); err != nil {
		t.Fatal(err)
	}
	all := c.Client()
	for _, key := range []string{"crossfade:{crossfade}:record", "crossfade:{crossfade}:journal"} {
		if got, err := all.Get(ctx, key).Result(); got != "1" || err != nil {
			t.Errorf("%s is %q, %v", key, got, err)
		}
	}
	// The replicas that are waited for are those of the same master.
	if err := p.Control().Set(ctx, "crossfade:seat", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	one := p.Control().Conn()
	if err := one.Set(ctx, "crossfade:seat", "y", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := one.Wait(ctx, 1, 5*time.Second).Result(); n != 1 || err != nil {
		t.Errorf("%d replicas have it, %v", n, err)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	owner := c.Owner(controlSlot)
	t.Run("a failover", func(t *testing.T) {
		c.Failover(c.Replicas(owner)[0])
		redistest.Eventually(t, 20*time.Second, func() error { return set("2") }, "the new master")
		if got := c.Owner(controlSlot); got == owner {
			t.Error("nobody has taken over")
		}
	})
	t.Run("the slot moves", func(t *testing.T) {
		now := c.Owner(controlSlot)
		to := c.Masters()[0]
		if to == now {
			to = c.Masters()[1]
		}
		c.Move(to, controlSlot)
		redistest.Eventually(t, 20*time.Second, func() error { return set("3") }, "the slot's new master")
	})
	t.Run("the master dies", func(t *testing.T) {
		redistest.Eventually(t, 20*time.Second, func() error { return set("4") }, "a beginning")
		now := c.Owner(controlSlot)
		c.Settle()
		c.Kill(now)
		redistest.Eventually(t, 30*time.Second, func() error {
			got, err := p.Control().Get(ctx, "crossfade:record").Result()
			if err == nil && got != "4" {
				err = errors.New("it is " + got)
			}
			return err
		}, "the heir of the slot's master")
	})
}

// TestGuardOfNodes keeps those out that do not have the seat, which is at another node.
func TestGuardOfNodes(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	p, ctx := clustered(t, c), t.Context()
	no := errors.New("not you")
	var asked []string
	p.Guard(&Guard{Key: "crossfade:seat", Allow: func(value string) error {
		asked = append(asked, value)
		if value == "other" {
			return no
		}
		return nil
	}})
	if err := p.Control().Set(ctx, "crossfade:seat", "mine", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Servers {
		if err := p.Node(s.Addr()).DB(0).Ping(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Client().Set(ctx, "crossfade:{crossfade}:seat", "other", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Servers {
		n := p.Node(s.Addr()).DB(0)
		held := n.Conn() // takes the one that was let in
		if err := held.Ping(ctx).Err(); err != nil {
			t.Errorf("a connection of before: %v", err)
		}
		if err := n.Ping(ctx).Err(); !errors.Is(err, no) {
			t.Errorf("a new connection: %v", err)
		}
		_ = held.Close()
	}
	if !slices.Contains(asked, "mine") || !slices.Contains(asked, "other") {
		t.Errorf("the guard was asked about %q", asked)
	}
}
