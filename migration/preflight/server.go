package preflight

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/sync/conn"
)

// ours is how the names of all keys of ours begin.
const ours = "crossfade:"

// probePrefix begins the names of the keys that the checks write.
const probePrefix = ours + "probe:"

// probeTTL is the second net under the probe keys: should this process be killed
// before it removes them, the server does.
const probeTTL = 60 * time.Second

// inspection is one Run: the two servers and what the checks share.
type inspection struct {
	Env
	stage    Stage
	from, to *server
	sampled  *sample
}

func inspect(env Env, stage Stage) *inspection {
	return &inspection{Env: env, stage: stage,
		from: &server{pool: env.From, name: env.FromName},
		to:   &server{pool: env.To, name: env.ToName}}
}

func (in *inspection) can(w which) bool {
	switch w {
	case fromOnly:
		return in.from.up
	case toOnly:
		return in.to.up
	case both:
		return in.from.up && in.to.up
	default:
		return in.from.up || in.to.up || in.from.reached || in.to.reached
	}
}

// sides are the servers that answer and show their INFO.
func (in *inspection) sides() []*server {
	var out []*server
	for _, s := range []*server{in.from, in.to} {
		if s.up {
			out = append(out, s)
		}
	}
	return out
}

func (in *inspection) missing() string {
	var names []string
	for _, s := range []*server{in.from, in.to} {
		if !s.up {
			names = append(names, "the "+s.name)
		}
	}
	return strings.Join(names, " and ")
}

// probeDB is where probe keys go: only into databases that are ours to write to.
func (in *inspection) probeDB(s *server) int {
	sources := in.Map.Sources()
	if len(sources) == 0 {
		return 0
	}
	return in.at(s, sources[0]).DB
}

// server is one side with what is known of it.
type server struct {
	pool    *conn.Pool
	name    string // "source", "target"
	reached bool   // answers and lets us in
	up      bool   // and shows its INFO
	info    info

	// Of a cluster, once it is up:
	nodes   []*server    // that answer, masters with slots first
	away    []string     // addresses of those that do not
	cluster *cluster.Map // who has what
	// Of a node of a cluster:
	whole *server
	node  *cluster.Node
	first uint16 // of its slots, if it has any
	slots int    // how many it has; of a cluster: all
}

// String names the side and its address.
func (s *server) String() string { return s.name + " " + s.pool.String() }

// client is for commands without a database: it needs no SELECT. Of a cluster it is that of
// one master.
func (s *server) client() *redis.Client {
	if s.clustered() && len(s.nodes) > 0 {
		return s.nodes[0].client()
	}
	return s.pool.DB(0)
}

func (s *server) load(ctx context.Context) error {
	if s.clustered() {
		if err := s.loadNodes(ctx); err != nil {
			return err
		}
		s.info, s.up = sum(s.masters()), true
		return nil
	}
	text, err := s.client().Info(ctx, "all").Result()
	if err != nil {
		return fmt.Errorf("INFO: %w", err)
	}
	s.info = parseInfo(text)
	s.up = true
	return nil
}

// redisCLI is the beginning of a command line for this server, without a password.
func (s *server) redisCLI() string {
	e := s.pool.Endpoint()
	var b strings.Builder
	b.WriteString("redis-cli")
	network, address := e.Where()
	if host, port, err := net.SplitHostPort(address); network == "unix" || err != nil {
		b.WriteString(" -s " + address)
	} else {
		b.WriteString(" -h " + host + " -p " + port)
	}
	if e.TLS != nil {
		b.WriteString(" --tls")
	}
	// With a user of its own, whoever may change the server logs in as another one.
	if e.Password != "" && (e.Username == "" || e.Username == "default") {
		b.WriteString(" --askpass")
	}
	return b.String()
}

// setting reads one CONFIG value.
func (s *server) setting(ctx context.Context, name string) (string, error) {
	values, err := s.client().ConfigGet(ctx, name).Result()
	if err != nil {
		return "", fmt.Errorf("CONFIG GET %s: %w", name, err)
	}
	value, ok := values[name]
	if !ok {
		return "", fmt.Errorf("CONFIG GET %s: the server does not show it", name)
	}
	return value, nil
}

// settable proves that a CONFIG value may be set, by setting it to what it is.
func (s *server) settable(ctx context.Context, name, present string) error {
	if err := s.client().ConfigSet(ctx, name, present).Err(); err != nil {
		return fmt.Errorf("CONFIG SET %s: %w", name, err)
	}
	return nil
}

// hasDB reports whether a database number exists.
func (s *server) hasDB(ctx context.Context, n int) (bool, error) {
	if s.clustered() {
		return n == 0, nil
	}
	if text, err := s.setting(ctx, "databases"); err == nil {
		if count, err := strconv.Atoi(text); err == nil {
			return n < count, nil
		}
	}
	err := s.pool.DB(n).Ping(ctx).Err()
	if err != nil && strings.Contains(err.Error(), "out of range") {
		return false, nil
	}
	return err == nil, err
}

// probeKey returns a name that nobody else uses.
func probeKey() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return probePrefix + hex.EncodeToString(b[:])
}

// shielded is the context for writing something temporary: such a write is not
// cut off, since what the server has received already would run after the removal.
func shielded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
}

// clean removes probe keys, also when ctx has ended. UNLINK may be forbidden
// where DEL is not.
func clean(ctx context.Context, c *redis.Client, keys ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for batch := range slices.Chunk(keys, 100) {
		if c.Unlink(ctx, batch...).Err() != nil {
			_ = c.Del(ctx, batch...).Err() // the keys have a TTL too
		}
	}
}

// refused reports whether the server does not let us run a command: by its ACL,
// or because it is renamed or disabled.
func refused(err error) bool {
	if err == nil {
		return false
	}
	text := strings.ToLower(err.Error())
	if strings.HasPrefix(text, "oom ") { // "command not allowed when used memory …"
		return false
	}
	for _, sign := range []string{"noperm", "unknown command", "unknown subcommand", "not allowed", "is disabled", "permission"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// quoted shows a name of somebody else's making: shortened, without control characters.
func quoted(name string) string {
	const longest = 60
	if r := []rune(name); len(r) > longest {
		name = string(r[:longest]) + "…"
	}
	return strconv.Quote(name)
}

// size shows bytes for people.
func size(n int64) string {
	value, unit := float64(n), 0
	units := []string{"B", "KB", "MB", "GB", "TB"}
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

func numbers(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// withDB is redisCLI for one database.
func withDB(s *server, db int) string { return fmt.Sprintf("%s -n %d", s.redisCLI(), db) }

// megabytes is bytes in whole megabytes, as CONFIG SET takes them.
func megabytes(n int64) string { return fmt.Sprintf("%dmb", (n>>20)+1) }
