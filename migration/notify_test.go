package migration

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

func TestNotifyMerged(t *testing.T) {
	for _, tt := range []struct {
		have, need string
		enough     bool
	}{
		{"", "AE", false},
		{"A", "AE", false}, // classes without a channel say nothing
		{"K", "KA", false},
		{"E", "EA", false},
		{"KE", "KEA", false},
		{"AE", "AE", true},
		{"AK", "AK", true},
		{"AKE", "AKE", true},
		{"Kx", "KxA", false},
		{"xm", "xmAE", false}, // what others ask for stays
		{"g$lshzxetK", "g$lshzxetK", true},
		{"g$lshzxetdE", "g$lshzxetdE", true},
		{"g$lshzxeK", "g$lshzxeKA", false}, // no streams
		{"g$lshzetE", "g$lshzetEA", false}, // no expiry
		{"$lshzxetE", "$lshzxetEA", false}, // no DEL
		{"AKEmn", "AKEmn", true},
	} {
		if need, enough := notifyMerged(tt.have); need != tt.need || enough != tt.enough {
			t.Errorf("notifyMerged(%q) = %q, %v; want %q, %v", tt.have, need, enough, tt.need, tt.enough)
		}
	}
}

// What notifyMerged asks for is taken by a server and is enough there.
func TestNotifyMergedOnAServer(t *testing.T) {
	c := redistest.Start(t).Client(0)
	for _, have := range []string{"", "K", "Kx", "Elg", "Kmx", "AKE", "KEg$lshzxet"} {
		if err := c.ConfigSet(t.Context(), "notify-keyspace-events", have).Err(); err != nil {
			t.Fatal(err)
		}
		need, _ := notifyMerged(have)
		if err := c.ConfigSet(t.Context(), "notify-keyspace-events", need).Err(); err != nil {
			t.Errorf("%q for %q is refused: %v", need, have, err)
		}
		got := c.ConfigGet(t.Context(), "notify-keyspace-events").Val()["notify-keyspace-events"]
		if _, enough := notifyMerged(got); !enough {
			t.Errorf("after setting %q the server says %q, which is not enough", need, got)
		}
		for _, flag := range have {
			if !strings.ContainsRune(got, flag) && (!strings.Contains(got, "A") || !strings.ContainsRune(notifyClasses, flag)) {
				t.Errorf("%q became %q: %q is lost", have, got, flag)
			}
		}
	}
}

func TestNotifyCommand(t *testing.T) {
	for _, tt := range []struct {
		e    config.Endpoint
		want string
	}{
		{config.Endpoint{Network: "tcp", Address: "db.example:6379", Password: "secret"}, "redis-cli -h db.example -p 6379 CONFIG SET notify-keyspace-events AE"},
		{config.Endpoint{Network: "tcp", Address: "[::1]:7000"}, "redis-cli -h ::1 -p 7000 CONFIG SET notify-keyspace-events AE"},
		{config.Endpoint{Network: "unix", Address: "/run/redis.sock"}, "redis-cli -s /run/redis.sock CONFIG SET notify-keyspace-events AE"},
	} {
		p := conn.New(tt.e, "x", testTimeout)
		if got := notifyCommand(p, "AE"); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
		_ = p.Close()
	}
}

// idle is traffic of which there is none.
type idle struct{}

func (idle) Prepare(context.Context, router.Side) error     { return nil }
func (idle) Settle(context.Context) error                   { return nil }
func (idle) Hold(context.Context) error                     { return nil }
func (idle) Align(context.Context, router.Route) error      { return nil }
func (idle) Release(router.Route)                           {}
func (idle) Stalls() Stalls                                 { return Stalls{} }
func (idle) Scripts() []string                              { return nil }
func (idle) UpstreamAddrs(router.Side) map[string]struct{}  { return nil }
func (idle) Learn([]keyspec.Command)                        {}
func (idle) Silent() (forwarded, finished map[string]int64) { return nil, nil }
func (idle) Shadow(int)                                     {}
func (idle) Shadowed() int64                                { return 0 }
func (idle) Served() (commands int64, took time.Duration)   { return 0, 0 }

// quietMigration returns a migration between two servers that does nothing yet.
func quietMigration(t *testing.T, source, target config.Endpoint, change func(*config.Config)) *Migration {
	t.Helper()
	file, err := store.OpenFile(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Proxy.DialTimeout = testTimeout
	if change != nil {
		change(&cfg)
	}
	m := New(Options{Config: cfg, Source: source, Target: target, Gate: router.NewGate(router.Route{}), Traffic: idle{}, File: file}, slog.New(slog.DiscardHandler))
	m.rec = Record{ID: "test", Phase: Idle}
	t.Cleanup(func() {
		_ = file.Close()
		for _, id := range m.ids {
			_ = id.Pool().Close()
		}
	})
	return m
}

func flags(t *testing.T, s *redistest.Server) string {
	t.Helper()
	f := strings.Split(s.Client(0).ConfigGet(t.Context(), "notify-keyspace-events").Val()["notify-keyspace-events"], "")
	slices.Sort(f)
	return strings.Join(f, "")
}

func TestEnsureAndRestoreNotifications(t *testing.T) {
	for name, had := range map[string]string{"nothing": "", "some": "Kx", "enough": "AKE"} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", had))
			m := quietMigration(t, endpointOf(s, "", ""), endpointOf(s, "", ""), nil)
			before := flags(t, s)
			for range 2 { // the second time, what we set is not taken for what we found
				if err := m.ensureNotifications(t.Context(), router.Source); err != nil {
					t.Fatal(err)
				}
			}
			if err := checkNotifications(t.Context(), m.ids[router.Source].Pool()); err != nil {
				t.Errorf("still off: %v", err)
			}
			if touched := m.record().Servers[router.Source].Notify != nil; touched != (name != "enough") {
				t.Errorf("taken note of: %v", touched)
			}
			if n := m.record().Servers[router.Target].Notify; n != nil {
				t.Errorf("noted for the other side: %q", *n)
			}
			if e, ok, err := m.opt.File.Load(); name != "enough" {
				r, derr := decode(e)
				if err != nil || !ok || derr != nil || r.Servers[router.Source].Notify == nil {
					t.Errorf("not in the state file: %v, %v, %v", ok, err, derr)
				}
			}
			changed, err := m.restoreNotifications(t.Context(), router.Source)
			if err != nil || changed != (name != "enough") {
				t.Errorf("restore: %v, %v", changed, err)
			}
			if after := flags(t, s); after != before {
				t.Errorf("%q became %q", before, after)
			}
		})
	}
}

func TestNotificationsThatMayNotBeSet(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("reader on >pw ~* &* +@all -config +config|get", "blind on >pw ~* &* +@all -config"))
	as := func(user string, change func(*config.Config)) *Migration {
		return quietMigration(t, endpointOf(s, user, "pw"), endpointOf(s, user, "pw"), change)
	}
	command := "CONFIG SET notify-keyspace-events AE"
	forbidden := as("reader", nil).ensureNotifications(t.Context(), router.Source)
	off := as("reader", func(c *config.Config) { c.Sync.SetNotifications = false }).ensureNotifications(t.Context(), router.Source)
	for name, err := range map[string]error{"forbidden": forbidden, "switched off": off} {
		var no *mirror.NotificationsOff
		if !errors.As(err, &no) || no.Command == "" || !strings.Contains(err.Error(), command) || !strings.Contains(err.Error(), s.Addr()) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("%s: the error gives the password away: %v", name, err)
		}
	}
	if off == nil || !strings.Contains(off.Error(), "sync.set_notifications") {
		t.Errorf("switched off: %v", off)
	}
	if got := flags(t, s); got != "" {
		t.Errorf("they were set to %q", got)
	}
	// Where nothing can be read, the heartbeat has to prove it.
	if err := as("blind", nil).ensureNotifications(t.Context(), router.Source); err != nil {
		t.Errorf("where CONFIG GET is forbidden: %v", err)
	}
}

// TestNotificationsOfClients: what clients hear on the source they hear on the target too, as
// far as that knows it, for as long as the migration lasts.
func TestNotificationsOfClients(t *testing.T) {
	for name, tt := range map[string]struct{ source, target, want string }{
		"another channel":              {"Kx", "", "AK"},
		"beside the target's own":      {"KA", "AE", "AEK"},
		"all is there":                 {"Ex", "AKE", "AEK"},
		"what changes no key":          {"AKm", "", "AKm"},
		"what nobody but us asked for": {"", "", "AE"},
	} {
		t.Run(name, func(t *testing.T) {
			source := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", tt.source))
			target := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", tt.target))
			m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), nil)
			had := flags(t, target)
			for range 2 {
				for side := range m.ids {
					if err := m.ensureNotifications(t.Context(), router.Side(side)); err != nil {
						t.Fatal(err)
					}
				}
				if got := flags(t, target); got != tt.want {
					t.Errorf("the target's are %q, want %q", got, tt.want)
				}
				do(t, target.Client(0), "CONFIG", "SET", "notify-keyspace-events", tt.target) // as a restart does
				m.rec.Side = router.Target
			}
			if _, err := m.restoreNotifications(t.Context(), router.Target); err != nil || flags(t, target) != had {
				t.Errorf("%v, put back to %q", err, flags(t, target))
			}
		})
	}
}
