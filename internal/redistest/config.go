package redistest

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config says how a server is to be started. The zero value is a server with
// 16 databases, no password and no persistence, on a free loopback port, in a
// folder of its own that is removed when the server is closed.
type Config struct {
	Binary     string        // path of redis-server; default $REDIS_SERVER, then PATH
	Port       int           // default a free one
	Dir        string        // working folder; default a temporary one, removed by Close
	Databases  int           // default 16
	Password   string        // requirepass; empty for none
	ACL        []string      // what follows "user " in redis.conf: "app on >secret ~* &* +@all"
	Directives [][]string    // further redis.conf lines: name, then arguments
	Renamed    [][2]string   // command, new name; "" takes the command away; in this order
	AOF        bool          // append-only file, so that the data survives Restart and Kill
	UnixSocket bool          // listen on a unix socket too, see Server.SocketPath
	StartWait  time.Duration // how long the server may take until it answers; default 15 s
	Log        *slog.Logger  // default: discarded

	bus bool // a free port is one with a free bus port, see StartCluster
}

// ErrNoBinary is wrapped by Launch and Start when there is no redis-server.
var ErrNoBinary = errors.New("no redis-server found: install it (Debian: scripts/deps.sh, or apt-get install redis-server), or name it in REDIS_SERVER")

// ours are the directives that the harness sets itself and relies on.
var ours = []string{"port", "bind", "dir", "logfile", "loglevel", "daemonize", "unixsocket", "databases", "requirepass"}

// withDefaults fills in what is left open and reports every problem at once.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Databases == 0 {
		c.Databases = 16
	}
	if c.Databases < 0 {
		errs = append(errs, fmt.Errorf("databases %d: must be at least 1", c.Databases))
	}
	if c.StartWait == 0 {
		c.StartWait = 15 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range c.Directives {
		switch {
		case len(d) == 0 || d[0] == "":
			errs = append(errs, errors.New("a directive has no name"))
		case slices.Contains(ours, strings.ToLower(d[0])):
			errs = append(errs, fmt.Errorf("directive %s belongs to the harness; use its own option", d[0]))
		}
	}
	binary, err := findBinary(c.Binary)
	if err != nil {
		errs = append(errs, err)
	}
	c.Binary = binary
	return c, errors.Join(errs...)
}

// findBinary returns the server to start: the one asked for, that of
// $REDIS_SERVER, or the one in PATH.
func findBinary(asked string) (string, error) {
	from := "configuration"
	if asked == "" {
		asked, from = os.Getenv("REDIS_SERVER"), "REDIS_SERVER"
	}
	if asked == "" {
		asked, from = "redis-server", "PATH"
	}
	path, err := exec.LookPath(asked)
	if err != nil {
		return "", fmt.Errorf("%w (%s, from %s: %w)", ErrNoBinary, asked, from, err)
	}
	return path, nil
}

// file returns the redis.conf for a server on port.
func (c Config) file(port int, socket string) string {
	var b strings.Builder
	line := func(words ...string) {
		b.WriteString(words[0])
		for _, w := range words[1:] {
			b.WriteByte(' ')
			b.WriteString(quote(w))
		}
		b.WriteByte('\n')
	}
	line("bind", "127.0.0.1")
	line("port", strconv.Itoa(port))
	line("dir", c.Dir)
	line("logfile", "") // standard output, which the harness sends into its own file
	line("loglevel", "notice")
	line("daemonize", "no")
	line("databases", strconv.Itoa(c.Databases))
	line("save", "")
	if c.AOF {
		line("appendonly", "yes")
	} else {
		line("appendonly", "no")
	}
	if c.Password != "" {
		line("requirepass", c.Password)
	}
	if socket != "" {
		line("unixsocket", socket)
	}
	for _, rule := range c.ACL {
		b.WriteString("user " + rule + "\n")
	}
	for _, r := range c.Renamed {
		line("rename-command", r[0], r[1])
	}
	for _, d := range c.Directives {
		line(d...)
	}
	return b.String()
}

// quote writes s as redis.conf reads it.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Option changes the configuration of a server started by Start.
type Option func(*Config)

// WithDatabases sets the number of databases.
func WithDatabases(n int) Option { return func(c *Config) { c.Databases = n } }

// WithPassword sets the password of the default user (requirepass). Clients
// made by the server use it.
func WithPassword(p string) Option { return func(c *Config) { c.Password = p } }

// WithACL adds users, each as redis.conf writes it without the word "user":
// "app on >secret ~* &* +@all".
func WithACL(rules ...string) Option {
	return func(c *Config) { c.ACL = append(c.ACL, rules...) }
}

// WithConfig adds a redis.conf directive: WithConfig("maxmemory", "1mb").
func WithConfig(name string, args ...string) Option {
	return func(c *Config) { c.Directives = append(c.Directives, append([]string{name}, args...)) }
}

// WithRenamed renames a command; an empty new name takes it away.
func WithRenamed(command, to string) Option {
	return func(c *Config) {
		c.Renamed = append(c.Renamed, [2]string{command, to})
	}
}

// WithAOF switches the append-only file on: data survives Restart and Kill.
func WithAOF() Option { return func(c *Config) { c.AOF = true } }

// WithUnixSocket makes the server listen on a unix socket too.
func WithUnixSocket() Option { return func(c *Config) { c.UnixSocket = true } }

// WithBinary starts another server binary than $REDIS_SERVER or that in PATH.
func WithBinary(path string) Option { return func(c *Config) { c.Binary = path } }

// WithDir sets the working folder, which Close then leaves in place.
func WithDir(dir string) Option { return func(c *Config) { c.Dir = dir } }
