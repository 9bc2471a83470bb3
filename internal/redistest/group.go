package redistest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Group is a server with replicas, and three sentinels that watch them. After a failover
// another one of Servers is the master: see Master. Its methods are for one goroutine.
type Group struct {
	Name      string
	Servers   []*Server // the first one was the master first
	Sentinels []*Sentinel

	tb      TB
	ownUser bool
	clients map[*Server]*redis.Client
}

// client returns the group's own client of a server.
func (g *Group) client(s *Server) *redis.Client {
	c := g.clients[s]
	if c == nil && g.ownUser {
		c = s.ClientAs(watchUser, watchUser, 0)
	} else if c == nil {
		c = s.Client(0)
	}
	if g.clients[s] == nil {
		g.clients[s] = c
	}
	return c
}

// GroupConfig says what a group is like. The zero value has one replica and no passwords.
type GroupConfig struct {
	Name             string        // of the master; default "main"
	Replicas         int           // default 1
	SentinelPassword string        // of the sentinels themselves
	DownAfter        time.Duration // until a master that says nothing counts as down; default 3 s
	// OwnUser has the sentinels log in as a user of their own, with the rights that their
	// documentation gives one, and the group too.
	OwnUser bool
}

// watchUser is the user of sentinels, and its password.
const watchUser = "watch"

const watchRules = watchUser + " on >" + watchUser + " allchannels -@all +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname +client|kill +script|kill"

// groupWait bounds each wait for sentinels: they speak to each other every 2 s, and try a
// failover that has not come about again after twice their failover-timeout.
const groupWait = 60 * time.Second

// StartGroup starts a group and ends it with the test. The options are for each server;
// with a password all have the same. It returns when the sentinels know each other and
// could make a failover.
func StartGroup(tb TB, c GroupConfig, opts ...Option) *Group {
	tb.Helper()
	orDefault(&c.Name, "main")
	orDefault(&c.Replicas, 1)
	orDefault(&c.DownAfter, 3*time.Second)
	g := &Group{Name: c.Name, tb: tb, ownUser: c.OwnUser, clients: make(map[*Server]*redis.Client)}
	opts = append(opts, WithConfig("repl-diskless-sync-delay", "0"), withMasterAuth)
	if c.OwnUser {
		opts = append(opts, WithACL(watchRules))
	}
	first := Start(tb, opts...)
	g.Servers = append(g.Servers, first)
	for range c.Replicas {
		more := append(opts[:len(opts):len(opts)], WithConfig("replicaof", "127.0.0.1", strconv.Itoa(first.Port())))
		g.Servers = append(g.Servers, Start(tb, more...))
	}
	g.awaitReplicas(first, c.Replicas)
	for range 3 {
		g.Sentinels = append(g.Sentinels, startSentinel(tb, g, first, c))
	}
	Eventually(tb, groupWait, func() error { return g.ready(c.Replicas) }, "the sentinels of %s", c.Name)
	return g
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// withMasterAuth lets a replica log in to a master with the password that both have.
func withMasterAuth(c *Config) {
	if c.Password != "" {
		c.Directives = append(c.Directives, []string{"masterauth", c.Password})
	}
}

// URL names the sentinels and the master; with the servers' password when there is one.
func (g *Group) URL() string {
	user := ""
	if p := g.Servers[0].Password(); p != "" {
		user = ":" + p + "@"
	}
	var addrs []string
	for _, s := range g.Sentinels {
		addrs = append(addrs, s.Addr())
	}
	return "redis+sentinel://" + user + strings.Join(addrs, ",") + "/" + g.Name
}

// Master returns the server that the sentinels name, all that run alike, and that says
// that it is the master. It waits for that.
func (g *Group) Master() *Server {
	g.tb.Helper()
	var master *Server
	Eventually(g.tb, groupWait, func() (err error) {
		master, err = g.master()
		return err
	}, "a master of %s", g.Name)
	return master
}

func (g *Group) master() (*Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	named := ""
	for _, s := range g.Sentinels {
		if !s.Running() {
			continue
		}
		at, err := s.client.GetMasterAddrByName(ctx, g.Name).Result()
		if err != nil {
			return nil, fmt.Errorf("asking sentinel %s: %w", s.Addr(), err)
		}
		addr := net.JoinHostPort(at[0], at[1])
		if named != "" && named != addr {
			return nil, fmt.Errorf("sentinel %s names %s, another one %s", s.Addr(), addr, named)
		}
		named = addr
	}
	for _, s := range g.Servers {
		if s.Addr() != named {
			continue
		}
		role, err := g.client(s).Do(ctx, "ROLE").Slice()
		if redis.HasErrorPrefix(err, "NOPERM") { // somebody has fenced it
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("asking %s for its role: %w", named, err)
		}
		if role[0] != "master" {
			return nil, fmt.Errorf("%s is a %v", named, role[0])
		}
		return s, nil
	}
	return nil, fmt.Errorf("no server is at %q", named)
}

// Failover has a replica take the place of the master, as an operator does, and returns
// both when that is through. What the master acknowledges meanwhile may be lost.
func (g *Group) Failover() (old, now *Server) {
	g.tb.Helper()
	old = g.Master()
	ctx, cancel := context.WithTimeout(context.Background(), groupWait)
	defer cancel()
	Eventually(g.tb, groupWait, func() error {
		if m, err := g.master(); err == nil && m != old {
			return nil
		}
		return g.Sentinels[0].client.Failover(ctx, g.Name).Err() // refused for as long as it has no good replica
	}, "a failover of %s", g.Name)
	return old, g.await(old)
}

// KillMaster kills the master and returns it, and the server that has taken its place.
func (g *Group) KillMaster() (old, now *Server) {
	g.tb.Helper()
	old = g.Master()
	old.Kill()
	return old, g.await(old)
}

func (g *Group) await(old *Server) (now *Server) {
	g.tb.Helper()
	Eventually(g.tb, groupWait, func() (err error) {
		if now, err = g.master(); err == nil && now == old {
			err = errors.New("it is still the old one")
		}
		return err
	}, "another master of %s", g.Name)
	return now
}

// Level waits until the replicas that run have all that the master has acknowledged. A
// master that is fenced tells only a group with OwnUser.
func (g *Group) Level() {
	g.tb.Helper()
	master := g.Master()
	Eventually(g.tb, groupWait, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		want, err := g.offset(ctx, master, "master_repl_offset")
		if err != nil {
			return err
		}
		for _, s := range g.Servers {
			if s == master || !s.Running() {
				continue
			}
			if got, err := g.offset(ctx, s, "slave_repl_offset"); err != nil || got < want {
				return fmt.Errorf("%s has %d of %d bytes: %w", s.Addr(), got, want, errors.Join(errNotYet, err))
			}
		}
		return nil
	}, "the replicas of %s", g.Name)
}

func (g *Group) offset(ctx context.Context, s *Server, field string) (int64, error) {
	text, err := g.client(s).Info(ctx, "replication").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s does not say its %s", s.Addr(), field)
}

func (g *Group) awaitReplicas(master *Server, n int) {
	g.tb.Helper()
	Eventually(g.tb, groupWait, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		text, err := g.client(master).Info(ctx, "replication").Result()
		if got := strings.Count(text, ",state=online,"); err == nil && got < n {
			err = fmt.Errorf("%d of %d", got, n)
		}
		return err
	}, "the replicas of %s", g.Name)
}

// ready returns an error unless each sentinel knows the others and the replicas.
func (g *Group) ready(replicas int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, s := range g.Sentinels {
		m, err := s.client.Master(ctx, g.Name).Result()
		if err != nil {
			return err
		}
		if m["flags"] != "master" || m["num-slaves"] != strconv.Itoa(replicas) || m["num-other-sentinels"] != strconv.Itoa(len(g.Sentinels)-1) {
			return fmt.Errorf("sentinel %s: flags %s, %s replicas, %s other sentinels", s.Addr(), m["flags"], m["num-slaves"], m["num-other-sentinels"])
		}
		list, err := s.client.Replicas(ctx, g.Name).Result()
		if err != nil {
			return err
		}
		for _, r := range list {
			if r["flags"] != "slave" || r["master-link-status"] != "ok" {
				return fmt.Errorf("sentinel %s: replica %s: flags %s, link %s", s.Addr(), r["name"], r["flags"], r["master-link-status"])
			}
		}
		if err := s.client.CkQuorum(ctx, g.Name).Err(); err != nil {
			return err
		}
	}
	return nil
}

// Sentinel is one process that watches a group.
type Sentinel struct {
	port   int
	proc   *process
	client *redis.SentinelClient
}

// Addr returns host:port.
func (s *Sentinel) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Kill ends the sentinel at once.
func (s *Sentinel) Kill() { s.proc.kill() }

// Running reports whether the process is there.
func (s *Sentinel) Running() bool { return !s.proc.ended() }

// startSentinel starts one of g's, in a folder of the test.
func startSentinel(tb TB, g *Group, master *Server, c GroupConfig) *Sentinel {
	tb.Helper()
	dir := tb.TempDir()
	var s *Sentinel
	var err error
	for range 10 {
		if s, err = launchSentinel(dir, g, master, c); !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		tb.Fatalf("start a sentinel: %v", err)
	}
	tb.Cleanup(func() {
		_ = s.client.Close()
		s.proc.kill()
		if f, ok := tb.(interface{ Failed() bool }); ok && f.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			tb.Logf("sentinel at %s, its log:\n%s", s.Addr(), text)
		}
	})
	return s
}

func launchSentinel(dir string, g *Group, master *Server, c GroupConfig) (*Sentinel, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "sentinel.conf")
	if err := os.WriteFile(conf, []byte(g.sentinelConf(dir, port, master, c)), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	p, err := startProcess(master.cfg.Binary, []string{conf, "--sentinel"}, log)
	if err != nil {
		return nil, err
	}
	s := &Sentinel{port: port, proc: p}
	said := func() string {
		text, _ := os.ReadFile(log.Name()) // nothing yet
		return string(text)
	}
	if err := p.awaitReady(context.Background(), master.cfg.StartWait, s.Addr(), "sentinel id is", said); err != nil {
		p.kill()
		return nil, err
	}
	o := Options(s.Addr(), 0)
	o.Password = c.SentinelPassword
	s.client = redis.NewSentinelClient(o)
	return s, nil
}

func (g *Group) sentinelConf(dir string, port int, master *Server, c GroupConfig) string {
	var b strings.Builder
	line := func(format string, args ...any) { _, _ = io.WriteString(&b, fmt.Sprintf(format, args...)+"\n") }
	line("bind 127.0.0.1")
	line("port %d", port)
	line("dir %s", quote(dir))
	line("sentinel monitor %s 127.0.0.1 %d 2", g.Name, master.Port())
	line("sentinel down-after-milliseconds %s %d", g.Name, c.DownAfter.Milliseconds())
	line("sentinel failover-timeout %s 6000", g.Name)
	line("sentinel parallel-syncs %s 1", g.Name)
	if c.OwnUser {
		line("sentinel auth-user %s %s", g.Name, watchUser)
		line("sentinel auth-pass %s %s", g.Name, watchUser)
	} else if p := master.Password(); p != "" {
		line("sentinel auth-pass %s %s", g.Name, quote(p))
	}
	if c.SentinelPassword != "" {
		line("requirepass %s", quote(c.SentinelPassword))
		line("sentinel sentinel-pass %s", quote(c.SentinelPassword))
	}
	return b.String()
}
