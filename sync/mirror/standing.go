package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/conn"
)

// standing is what a server says of which process it is and whose data it has. A run id says
// nothing of the second: a server that is made a replica of another one, and a master again
// (REPLICAOF, a failover and back), has another server's data, and keeps its process, its
// connections and its subscribers, who are told nothing.
type standing struct {
	run     string
	replica bool
	replid  string // "" where the server does not say it: some proxies and services
	shifted bool   // it was a replica before it was a master under this replid
	evicted int64  // keys that it has evicted; 0 where it was not asked, or does not say
}

// asked is a question who a server is.
type asked struct {
	server, replication *redis.StringCmd
	stats               *redis.StringCmd // nil: nobody wants to know
	at                  time.Time        // what is answered was so at this time or later
}

func askWho(ctx context.Context, p redis.Pipeliner) asked {
	return asked{server: p.Info(ctx, "server"), replication: p.Info(ctx, "replication"), at: time.Now()}
}

// askHolder is askWho for a server that is copied to, which may throw away what it was given.
func askHolder(ctx context.Context, p redis.Pipeliner) asked {
	a := askWho(ctx, p)
	a.stats = p.Info(ctx, "stats")
	return a
}

func (a asked) answer() (standing, error) {
	server, err := a.server.Result()
	if err != nil {
		return standing{}, err
	}
	if server == "" { // the commands of a pipeline whose connection was refused have no error
		return standing{}, errNoAnswer
	}
	replication, err := a.replication.Result()
	if err != nil && !forbids(err) { // some let nobody see it: then the run id is all there is
		return standing{}, err
	}
	s := standingIn(server, replication)
	if a.stats == nil {
		return s, nil
	}
	stats, err := a.stats.Result()
	if err != nil && !forbids(err) {
		return standing{}, err
	}
	s.evicted, _ = strconv.ParseInt(infoField(stats, "evicted_keys"), 10, 64)
	return s, nil
}

// whoIs asks a server who it is, and says when.
func whoIs(ctx context.Context, c interface{ Pipeline() redis.Pipeliner }) (s standing, at time.Time, err error) {
	return whoAnswers(ctx, c, askWho)
}

// whoHolds is whoIs by askHolder.
func whoHolds(ctx context.Context, c interface{ Pipeline() redis.Pipeliner }) (s standing, at time.Time, err error) {
	return whoAnswers(ctx, c, askHolder)
}

func whoAnswers(ctx context.Context, c interface{ Pipeline() redis.Pipeliner }, ask func(context.Context, redis.Pipeliner) asked) (s standing, at time.Time, err error) {
	p := c.Pipeline()
	a := ask(ctx, p)
	_, refused := p.Exec(ctx)
	if s, err = a.answer(); errors.Is(err, errNoAnswer) && refused != nil {
		err = refused
	}
	return s, a.at, err
}

var errNoAnswer = errors.New("it has not answered")

// standingIn finds it in the answers to INFO server and INFO replication.
func standingIn(server, replication string) standing {
	s := standing{run: infoField(server, "run_id"), replica: infoField(replication, "role") == "slave"}
	s.replid = infoField(replication, "master_replid")
	second, err := strconv.ParseInt(infoField(replication, "second_repl_offset"), 10, 64)
	s.shifted = err == nil && second >= 0
	return s
}

// infoField finds a field in the answer to INFO, "" where it is not said.
func infoField(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// What a server may have become: it may lack what it had.
const (
	restarted = "restarted"
	demoted   = "is a replica now"
	promoted  = "was made a replica and a master again, and may have another server's data"
)

// mayLack says what a server has become that was copied to.
func mayLack(what string) string {
	if what == restarted {
		return what + " and may have lost keys"
	}
	return what
}

// line is one server as long as it keeps its data: one process that was no replica in between.
// Each time a replica becomes a master it takes a new replication id, and keeps the old one as
// its second; a master that gets its first replica, or has been without for long, takes a new
// one too, but has no second one then. A server never has an id again that it has left.
// Safe for concurrent use.
type line struct {
	first standing // immutable

	mu      sync.Mutex
	known   map[string]bool // the replication ids that it has had
	until   time.Time       // when it was asked last and still was the same
	evicted int64           // keys that it had evicted when it was asked last
}

func newLine(s standing, at time.Time) *line {
	return &line{first: s, known: map[string]bool{s.replid: true}, until: at, evicted: s.evicted}
}

// evicts returns how many keys it has evicted since it was asked before, of which s tells. A
// number that has become less was set to zero by somebody (CONFIG RESETSTAT).
func (l *line) evicts(s standing) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	more := s.evicted - l.evicted
	if more < 0 {
		more = s.evicted
	}
	l.evicted = s.evicted
	return more
}

// judge returns what a server has become that says of itself what s tells, and did so at a
// time or later: "" where it is this line's. ttl says for how long a master keeps its backlog
// without replicas, 0 for ever. An error of it is judge's: nobody can tell then.
func (l *line) judge(s standing, at time.Time, ttl func() (time.Duration, error)) (string, error) {
	switch {
	case s.run != l.first.run:
		return restarted, nil
	case s.replica && !l.first.replica:
		return demoted, nil
	case !s.replica && l.first.replica:
		return promoted, nil
	}
	l.mu.Lock()
	until, same := l.until, s.replid == "" || l.first.replid == "" || l.known[s.replid]
	l.mu.Unlock()
	if !same {
		if s.shifted || s.replica {
			return promoted, nil
		}
		// That it has no second id does not say it all: the id of a promotion goes when the
		// backlog does, though not before.
		switch d, err := ttl(); {
		case err != nil:
			return "", err
		case d > 0 && time.Since(until) >= d:
			return promoted, nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[s.replid] = true
	if at.After(l.until) {
		l.until = at
	}
	return "", nil
}

// shortTTL is what is taken for the time that nobody may ask for.
const shortTTL = time.Minute

// backlogTTL asks a server for how long it keeps its backlog without replicas.
func backlogTTL(ctx context.Context, p *conn.Pool) (time.Duration, error) {
	const name = "repl-backlog-ttl"
	values, err := p.DB(0).ConfigGet(ctx, name).Result()
	if err != nil {
		if ctx.Err() == nil && forbids(err) {
			return shortTTL, nil
		}
		return 0, fmt.Errorf("asking %s for %s: %w", p, name, err)
	}
	seconds, err := strconv.Atoi(values[name])
	if err != nil {
		return shortTTL, nil
	}
	return time.Duration(seconds) * time.Second, nil
}

// forbids reports whether an error is a server's no, in whatever words a service says that, and
// not one that passes.
func forbids(err error) bool {
	if !errors.As(err, new(redis.Error)) && !errors.As(err, new(serverError)) {
		return false
	}
	text := err.Error()
	return !slices.ContainsFunc([]string{"LOADING", "BUSY", "MASTERDOWN", "WRONGPASS", "NOAUTH"}, func(word string) bool { return strings.HasPrefix(text, word) })
}
