package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
)

// stream reads the events of one page.
type stream struct {
	response *http.Response
	lines    *bufio.Reader
}

// open opens a stream. It is closed at the end of the test.
func open(t *testing.T, c config.Admin, header map[string]string) *stream {
	t.Helper()
	network, address, err := config.SplitAddress(c.Address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+pathEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != "text/event-stream" {
		t.Fatalf("a stream: %d, %s", response.StatusCode, kind)
	}
	return &stream{response, bufio.NewReader(response.Body)}
}

// next reads an event.
func (s *stream) next(into any) (name string, err error) {
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			return name, nil
		case strings.HasPrefix(line, "event: "):
			name = line[len("event: "):]
		default:
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), into); err != nil {
				return "", fmt.Errorf("%w in %s", err, line)
			}
		}
	}
}

// TestAHundredPages: however many look, the numbers are computed once a second, and all
// get the same.
func TestAHundredPages(t *testing.T) {
	op := &fake{}
	s, c, stop := start(t, config.Admin{}, op, nil)
	const pages, moments = 100, 3
	began := time.Now()
	var group sync.WaitGroup
	got := make([][]Moment, pages)
	for i := range pages {
		page := open(t, c, nil)
		group.Go(func() {
			var hello Hello
			if name, err := page.next(&hello); err != nil || name != "hello" || hello.Role != operates || hello.Page != s.nonce || hello.Version != "v1" {
				t.Errorf("%q, %+v, %v", name, hello, err)
			}
			for range moments {
				var m Moment
				if name, err := page.next(&m); err != nil || name != "status" || m.Status.ID != "id" {
					t.Errorf("%q, %+v, %v", name, m, err)
					return
				}
				got[i] = append(got[i], m)
			}
		})
	}
	group.Wait()
	took := time.Since(began)
	if looks := op.looks.Load(); looks < moments || looks > int64(took/watchEvery)+2 {
		t.Errorf("%d looks at the status within %v for %d pages", looks, took, pages)
	}
	last := got[0][moments-1].Point.At
	same := 0
	for _, list := range got {
		for _, m := range list {
			if m.Point.At.Equal(last) {
				same++
			}
		}
	}
	if same < pages/2 {
		t.Errorf("%d of %d pages have seen the same moment", same, pages)
	}
	// One that opens now is told what was before.
	page := open(t, c, nil)
	var hello Hello
	if _, err := page.next(&hello); err != nil || len(hello.Past) < moments {
		t.Errorf("%d points, %v", len(hello.Past), err)
	}
	// The end of the process ends the streams and waits for none of them.
	if err := stop(); err != nil {
		t.Error(err)
	}
	for {
		var m Moment
		if _, err := page.next(&m); err != nil {
			break
		}
	}
}

// TestPagesShowTheStatus: what a page is given is what /v1/status says, number for number.
func TestPagesShowTheStatus(t *testing.T) {
	c := startWithNumbers(t, config.Admin{})
	want, err := dial(t, c).Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events := open(t, c, nil)
	var hello Hello
	var m Moment
	if _, err := events.next(&hello); err != nil {
		t.Fatal(err)
	}
	if _, err := events.next(&m); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, m.Status); diff != "" {
		t.Errorf("the status (-) and the page (+):\n%s", diff)
	}
	p := want.Proxy
	if want := (Point{At: m.Point.At, PerSecond: p.Recent.PerSecond, P50MS: p.Recent.TotalMS.P50, P99MS: p.Recent.TotalMS.P99, Clients: 5}); m.Point != want {
		t.Errorf("the charts: %+v, want %+v", m.Point, want)
	}
}

// TestNobodyLooks: without a page nothing is computed, and coming and going does not make
// it more than once a second.
func TestNobodyLooks(t *testing.T) {
	op := &fake{}
	s, c, _ := start(t, config.Admin{}, op, nil)
	began := time.Now()
	for range 10 {
		page := open(t, c, nil)
		var hello Hello
		var m Moment
		if _, err := page.next(&hello); err != nil {
			t.Fatal(err)
		}
		if name, err := page.next(&m); err != nil || name != "status" {
			t.Fatal(name, err)
		}
		_ = page.response.Body.Close()
	}
	if looks := op.looks.Load(); looks > int64(time.Since(began)/watchEvery)+1 {
		t.Errorf("%d looks within %v", looks, time.Since(began))
	}
	deadline := time.After(10 * time.Second)
	for {
		s.watch.mu.Lock()
		running := s.watch.running
		s.watch.mu.Unlock()
		if !running {
			return
		}
		select {
		case <-deadline:
			t.Fatal("it goes on looking although no page is open")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestTooManyPages leaves file descriptors to the clients.
func TestTooManyPages(t *testing.T) {
	w := newWatch(func() ([]byte, Point) { return []byte("x"), Point{At: time.Now()} })
	for i := range maxPages {
		if _, _, ok := w.join(); !ok {
			t.Fatalf("page %d was refused", i)
		}
	}
	if _, _, ok := w.join(); ok {
		t.Error("one more was let in")
	}
	w.end()
	if _, _, ok := w.join(); ok {
		t.Error("one was let in after the end")
	}
}

// TestRequestsOfPages: what a browser adds decides who may change something.
func TestRequestsOfPages(t *testing.T) {
	s, c, _ := start(t, config.Admin{Address: "127.0.0.1:0"}, &fake{}, nil)
	_, web, _ := start(t, config.Admin{Web: "127.0.0.1:0"}, &fake{}, nil)
	_, socket, _ := start(t, config.Admin{}, &fake{}, nil)
	page := func(more ...string) map[string]string {
		h := map[string]string{"Content-Type": "application/json", "Origin": "http://" + c.Address, pageHeader: s.nonce, "Sec-Fetch-Site": "same-origin"}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	for _, k := range []struct {
		name   string
		door   config.Admin
		method string
		path   string
		header map[string]string
		want   int
	}{
		{"our page", c, "POST", "/v1/cutover", page(), 200},
		{"our page through TLS of somebody else", c, "POST", "/v1/cutover", page("Origin", "https://"+c.Address), 200},
		{"another page", c, "POST", "/v1/cutover", page("Origin", "http://evil.example"), 403},
		{"another port of this machine", c, "POST", "/v1/cutover", page("Origin", "http://127.0.0.1:1"), 403},
		{"a page of no origin", c, "POST", "/v1/cutover", page("Origin", "null"), 403},
		{"without the nonce", c, "POST", "/v1/cutover", page(pageHeader, ""), 403},
		{"with another nonce", c, "POST", "/v1/cutover", page(pageHeader, "x"), 403},
		{"a form of another page", c, "POST", "/v1/abort", map[string]string{"Origin": "http://evil.example", "Content-Type": "application/x-www-form-urlencoded"}, 403},
		{"from another site by the browser's word", c, "POST", "/v1/cutover", page("Sec-Fetch-Site", "cross-site"), 403},
		{"reading from another site", c, "GET", "/v1/status", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"a name that was bound to us", c, "POST", "/v1/cutover", page("Host", "evil.example:80", "Origin", "http://evil.example:80"), 403},
		{"reading by such a name", c, "GET", "/v1/status", map[string]string{"Host": "evil.example"}, 403},
		{"reading by such a name through the socket", socket, "GET", "/v1/status", map[string]string{"Host": "evil.example"}, 403},
		{"a plain name through the socket", socket, "GET", "/v1/status", map[string]string{"Host": "crossfade"}, 200},
		{"a forwarded socket", socket, "GET", "/v1/status", map[string]string{"Host": "localhost:8080"}, 200},
		{"the same door for scripts", web, "POST", "/v1/check", map[string]string{"Content-Type": "application/json"}, 200},
	} {
		if code, e, _ := ask(t, k.door, k.method, k.path, bodyFor(k.method), k.header); code != k.want {
			t.Errorf("%s: %d %+v, want %d", k.name, code, e, k.want)
		}
	}
}

func bodyFor(method string) string {
	if method == http.MethodPost {
		return "{}"
	}
	return ""
}

// TestViewer may look at everything and change nothing.
func TestViewer(t *testing.T) {
	op := &fake{}
	_, c, _ := start(t, config.Admin{Address: "127.0.0.1:0", Token: "all", ViewToken: "some"}, op, nil)
	viewer := map[string]string{"Authorization": "Bearer some", "Content-Type": "application/json"}
	for _, path := range []string{pathStatus, pathAudit, pathSlow, pathVersion} {
		if code, e, _ := ask(t, c, "GET", path, "", viewer); code != 200 {
			t.Errorf("%s: %d %+v", path, code, e)
		}
	}
	for _, path := range []string{pathCutover, pathRollback, pathAbort, pathComplete, pathVerify, pathThrottle, pathShadow, pathCheck} {
		if code, e, _ := ask(t, c, "POST", path, "{}", viewer); code != 403 || !strings.Contains(e.Message, "look") {
			t.Errorf("%s: %d %+v", path, code, e)
		}
	}
	if op.asked.Load() != nil || op.checked.Load() {
		t.Error("something was done all the same")
	}
	if code, _, _ := ask(t, c, "GET", pathStatus, "", map[string]string{"Authorization": "Bearer "}); code != 401 {
		t.Errorf("an empty token: %d", code)
	}
	for token, want := range map[string]role{"some": looks, "all": operates} {
		var hello Hello
		if _, err := open(t, c, map[string]string{"Authorization": "Bearer " + token}).next(&hello); err != nil || hello.Role != want {
			t.Errorf("%+v, %v, want %s", hello, err, want)
		}
	}
	// Without a view token an empty one is none.
	_, c, _ = start(t, config.Admin{Address: "127.0.0.1:0", Token: "all"}, op, nil)
	if code, _, _ := ask(t, c, "GET", pathStatus, "", map[string]string{"Authorization": "Bearer "}); code != 401 {
		t.Errorf("no token: %d", code)
	}
}

// TestPageFiles: they are there for everybody, for they hold nothing, and the browser is
// told to take nothing from elsewhere.
func TestPageFiles(t *testing.T) {
	_, c, _ := start(t, config.Admin{Address: "127.0.0.1:0", Token: "all"}, &fake{}, nil)
	for path, kind := range map[string]string{"/": "text/html", "/web/app.js": "text/javascript", "/web/style.css": "text/css", "/web/icon.svg": "image/svg+xml"} {
		response, err := http.Get("http://" + c.Address + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != 200 || len(text) == 0 || !strings.HasPrefix(response.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %d, %d bytes, %v, %v", path, response.StatusCode, len(text), response.Header, err)
		}
		policy := response.Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: the policy %q", path, policy)
		}
		request, _ := http.NewRequest(http.MethodGet, "http://"+c.Address+path, nil)
		request.Header.Set("If-None-Match", response.Header.Get("ETag"))
		if again, err := http.DefaultClient.Do(request); err != nil || again.StatusCode != 304 {
			t.Errorf("%s again: %+v, %v", path, again, err)
		} else {
			_ = again.Body.Close()
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if code, _, _ := ask(t, c, "GET", "/web/nothing.js", "", nil); code != 401 {
		t.Errorf("a file that is not there: %d", code)
	}
	if code, _, _ := ask(t, c, "POST", "/", "", map[string]string{"Authorization": "Bearer all"}); code != 405 {
		t.Errorf("POST /: %d", code)
	}
}

// TestPageIsAudited: the log says that it was the dashboard.
func TestPageIsAudited(t *testing.T) {
	log, err := audit.Open(filepath.Join(shortDir(t), "audit"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, c, stop := startWith(t, Options{Config: config.Admin{Web: "127.0.0.1:0"}, Operator: &fake{}, Audit: log, Serving: func() bool { return true }})
	web := config.Admin{Address: s.web.Addr().String()}
	header := map[string]string{"Content-Type": "application/json", "Origin": "http://" + web.Address, pageHeader: s.nonce}
	if code, e, _ := ask(t, web, "POST", pathCutover, `{"dry_run":true}`, header); code != 200 {
		t.Fatal(code, e)
	}
	list, err := dial(t, c).Audit(t.Context())
	if err != nil || len(list) != 2 || !list[0].Who.Page || !strings.HasPrefix(list[0].Who.String(), "127.0.0.1:") || !strings.HasSuffix(list[0].Who.String(), " (dashboard)") {
		t.Errorf("%+v, %v", list, err)
	}
	if page := s.Page(); page != "http://"+web.Address+"/" {
		t.Errorf("the page is at %q", page)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}
