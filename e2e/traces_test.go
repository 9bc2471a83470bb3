package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// spans is a collector.
type spans struct {
	*httptest.Server
	t   *testing.T
	mu  sync.Mutex
	all []*otlp.Span
	of  []string // the services
}

func collect(t *testing.T) *spans {
	t.Helper()
	c := &spans{t: t}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		if strings.Contains(string(body), "sesame") {
			t.Error("a secret is in it")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, resource := range request.GetResourceSpans() {
			for _, a := range resource.GetResource().GetAttributes() {
				if a.GetKey() == "service.name" {
					c.of = append(c.of, a.GetValue().GetStringValue())
				}
			}
			for _, scope := range resource.GetScopeSpans() {
				c.all = append(c.all, scope.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

// named returns the last span of a name, nil where there is none.
func (c *spans) named(name string) *otlp.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range slices.Backward(c.all) {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

// within returns the names of the spans within one, in the order in which they began.
func (c *spans) within(parent *otlp.Span) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*otlp.Span
	for _, s := range c.all {
		if string(s.GetParentSpanId()) == string(parent.GetSpanId()) {
			list = append(list, s)
			if s.GetStartTimeUnixNano() < parent.GetStartTimeUnixNano() || s.GetEndTimeUnixNano() > parent.GetEndTimeUnixNano() {
				c.t.Errorf("%s is not within %s", s.GetName(), parent.GetName())
			}
		}
	}
	slices.SortFunc(list, func(a, b *otlp.Span) int { return int(a.GetStartTimeUnixNano()) - int(b.GetStartTimeUnixNano()) })
	for _, s := range list {
		names = append(names, s.GetName())
	}
	return names
}

// TestTraces: a collector sees what an operator has asked for, each attempt, and each step.
func TestTraces(t *testing.T) {
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	t.Setenv("TRACEPARENT", "00-"+trace+"-"+parent+"-01")
	c := collect(t)
	p := newPair(t, "", "--traces.url", c.URL)
	p.link.SetDelay(2 * time.Millisecond)
	if _, err := p.c.ask(router.Source, admin.SwitchRequest{MaxStall: "1ms"}); err == nil {
		t.Fatal("it was made")
	}
	p.link.SetDelay(0)
	undone := c.await("attempt: cutover")
	p.c.awaitReady()
	if got := c.within(undone); !slices.Contains(got, "undo") || undone.GetStatus().GetCode() != otlp.Status_STATUS_CODE_ERROR || !strings.Contains(undone.GetStatus().GetMessage(), "max_stall") {
		t.Errorf("an attempt that was taken back: %v, %v", got, undone.GetStatus())
	}
	c.forget()
	if _, err := p.c.cutover(); err != nil {
		t.Fatal(err)
	}
	verb, attempt := c.await("cutover"), c.await("attempt: cutover")
	if fmt.Sprintf("%x %x", verb.GetTraceId(), verb.GetParentSpanId()) != trace+" "+parent {
		t.Errorf("the verb is %x in trace %x", verb.GetParentSpanId(), verb.GetTraceId())
	}
	if got := c.within(verb); !slices.Equal(got, []string{"attempt: cutover"}) {
		t.Errorf("in the verb: %v", got)
	}
	if got := c.within(attempt); !slices.Equal(got, migration.StepNames()) {
		t.Errorf("in the attempt: %v, want %v", got, migration.StepNames())
	}
	var events []string
	for _, e := range attempt.GetEvents() {
		events = append(events, e.GetName())
	}
	if !slices.Contains(events, "clients wait") || !slices.Contains(events, string(migration.Committed)) {
		t.Errorf("the events are %v", events)
	}
	about := make(map[string]string)
	for _, a := range attempt.GetAttributes() {
		about[a.GetKey()] = fmt.Sprint(a.GetValue())
	}
	if about["crossfade.from"] != `string_value:"source"` || about["crossfade.held_ms"] == "" || about["crossfade.held_ms"] == "double_value:0" {
		t.Errorf("the attempt is told as %v", about)
	}
	if c.mu.Lock(); slices.ContainsFunc(c.of, func(name string) bool { return name != "crossfade" }) {
		t.Errorf("the services are %v", c.of)
	}
	c.mu.Unlock()

	// A switch that waits for its time is nobody's verb, and what is left is sent at the end.
	if _, err := p.c.rollback(); err != nil {
		t.Fatal(err)
	}
	p.c.signal(syscall.SIGTERM)
	if err := p.c.awaitExit(10 * time.Second); err == nil || err.Error() != "exit status 143" {
		t.Fatal(err)
	}
	if c.named("attempt: rollback") == nil {
		t.Error("the last spans are not sent")
	}
}

// await returns the last span of a name once there is one.
func (c *spans) await(name string) *otlp.Span {
	c.t.Helper()
	redistest.Eventually(c.t, 20*time.Second, func() bool { return c.named(name) != nil }, "the span %s", name)
	return c.named(name)
}

// forget has only those count that come from now on.
func (c *spans) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = nil
}

// TestNoCollector: where none answers, nothing waits for it, and the log is not full of it.
func TestNoCollector(t *testing.T) {
	silent := redistest.Start(t)
	if err := silent.Stop(); err != nil {
		t.Fatal(err)
	}
	p := newPair(t, "", "--traces.url", "http://"+silent.Addr())
	for range 2 {
		if _, err := p.c.cutover(); err != nil {
			t.Fatal(err)
		}
		p.c.awaitReady()
		if _, err := p.c.rollback(); err != nil {
			t.Fatal(err)
		}
		p.c.awaitReady()
	}
	p.c.signal(syscall.SIGTERM)
	if err := p.c.awaitExit(10 * time.Second); err == nil || err.Error() != "exit status 143" {
		t.Fatal(err)
	}
	text := string(must[[]byte](t)(os.ReadFile(p.c.logs)))
	if n := strings.Count(text, "traces do not reach the collector"); n > 2 {
		t.Errorf("the log says it %d times", n)
	}
}
