package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// TestLeastRights makes a whole migration, there, back, and there again, with users that
// have the rights that `acl rules` prints and no others, on both servers. The servers' ACL
// LOG holds whatever was refused to them: nothing may be in it.
func TestLeastRights(t *testing.T) {
	if testing.Short() {
		t.Skip("two whole migrations")
	}
	t.Parallel()
	for name, without := range map[string][]string{"all of them": nil, "values by their types": {"+dump", "+restore"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leastRights(t, without)
		})
	}
}

func leastRights(t *testing.T, without []string) {
	source, target := redistest.Start(t), redistest.Start(t)
	dir, ctx := shortDir(t), t.Context()
	var printed struct {
		User string
		migration.RightsReport
	}
	r := must(t, dir, 0, "acl", "rules", "--json", "--source", url(source), "--target", url(target))
	if err := json.Unmarshal([]byte(r.stdout), &printed); err != nil || printed.User != "crossfade-migrator" {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	as := map[*redistest.Server]string{}
	for s, rules := range map[*redistest.Server][]string{source: printed.Source.Rules, target: printed.Target.Rules} {
		args := []any{"ACL", "SETUSER", printed.User, "reset", "on", ">pw"}
		for _, rule := range rules {
			if !slices.Contains(without, rule) {
				args = append(args, rule)
			}
		}
		if err := s.Client(0).Do(ctx, args...).Err(); err != nil {
			t.Fatal(err)
		}
		as[s] = "redis://" + printed.User + ":pw@" + s.Addr()
	}
	fillForRights(t, source)

	with := []string{"--source", as[source], "--target", as[target], "--map", "0=0,3=5", "--cutover.create_user=false"}
	without = append(slices.Clone(without), "+client|no-evict") // docs/operating.md: it is not needed
	check := call(t, dir, nil, append([]string{"check"}, with...)...)
	if check.code != 0 || strings.Contains(check.stdout, "WARN  permissions") != (len(without) > 1) {
		t.Fatalf("check: %d\n%s%s", check.code, check.stdout, check.stderr)
	}
	// A machine that is busy with other tests must not make it fail.
	cf := startIn(t, dir, source, target, append(with, "--cutover.max_stall", "20s", "--cutover.max_lag", "30s")...)
	stop := trafficForRights(t, cf)
	cf.awaitReady(t)
	must(t, dir, 0, "shadow", "50%")
	must(t, dir, 0, "cutover", "--rehearse")
	for _, verb := range []string{"cutover", "rollback", "cutover"} {
		cf.awaitReady(t)
		if r := must(t, dir, 0, verb); !strings.Contains(r.stdout, verb+" done") {
			t.Errorf("%s: %s", verb, r.stdout)
		}
	}
	cf.awaitReady(t)
	// Under traffic, on a slow machine, the big list may never stand still: nobody can say then.
	if r := call(t, dir, nil, "verify"); !strings.Contains(r.stdout, "No difference.") {
		t.Errorf("verify under traffic: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	stop()
	must(t, dir, 0, "verify")
	if r := cf.status(t).LastCutover; r == nil || r.Fence != migration.FenceACL || r.OneWay {
		t.Errorf("the last switch: %+v", r)
	}
	must(t, dir, 0, "complete")

	for s, side := range map[*redistest.Server]string{source: "source", target: "target"} {
		entries, err := s.Client(0).Do(ctx, "ACL", "LOG").Slice()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			refused, _ := e.(map[any]any)
			if refused["username"] == printed.User && !slices.Contains(without, fmt.Sprint("+", refused["object"])) {
				t.Errorf("the %s has refused our user: %v", side, refused)
			}
		}
	}
}

// fillForRights has a bit of everything that is copied in its own way.
func fillForRights(t *testing.T, s *redistest.Server) {
	t.Helper()
	ctx, big := t.Context(), strings.Repeat("x", 1000)
	for _, db := range []int{0, 3} {
		c := s.Client(db)
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range 200 {
				p.Set(ctx, fmt.Sprint("text:", i), i, 0)
				p.Set(ctx, fmt.Sprint("fleeting:", i), i, time.Hour)
			}
			for i := range 600 * db / 3 { // each takes more than 512 KiB
				p.HSet(ctx, "hash", i, big)
				p.RPush(ctx, "list", big, i)
				p.SAdd(ctx, "set", fmt.Sprint(i, big))
				p.ZAdd(ctx, "sorted", redis.Z{Score: float64(i), Member: fmt.Sprint(i, big)})
				p.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []any{"f", big}})
			}
			p.Set(ctx, "long", strings.Repeat(big, 600), 0)
			p.HSet(ctx, "small:hash", "a", 1)
			p.RPush(ctx, "small:list", 1, 2)
			p.SAdd(ctx, "small:set", 1)
			p.ZAdd(ctx, "small:sorted", redis.Z{Score: 1, Member: 1})
			p.PFAdd(ctx, "counted", "a", "b")
			for _, stream := range []string{"stream", "empty"} {
				p.XGroupCreateMkStream(ctx, stream, "g", "0")
				p.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{stream, ">"}, Count: 3, Block: -1})
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
	}
	if err := s.Client(0).FunctionLoad(ctx, "#!lua name=lib\nredis.register_function('f', function() return 1 end)").Err(); err != nil {
		t.Fatal(err)
	}
}

// trafficForRights has clients of all kinds at the proxy until stop is called.
func trafficForRights(t *testing.T, cf *running) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: cf.dir + "/clients.sock", DB: 3, Protocol: 2, DisableIdentity: true, ReadTimeout: time.Minute})
	heard := c.PSubscribe(ctx, "news*")
	go func() {
		defer close(ended)
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Incr(ctx, "n")
				p.HSet(ctx, "small:hash", "n", i)
				p.Del(ctx, fmt.Sprint("text:", i%200))
				p.Set(ctx, fmt.Sprint("text:", (i+1)%200), i, time.Hour)
				return nil
			})
			if err == nil { // what big keys are followed by, without being copied anew
				_, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
					switch i / 100 % 4 {
					case 0:
						p.RPush(ctx, "list", i)
					case 1:
						p.LPop(ctx, "list")
					case 2:
						p.LPush(ctx, "list", i)
					case 3:
						p.RPop(ctx, "list")
					}
					p.HSet(ctx, "hash", i%700, i)
					p.HDel(ctx, "hash", fmt.Sprint((i+100)%700))
					p.SAdd(ctx, "set", i)
					p.SRem(ctx, "set", i-100)
					p.Do(ctx, "ZADD", "sorted", "CH", i, i)
					p.ZRem(ctx, "sorted", i-100)
					p.Append(ctx, "long", "more")
					p.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []any{"n", i}})
					p.XTrimMaxLen(ctx, "stream", 700)
					return nil
				})
			}
			if err == nil {
				err = c.Eval(ctx, "return redis.call('incr', KEYS[1])", []string{"m"}).Err()
			}
			if err == nil {
				err = c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "d", Streams: []string{"stream", ">"}, Count: 1, Block: -1}).Err()
			}
			if err == nil && i%50 == 0 {
				err = c.Publish(ctx, "news", i).Err()
			}
			if err != nil && !errors.Is(err, redis.Nil) && ctx.Err() == nil {
				t.Errorf("a client: %v", err)
				return
			}
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		_ = heard.Close()
		_ = c.Close()
	}
}
