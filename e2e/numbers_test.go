package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/browser"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// census asks for the numbers of one sidecar in every way that there is.
type census struct {
	t    *testing.T
	c    *sidecar
	src  *redis.Client
	http *http.Client
}

const (
	censusName    = "the-census" // of its own connections to the servers
	censusWriters = 6
)

func newCensus(t *testing.T, c *sidecar, src *redistest.Server) *census {
	t.Helper()
	n := &census{t: t, c: c}
	o := redistest.Options(src.Addr(), 0)
	o.ClientName = censusName
	n.src = redis.NewClient(o)
	t.Cleanup(func() { _ = n.src.Close() })
	socket := strings.TrimPrefix(c.adminAddress(), "unix:")
	n.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	t.Cleanup(n.http.CloseIdleConnections)
	return n
}

// status is what `crossfade status --json` prints.
func (n *census) status() admin.StatusReply {
	n.t.Helper()
	text, code := verb(n.t, "status", "--json", "--admin", n.c.adminAddress())
	var st admin.StatusReply
	if err := json.Unmarshal([]byte(text), &st); err != nil || code != 0 {
		n.t.Fatalf("status --json ended with %d: %v\n%s", code, err, text)
	}
	return st
}

// metrics is a scrape.
func (n *census) metrics() numbers {
	n.t.Helper()
	response, err := n.http.Get("http://crossfade/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	got, err := scraped(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		n.t.Fatalf("/metrics: %s, %v", response.Status, err)
	}
	return got
}

// events is the stream that the dashboard draws; the channel has each status.
func (n *census) events(ctx context.Context) <-chan admin.Moment {
	n.t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://crossfade/v1/events", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	response, err := n.http.Do(request) //nolint:bodyclose // who reads it closes it
	if err != nil || response.StatusCode != http.StatusOK {
		n.t.Fatalf("/v1/events: %v, %v", response, err)
	}
	out := make(chan admin.Moment)
	go func() {
		defer close(out)
		defer func() { _ = response.Body.Close() }()
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 16<<20)
		name := ""
		for lines.Scan() {
			if event, is := strings.CutPrefix(lines.Text(), "event: "); is {
				name = event
			}
			data, is := strings.CutPrefix(lines.Text(), "data: ")
			var m admin.Moment
			if !is || name != "status" || json.Unmarshal([]byte(data), &m) != nil {
				continue
			}
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// ofRedis is what the servers themselves say, by the names of the metrics that mean the same.
func (n *census) ofRedis() numbers {
	n.t.Helper()
	ctx := n.t.Context()
	stats := must[string](n.t)(n.src.Info(ctx, "commandstats").Result())
	faults := must[string](n.t)(n.src.Info(ctx, "errorstats").Result())
	got := numbers{
		`crossfade_commands_total{family="string_write"}`: calls(stats, "cmdstat_incr:calls="),
		`crossfade_commands_total{family="hash"}`:         calls(stats, "cmdstat_hincrby:calls="),
		`crossfade_commands_total{family="zset"}`:         calls(stats, "cmdstat_zincrby:calls="),
		`crossfade_commands_total{family="list"}`:         calls(stats, "cmdstat_llen:calls="),
		`crossfade_errors_total{kind="WRONGTYPE"}`:        calls(faults, "errorstat_WRONGTYPE:count="),
	}
	var theirs float64 // the target's fence, after the rollback, lets nobody ask there
	for line := range strings.Lines(must[string](n.t)(n.src.ClientList(ctx).Result())) {
		if !strings.Contains(line, " name=crossfade:") && !strings.Contains(line, " name="+censusName+" ") {
			theirs++
		}
	}
	got[`connections of clients to the source`] = theirs
	keys := must[int64](n.t)(n.src.DBSize(ctx).Result())
	ours := must[[]string](n.t)(n.src.Keys(ctx, "crossfade:*").Result())
	got[`crossfade_verify_keys{by="background"}`] = float64(keys) - float64(len(ours))
	return got
}

// calls reads a number of INFO.
func calls(info, what string) float64 {
	_, after, _ := strings.Cut(info, what)
	var n float64
	_, _ = fmt.Sscanf(after, "%g", &n)
	return n
}

// writes has clients work on one connection each until the end is called: one command at a
// time, of kinds that the sidecar itself has no use for on the source.
func (n *census) writes() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for w := range censusWriters {
		o := redistest.Options(n.c.addr, 0)
		o.PoolSize = 1
		c := redis.NewClient(o)
		n.t.Cleanup(func() { _ = c.Close() })
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("%d:%d", w, i%50)
				// Without the context: what was sent is answered before the connection is left.
				for _, err := range []error{
					c.Incr(context.Background(), "number:"+name).Err(), c.HIncrBy(context.Background(), "hash:"+name, "f", 1).Err(),
					c.ZIncrBy(context.Background(), "sorted:"+name, 1, "m").Err(),
				} {
					if err != nil && ctx.Err() == nil {
						n.t.Errorf("a write: %v", err)
						return
					}
				}
				if err := c.LLen(context.Background(), "hash:"+name).Err(); !redis.HasErrorPrefix(err, "WRONGTYPE") {
					n.t.Errorf("the length of a hash: %v", err)
					return
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// TestNumbersAgree: the dashboard, status --json, /metrics and Redis itself say the same, under
// load between two looks and at rest exactly.
func TestNumbersAgree(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	pipe := src.Client(0).Pipeline()
	for i := range 500 {
		pipe.Set(t.Context(), fmt.Sprint("seed:", i), i, 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	web := freeAddr(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: []string{"--admin.web", web, "--verify.interval", "1s"}})
	c.start("")
	c.awaitReady()
	n := newCensus(t, c, src)
	for _, change := range []func() (migration.Report, error){c.cutover, c.rollback} { // so that there are numbers of it
		must[migration.Report](t)(change())
		c.awaitReady()
	}
	before := n.ofRedis()

	end := n.writes()
	redistest.Eventually(t, time.Minute, func() bool {
		p := n.status().Proxy
		return p != nil && p.Clients.Pinned == 0 && p.Clients.Shared >= censusWriters
	}, "no client has a connection of its own any more")
	n.underLoad(before)
	end()
	c.await("nothing dirty", func(s migration.Status) bool { return s.Ready && s.Dirty == 0 })
	n.atRest(before)
	n.onThePage(web)
	if st := n.status(); st.Side != router.Source {
		t.Errorf("the clients are on the %s", st.Side)
	}
}

// underLoad looks again and again: what only grows lies between two looks in every way.
func (n *census) underLoad(before numbers) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	defer cancel()
	events := n.events(ctx)
	looks, grown := 0, 0
	for until := time.Now().Add(6 * time.Second); time.Now().Before(until) || looks < 4; looks++ {
		first, began := ofStatus(n.status()), time.Now()
		for m := range events { // some may be from before, and wait in a buffer
			if m.Point.At.After(began) {
				break // that was when it was ready; the next one is begun after it
			}
		}
		middle := map[string]numbers{"the dashboard": ofStatus((<-events).Status), "/metrics": n.metrics()}
		redis := n.ofRedis().since(before)
		last := ofStatus(n.status())
		for where, got := range middle {
			for name, low := range first {
				high, here := last[name], got[name]
				switch {
				case !cumulative(name) && !constant(name):
				case constant(name) && (low != here || high != here), here < low, here > high:
					n.t.Errorf("under load %s is %v in %s, and %v and %v in status before and after it", name, here, where, low, high)
				case high > low:
					grown++
				}
			}
		}
		for name, here := range redis {
			// A command that Redis has run counts here when it is answered: each client has one at most.
			if low, high := first[name], last[name]+censusWriters; cumulative(name) && (here < low || here > high) {
				n.t.Errorf("under load %s is %v in Redis, and %v and %v in status before and after it", name, here, low, high)
			}
		}
		if n.t.Failed() {
			return
		}
	}
	if n.t.Logf("%d looks under load, %d numbers had grown between two", looks, grown); grown < 10*looks {
		n.t.Errorf("only %d numbers have grown in %d looks", grown, looks)
	}
}

// atRest compares all numbers, when none of them changes between two looks.
func (n *census) atRest(before numbers) {
	n.t.Helper()
	redistest.Eventually(n.t, time.Minute, func() error {
		ctx, cancel := context.WithCancel(n.t.Context())
		defer cancel()
		events := n.events(ctx)
		<-events // it may be from before
		var page admin.StatusReply
		first := n.status()
		select {
		case m := <-events:
			page = m.Status
		case <-time.After(10 * time.Second):
			return errors.New("no event")
		}
		metrics, redis, last := n.metrics(), n.ofRedis().since(before), n.status()
		a, b := ofStatus(first), ofStatus(last)
		var odd []string
		for where, got := range map[string]numbers{"the dashboard": ofStatus(page), "/metrics": metrics} {
			for name := range a {
				if a[name] == b[name] && got[name] != a[name] && (where != "/metrics" || strings.HasPrefix(name, "crossfade_")) {
					odd = append(odd, fmt.Sprintf("%s is %v in %s and %v in status", name, got[name], where, a[name]))
				}
				if a[name] != b[name] && !restless(name) {
					return fmt.Errorf("%s is %v, and then %v", name, a[name], b[name])
				}
			}
		}
		for name := range metrics {
			if _, there := a[name]; !there && !notInStatus[family(name)] {
				odd = append(odd, name+" is in /metrics and not compared")
			}
		}
		for name := range redis {
			if redis[name] != a[name] {
				odd = append(odd, fmt.Sprintf("%s is %v in Redis and %v in status", name, redis[name], a[name]))
			}
		}
		if len(odd) > 0 {
			return errors.New(strings.Join(odd, "\n"))
		}
		n.t.Logf("%d numbers agree, %d of them with Redis itself", len(a), len(redis))
		return nil
	}, "at rest all numbers agree")
}

var digits = regexp.MustCompile(`(\d),(\d)`)

// onThePage reads the dashboard as a person does, where there is a browser.
func (n *census) onThePage(web string) {
	n.t.Helper()
	if _, err := browser.Find(); err != nil {
		n.t.Logf("the dashboard is not looked at in a browser: %v", err)
		return
	}
	d := newBoard(n.t, web)
	d.load()
	d.awaits("#traffic", "since the start")
	st := n.status()
	p := st.Proxy
	for selector, wants := range map[string][]string{
		"#traffic": {
			fmt.Sprintf("%d since the start", p.Commands), fmt.Sprintf("%d share connections, %d have their own", p.Clients.Shared, p.Clients.Pinned),
		},
		"#errors":    {fmt.Sprintf("WRONGTYPE %d times", p.Errors["WRONGTYPE"])},
		"#databases": {fmt.Sprintf("%d of %d", st.Databases[0].Scanned, st.Databases[0].Total)}, // what was copied grows by the heartbeats
	} {
		text := digits.ReplaceAllString(digits.ReplaceAllString(strings.Join(strings.Fields(d.reads(selector)), " "), "$1$2"), "$1$2")
		for _, want := range wants {
			if !strings.Contains(text, want) {
				n.t.Errorf("the page does not say %q at %s: %s", want, selector, text)
			}
		}
	}
}
