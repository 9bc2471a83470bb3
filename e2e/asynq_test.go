package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestAsynqAcrossSwitches has asynq as the load: Lua, polling, sorted sets, leases and a
// subscription. Each task is run once by the handler's own count and by asynq's.
func TestAsynqAcrossSwitches(t *testing.T) {
	acrossSwitches(t, func(addr string) jobs { return startAsynq(t, addr) })
}

// asynqQueues and their priorities.
var asynqQueues = map[string]int{"critical": 6, "default": 3, "low": 1}

// asynqLoad is a producer and two servers.
type asynqLoad struct {
	t       *testing.T
	conn    *redis.Client
	servers []*asynq.Server
	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	added   map[string]int // how often each task is to be run
	runs    map[string]int // how often it was
	groups  int            // tasks that were made of several
	trouble []string
}

func startAsynq(t *testing.T, addr string) *asynqLoad {
	t.Helper()
	q := &asynqLoad{t: t, stopped: make(chan struct{}), added: make(map[string]int), runs: make(map[string]int)}
	o := redistest.Options(addr, 0)
	o.PoolSize, o.ReadTimeout, o.DialTimeout = 40, time.Minute, time.Minute // a machine may be busy
	o.Dialer = q.dial
	q.conn = redis.NewClient(o)
	for range 2 {
		s := asynq.NewServerFromRedisClient(q.conn, asynq.Config{
			Concurrency: 8, Queues: asynqQueues, TaskCheckInterval: 5 * time.Millisecond, DelayedTaskCheckInterval: 50 * time.Millisecond,
			GroupGracePeriod: time.Second, GroupMaxSize: 100, GroupAggregator: asynq.GroupAggregatorFunc(q.aggregate),
			ErrorHandler: asynq.ErrorHandlerFunc(func(_ context.Context, task *asynq.Task, err error) {
				q.note("task %s has failed: %v", task.Payload(), err)
			}),
			IsFailure: func(error) bool { return true },
			Logger:    asynqLog{q}, LogLevel: asynq.WarnLevel,
		})
		if err := s.Start(asynq.HandlerFunc(q.handle)); err != nil {
			t.Fatal(err)
		}
		q.servers = append(q.servers, s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	q.stop = cancel
	go q.produce(ctx)
	t.Cleanup(func() {
		q.shutdown()
		_ = q.conn.Close()
	})
	return q
}

// shutdown stops the producer and the servers. It may be called again.
func (q *asynqLoad) shutdown() {
	q.stop()
	<-q.stopped
	for _, s := range q.servers {
		s.Shutdown()
	}
	q.servers = nil
}

func (q *asynqLoad) note(format string, args ...any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.trouble = append(q.trouble, fmt.Sprintf(format, args...))
}

// handle is what a task does: it takes a moment.
func (q *asynqLoad) handle(ctx context.Context, task *asynq.Task) error {
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := strings.Split(string(task.Payload()), " ")
	if task.Type() == "group" {
		q.groups++
	}
	for _, id := range ids {
		q.runs[id]++
	}
	return nil
}

// aggregate makes one task of several.
func (q *asynqLoad) aggregate(_ string, tasks []*asynq.Task) *asynq.Task {
	ids := make([]string, len(tasks))
	for i, task := range tasks {
		ids[i] = string(task.Payload())
	}
	return asynq.NewTask("group", []byte(strings.Join(ids, " ")))
}

// produce adds tasks in bursts, so that servers are now busy and now idle.
func (q *asynqLoad) produce(ctx context.Context) {
	defer close(q.stopped)
	client := asynq.NewClientFromRedisClient(q.conn)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; {
		for range 4 {
			q.add(client, i)
			i++
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// add adds task i, of the kind whose turn it is.
func (q *asynqLoad) add(client *asynq.Client, i int) {
	var kind string
	var opts []asynq.Option
	switch i % 8 {
	case 0:
		kind, opts = "once", []asynq.Option{asynq.Unique(time.Hour)}
	case 1:
		kind, opts = "later", []asynq.Option{asynq.ProcessIn(time.Second)}
	case 2:
		kind, opts = "kept", []asynq.Option{asynq.Retention(time.Hour), asynq.Queue("critical")}
	case 3:
		kind, opts = "member", []asynq.Option{asynq.Group("g"), asynq.Queue("low")}
	case 4:
		kind, opts = "plain", []asynq.Option{asynq.Queue("low")}
	default:
		kind = "plain"
	}
	id := fmt.Sprintf("%s:%d", kind, i)
	task := asynq.NewTask(kind, []byte(id), opts...)
	q.mu.Lock()
	q.added[id]++
	q.mu.Unlock()
	if _, err := client.Enqueue(task); err != nil {
		q.note("adding %s: %v", id, err)
	}
	if kind != "once" {
		return
	}
	// Its lock is there until it is done, and then it may be added again.
	switch _, err := client.Enqueue(task); {
	case err == nil:
		q.mu.Lock()
		q.added[id]++
		q.mu.Unlock()
	case !errors.Is(err, asynq.ErrDuplicateTask):
		q.note("adding %s again: %v", id, err)
	}
}

func (q *asynqLoad) done() (int, []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.runs), slices.Clone(q.trouble)
}

func (q *asynqLoad) end() string {
	t := q.t
	t.Helper()
	q.stop()
	<-q.stopped
	redistest.Eventually(t, time.Minute, q.left, "all tasks are done")
	q.shutdown() // a group that is being made a task is in no count: only now all have theirs
	processed, kept := q.account()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.trouble) > 0 {
		t.Fatalf("%d troubles: %q", len(q.trouble), q.trouble[:min(len(q.trouble), 10)])
	}
	tasks, completed := q.groups, 0
	for id, want := range q.added {
		if q.runs[id] != want {
			t.Errorf("task %s was run %d times, want %d", id, q.runs[id], want)
		}
		switch {
		case strings.HasPrefix(id, "kept:"):
			completed++
			tasks++
		case !strings.HasPrefix(id, "member:"):
			tasks += want
		}
	}
	for id := range q.runs {
		if q.added[id] == 0 {
			t.Errorf("task %s was run and never added", id)
		}
	}
	if processed != tasks || kept != completed {
		t.Errorf("by asynq's account %d tasks were done and %d are kept, want %d and %d", processed, kept, tasks, completed)
	}
	return fmt.Sprintf("%d tasks added, each run once; by asynq's account %d done, 0 failed, 0 tried again", len(q.added), processed)
}

// left returns errMore unless every task was run.
func (q *asynqLoad) left() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	left := make(map[string]int) // by kind
	for id, want := range q.added {
		if q.runs[id] < want {
			kind, _, _ := strings.Cut(id, ":")
			left[kind]++
		}
	}
	if len(left) > 0 && len(q.trouble) == 0 {
		return fmt.Errorf("%w: %v", errMore, left)
	}
	return nil
}

// account is asynq's own, of all queues: how many tasks were done, and how many of these
// are kept. None may have failed or be left.
func (q *asynqLoad) account() (processed, kept int) {
	q.t.Helper()
	inspector := asynq.NewInspectorFromRedisClient(q.conn)
	for name := range asynqQueues {
		info, err := inspector.GetQueueInfo(name)
		if err != nil {
			q.t.Fatal(err)
		}
		if info.FailedTotal > 0 || info.Size != info.Completed {
			q.t.Fatalf("by asynq's account of queue %s: %+v", name, *info)
		}
		processed += info.ProcessedTotal
		kept += info.Completed
	}
	return processed, kept
}

// dial connects, and has the load's trouble told when somebody else ends the connection.
func (q *asynqLoad) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		q.note("connecting: %v", err)
		return nil, err
	}
	return &toldConn{Conn: c, q: q}, nil
}

type toldConn struct {
	net.Conn
	q *asynqLoad
}

func (c *toldConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) || err != nil && !errors.Is(err, net.ErrClosed) && !isTimeout(err) {
		c.q.note("a connection has ended: %v", err)
	}
	return n, err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// asynqLog takes what asynq would write: all that is worth a warning is trouble, but that
// it is too busy to look for groups.
type asynqLog struct{ q *asynqLoad }

func (asynqLog) Debug(...any) {}
func (asynqLog) Info(...any)  {}

func (l asynqLog) Warn(args ...any) {
	if text := fmt.Sprint(args...); !strings.Contains(text, "aggregation checks in flight") {
		l.q.note("a warning: %s", text)
	}
}
func (l asynqLog) Error(args ...any) { l.q.note("an error: %s", fmt.Sprint(args...)) }
func (l asynqLog) Fatal(args ...any) { l.q.note("fatal: %s", fmt.Sprint(args...)) }
