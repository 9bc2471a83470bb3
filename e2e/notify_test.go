package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// exitRefused is what `crossfade help exit-codes` documents.
const exitRefused = 3

// verb runs another command of the program to its end.
func verb(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = withoutServers()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// adminAddress returns what --admin is for this sidecar.
func (c *sidecar) adminAddress() string {
	for i, a := range c.args {
		if a == "--admin" {
			return c.args[i+1]
		}
	}
	return ""
}

// unwrapped takes the folding out of a table, to look for a text in it.
func unwrapped(text string) string { return strings.Join(strings.Fields(text), " ") }

func switchOnBy(s *redistest.Server) string {
	return fmt.Sprintf("redis-cli -h 127.0.0.1 -p %d CONFIG SET notify-keyspace-events", s.Port())
}

// appUser is what the migration logs in as where CONFIG is forbidden to it. With
// ACL it could make a user of its own that may.
const appUser = "app on >secret ~* &* +@all -config -acl"

func withoutConfig() map[string][]redistest.Option {
	return map[string][]redistest.Option{
		"renamed away":     {redistest.WithRenamed("CONFIG", "")},
		"forbidden by ACL": {redistest.WithACL(appUser)},
	}
}

// urlOf is how the migration logs in: as the user without CONFIG, if there is one.
func urlOf(name string, s *redistest.Server) string {
	if name == "forbidden by ACL" {
		return strings.Replace(s.URL(0), "redis://", "redis://app:secret@", 1)
	}
	return s.URL(0)
}

// TestTrackingWhereNotificationsCannotBeHad has the same source, and CLIENT TRACKING
// for a feed, there and back: what is written through the proxy and past it arrives.
func TestTrackingWhereNotificationsCannotBeHad(t *testing.T) {
	for name, options := range withoutConfig() {
		t.Run(name, func(t *testing.T) {
			src, dst := redistest.Start(t, options...), redistest.Start(t)
			url := urlOf(name, src)
			text, code := verb(t, "check", "--source", url, "--target", dst.URL(0), "--map", "0=0,3=5")
			if code != 0 || !strings.Contains(unwrapped(text), "CLIENT TRACKING") {
				t.Errorf("check ended with status %d and does not say that CLIENT TRACKING is used:\n%s", code, text)
			}
			c := newSidecar(t, setup{source: url, target: dst.URL(0), dbmap: "0=0,3=5"})
			c.start("")
			if s := c.awaitReady(); s.Feed != "tracking" {
				t.Errorf("the feed is %q", s.Feed)
			}
			client := redis.NewClient(redistest.Options(c.addr, 3))
			defer func() { _ = client.Close() }()
			past := src.Client(0)
			for i := range 500 {
				do(t, client, "SET", fmt.Sprintf("through:%d", i), i)
				do(t, past, "HSET", fmt.Sprintf("past:%d", i%50), i, i)
			}
			equalSides(t, src, dst, "0=0,3=5")
			if name == "forbidden by ACL" {
				return // there is no fence against the clients of this test that are connected past the proxy
			}
			if _, err := c.cutover(); err != nil {
				t.Fatalf("the cutover: %v", err)
			}
			do(t, client, "SET", "after", "the cutover")
			if v, err := dst.Client(5).Get(t.Context(), "after").Result(); err != nil || v != "the cutover" {
				t.Errorf("on the target: %q, %v", v, err)
			}
		})
	}
}

// TestNotificationsCannotBeSwitchedOn has a source that reports nothing and lets
// nobody change that, and no other feed: the operator is told the command, and clients are served,
// but nothing is called ready that could lose a write.
func TestNotificationsCannotBeSwitchedOn(t *testing.T) {
	for name, options := range withoutConfig() {
		t.Run(name, func(t *testing.T) {
			src, dst := redistest.Start(t, options...), redistest.Start(t)
			t.Run("check", func(t *testing.T) { checkNamesCommand(t, urlOf(name, src), src, dst) })
			t.Run("run", func(t *testing.T) { runIsNotReady(t, urlOf(name, src), src, dst) })
		})
	}
}

func checkNamesCommand(t *testing.T, url string, src, dst *redistest.Server) {
	text, code := verb(t, "check", "--source", url, "--target", dst.URL(0), "--map", "0=0", "--sync.feed", "notifications")
	if code != exitRefused {
		t.Errorf("check ended with status %d, want %d", code, exitRefused)
	}
	if !strings.Contains(unwrapped(text), switchOnBy(src)) {
		t.Errorf("check does not name the command %q:\n%s", switchOnBy(src), text)
	}
}

func runIsNotReady(t *testing.T, url string, src, dst *redistest.Server) {
	c := newSidecar(t, setup{source: url, target: dst.URL(0), dbmap: "0=0", extra: []string{"--sync.feed", "notifications"}})
	c.start("")
	named := func(s migration.Status) bool {
		return strings.Contains(unwrapped(strings.Join(s.Reasons, "\n")), switchOnBy(src))
	}
	s := c.await("a reason that names the command", named)
	if s.Ready || s.Phase == migration.Tailing {
		t.Errorf("phase %s, ready %v without notifications", s.Phase, s.Ready)
	}
	client := redis.NewClient(redistest.Options(c.addr, 0))
	defer func() { _ = client.Close() }()
	if err := client.Set(t.Context(), "served", "yes", 0).Err(); err != nil {
		t.Fatalf("a client is not served: %v", err)
	}
	if v, err := client.Get(t.Context(), "served").Result(); err != nil || v != "yes" {
		t.Fatalf("a client reads %q, %v", v, err)
	}
	_, err := c.cutover()
	var refused *admin.Error
	if !errors.As(err, &refused) || refused.Code != http.StatusConflict {
		t.Errorf("the cutover was answered with %v, want a refusal (409)", err)
	}
	text, code := verb(t, "cutover", "--admin", c.adminAddress())
	if code != exitRefused || !strings.Contains(unwrapped(text), switchOnBy(src)) {
		t.Errorf("the verb cutover ended with status %d, want %d and the command %q:\n%s", code, exitRefused, switchOnBy(src), text)
	}
	if s := must[migration.Status](t)(c.status()); s.Ready || s.Phase == migration.Tailing || s.Side != router.Source {
		t.Errorf("after the refusal: phase %s, side %s, ready %v", s.Phase, s.Side, s.Ready)
	}
}

// TestNotificationsSwitchedOff has somebody switch the notifications off in the
// middle: that is seen within two heartbeats, said, put right, and what was
// written meanwhile arrives.
func TestNotificationsSwitchedOff(t *testing.T) {
	const heartbeat = 500 * time.Millisecond
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=3",
		extra: []string{"--sync.heartbeat", heartbeat.String()}})
	c.start("")
	c.awaitReady()
	client := redis.NewClient(redistest.Options(c.addr, 0))
	defer func() { _ = client.Close() }()

	if err := src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "").Err(); err != nil {
		t.Fatal(err)
	}
	off := time.Now()
	if err := client.Set(t.Context(), "unseen", "by anybody", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := src.Client(0).Set(t.Context(), "unseen past the proxy", "too", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s := c.await("RESYNC", func(s migration.Status) bool { return s.Phase == migration.Resync })
	took := time.Since(off)
	t.Logf("seen after %v: %q", took.Round(time.Millisecond), s.Reasons)
	// Phase and status are looked at every 50 and 20 ms; the rest is for a busy machine.
	if most := 2*heartbeat + 250*time.Millisecond; took > most {
		t.Errorf("it took %v to see that the notifications are off, more than %v", took, most)
	}
	if reasons := unwrapped(strings.Join(s.Reasons, "\n")); s.Ready || !strings.Contains(reasons, "notify-keyspace-events") || !strings.Contains(reasons, switchOnBy(src)) {
		t.Errorf("ready %v, reasons %q: want notify-keyspace-events named, and the command", s.Ready, s.Reasons)
	}
	s = c.await("TAILING again", func(s migration.Status) bool { return s.Ready && s.Phase == migration.Tailing })
	if s.Gaps == 0 {
		t.Error("the gap was not counted")
	}
	for key, want := range map[string]string{"unseen": "by anybody", "unseen past the proxy": "too"} {
		if got, err := dst.Client(3).Get(t.Context(), key).Result(); err != nil || got != want {
			t.Errorf("%q is %q on the target (%v), want %q", key, got, err, want)
		}
	}
	if _, err := c.cutover(); err != nil {
		t.Errorf("a cutover after it: %v", err)
	}
}

// TestNotificationsOffRightBeforeASwitch has somebody switch them off and on again during one
// heartbeat, on a server that hides the setting, while a client past the proxy writes, and
// switches then: there and back, what was written is there.
func TestNotificationsOffRightBeforeASwitch(t *testing.T) {
	const config = "HIDDEN"
	hidden := []redistest.Option{redistest.WithConfig("notify-keyspace-events", "KEA"), redistest.WithRenamed("CONFIG", config)}
	servers := [2]*redistest.Server{redistest.Start(t, hidden...), redistest.Start(t, hidden...)}
	do(t, servers[0].Client(0), "SET", "past", "old")
	// The sample might find it by chance, and here it must be known.
	c := newSidecar(t, setup{source: servers[0].URL(0), target: servers[1].URL(0), dbmap: "0=0",
		extra: []string{"--sync.heartbeat", "2s", "--sync.feed", "notifications", "--cutover.check_sample", "0", "--verify.gate", "off"}})
	c.start("")
	for side, switchOver := range []func() (migration.Report, error){c.cutover, c.rollback} {
		c.awaitReady()
		from, to := servers[side].Client(0), servers[1-side].Client(0)
		beat := func() string { return from.Get(t.Context(), "crossfade:heartbeat:"+router.Side(side).String()).Val() }
		awaitBeat := func() {
			t.Helper()
			before := beat()
			redistest.Eventually(t, 20*time.Second, func() bool { return beat() != before }, "a heartbeat is written")
		}
		awaitBeat()
		value := fmt.Sprintf("written unheard on the %s", router.Side(side))
		do(t, from, config, "SET", "notify-keyspace-events", "")
		do(t, from, "SET", "past", value)
		awaitBeat()
		do(t, from, config, "SET", "notify-keyspace-events", "KEA")
		if _, err := switchOver(); err != nil {
			t.Fatalf("from the %s: %v", router.Side(side), err)
		}
		if got := to.Get(t.Context(), "past").Val(); got != value {
			t.Fatalf("the other server has %q instead of %q", got, value)
		}
	}
}
