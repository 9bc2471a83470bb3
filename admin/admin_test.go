package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake answers as a migration would; the real one is met in cmd/crossfade's tests.
type fake struct {
	cutover func(context.Context, migration.SwitchOptions) (migration.Report, error)
	asked   atomic.Pointer[migration.SwitchOptions]
	sample  atomic.Pointer[float64]
	looks   atomic.Int64 // at the status
	checked atomic.Bool
}

func (f *fake) Status() migration.Status {
	f.looks.Add(1)
	return migration.Status{ID: "id", Phase: migration.Tailing}
}

func (f *fake) Look(context.Context) (migration.CheckReport, error) {
	f.checked.Store(true)
	return migration.CheckReport{OK: true, Findings: []preflight.Finding{{Check: "reach", Level: preflight.Pass, What: "both"}}}, nil
}

func (f *fake) LastLook() (migration.CheckReport, bool) {
	return migration.CheckReport{OK: true}, f.checked.Load()
}

func (f *fake) Cutover(ctx context.Context, o migration.SwitchOptions) (migration.Report, error) {
	f.asked.Store(&o)
	if f.cutover != nil {
		return f.cutover(ctx, o)
	}
	return migration.Report{OK: true, Checked: 7}, nil
}

func (f *fake) Rollback(context.Context, migration.SwitchOptions) (migration.Report, error) {
	return migration.Report{Started: time.Now(), Checked: 3}, errors.New("step hold: too slow")
}

func (f *fake) Abort(context.Context) error {
	return &migration.Refused{Reasons: []string{"no switch", "none at all"}}
}

func (f *fake) Throttle(o migration.ThrottleOptions) (t throttle.Status) {
	if o.Keys != nil {
		t.Keys = *o.Keys
	}
	return t
}

func (f *fake) Shadow(o migration.ShadowOptions) (s migration.ShadowStatus) {
	s = migration.ShadowStatus{State: "on", Behind: 2, Families: []migration.ShadowFamily{{Family: "hash", Behind: 2}}}
	if o.Percent != nil {
		s.Percent = *o.Percent
	}
	return s
}

func (f *fake) Complete(_ context.Context, o migration.CompleteOptions) ([]string, error) {
	if !o.StayOnSource {
		return []string{"this"}, errors.New("but not that")
	}
	return []string{"this", "that"}, nil
}

func (f *fake) LastVerification() (verify.Report, bool) {
	return verify.Report{By: "operator", Stale: true}, f.sample.Load() != nil
}

func (f *fake) Verify(_ context.Context, o migration.VerifyOptions) (verify.Report, error) {
	f.sample.Store(&o.Sample)
	return verify.Report{Complete: true, Keys: 5}, nil
}

// start serves on a unix socket, or on another address, until the test ends.
func start(t *testing.T, c config.Admin, op Operator, serving func() bool) (*Server, config.Admin, func() error) {
	t.Helper()
	if serving == nil {
		serving = func() bool { return true }
	}
	return startWith(t, Options{Config: c, Operator: op, Version: "v1", Serving: serving})
}

func startWith(t *testing.T, o Options) (*Server, config.Admin, func() error) {
	t.Helper()
	if o.Config.Address == "" {
		o.Config.Address = "unix:" + filepath.Join(shortDir(t), "s")
	}
	c := o.Config
	s := New(o, slog.New(slog.DiscardHandler))
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	stop := func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	c.Address = s.Addr()
	return s, c, stop
}

// shortDir is a folder whose sockets have short paths.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func dial(t *testing.T, c config.Admin) *Client {
	t.Helper()
	client, err := NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestVerbs(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:0"} {
		op := &fake{}
		_, c, _ := start(t, config.Admin{Address: address}, op, nil)
		client, ctx := dial(t, c), t.Context()
		if st, err := client.Status(ctx); err != nil || st.ID != "id" || st.Phase != migration.Tailing {
			t.Errorf("status: %+v, %v", st, err)
		}
		if v, err := client.Version(ctx); err != nil || v != "v1" {
			t.Errorf("version: %q, %v", v, err)
		}
		if r, err := client.Cutover(ctx, SwitchRequest{DryRun: true, MaxStall: "70ms"}); err != nil || r.Checked != 7 {
			t.Errorf("cutover: %+v, %v", r, err)
		}
		if o := op.asked.Load(); !o.DryRun || o.MaxStall != 70*time.Millisecond {
			t.Errorf("cutover was asked for with %+v", o)
		}
		var e *Error
		_, err := client.Rollback(ctx, SwitchRequest{})
		if !errors.As(err, &e) || e.Code != 500 || e.Report == nil || e.Report.Checked != 3 || !strings.Contains(e.Message, "too slow") {
			t.Errorf("rollback: %+v", err)
		}
		_, err = client.Abort(ctx)
		if !errors.As(err, &e) || e.Code != 409 || len(e.Reasons) != 2 {
			t.Errorf("abort: %+v", err)
		}
		if done, err := client.Complete(ctx, CompleteRequest{StayOnSource: true}); err != nil || len(done) != 2 {
			t.Errorf("complete: %v, %v", done, err)
		}
		if _, err = client.Complete(ctx, CompleteRequest{}); !errors.As(err, &e) || !strings.Contains(e.Hint, "this") {
			t.Errorf("half a complete: %v", err)
		}
		if r, err := client.Verify(ctx, VerifyRequest{Sample: 0.25}); err != nil || r.Keys != 5 || *op.sample.Load() != 0.25 {
			t.Errorf("verify: %+v, %v", r, err)
		}
		if _, err = client.Verify(ctx, VerifyRequest{Sample: 2}); !errors.As(err, &e) || e.Code != 400 {
			t.Errorf("verify of too much: %v", err)
		}
	}
}

// ask sends a bare request. What is answered must be as it is described.
func ask(t *testing.T, c config.Admin, method, path, body string, header map[string]string) (int, Error, http.Header) {
	t.Helper()
	code, text, replied := raw(t, c, method, path, body, header)
	asDescribed(t, method, path, code, replied, text)
	var e Error
	if err := json.Unmarshal(text, &e); err != nil && method != http.MethodHead {
		t.Fatalf("%s %s: %v in %q", method, path, err, text)
	}
	return code, e, replied
}

// send sends a request on a connection of its own.
func send(t *testing.T, c config.Admin, method, path, body string, header map[string]string) *http.Response {
	t.Helper()
	network, address, err := config.SplitAddress(c.Address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	host := address
	if network == "unix" {
		host = "localhost"
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		if name == "Host" {
			request.Host = value
		}
		request.Header.Set(name, value)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return response
}

func TestRequestsThatAreRefused(t *testing.T) {
	_, open, _ := start(t, config.Admin{Address: "127.0.0.1:0"}, &fake{}, nil)
	_, guarded, _ := start(t, config.Admin{Address: "127.0.0.1:0", Token: "correct"}, &fake{}, nil)
	_, socket, _ := start(t, config.Admin{Token: "correct"}, &fake{}, nil)
	right := map[string]string{"Authorization": "Bearer correct", "Content-Type": "application/json"}
	js := map[string]string{"Content-Type": "application/json"}
	for _, c := range []struct {
		door         config.Admin
		method, path string
		body         string
		header       map[string]string
		want         int
	}{
		{open, "GET", "/v1/status", "", nil, 200},
		{open, "HEAD", "/v1/status", "", nil, 200},
		{open, "GET", "/healthz", "", nil, 200},
		{open, "GET", "/readyz", "", nil, 200},
		{open, "GET", "/v2/status", "", nil, 404},
		{open, "GET", "/v1/cutover", "", nil, 405},
		{open, "POST", "/v1/status", "", nil, 405},
		{open, "POST", "/v1/cutover", "", nil, 200},
		{open, "POST", "/v1/cutover", `{}`, js, 200},
		{open, "POST", "/v1/cutover", `{}`, nil, 415},
		{open, "POST", "/v1/cutover", `{}`, map[string]string{"Content-Type": "text/plain"}, 415},
		{open, "POST", "/v1/cutover", `{"dryrun":true}`, js, 400},
		{open, "POST", "/v1/cutover", `{"dry_run":1}`, js, 400},
		{open, "POST", "/v1/cutover", `{} {}`, js, 400},
		{open, "POST", "/v1/cutover", `{"max_stall":"2"}`, js, 400},
		{open, "POST", "/v1/cutover", `{"max_stall":"-2s"}`, js, 400},
		{open, "POST", "/v1/cutover", `{"timeout":"-2s"}`, js, 400},
		{open, "POST", "/v1/cutover", `{"max_lag":"far"}`, js, 400},
		{open, "POST", "/v1/cutover", `{"retries":-1}`, js, 400},
		{open, "POST", "/v1/cutover", `{"retries":1000000}`, js, 400},
		{open, "POST", "/v1/cutover", `{"dry_run":true,"rehearse":true}`, js, 400},
		{open, "POST", "/v1/cutover", `{"when_ready":true,"at":"03:00","timeout":"0s","retries":0}`, js, 200},
		{open, "POST", "/v1/cutover", strings.Repeat(" ", maxBody+1), js, 413},
		{open, "POST", "/v1/cutover", "", map[string]string{"Origin": "http://127.0.0.1"}, 403},
		{open, "GET", "/v1/status", "", map[string]string{"Host": "evil.example"}, 403},
		{open, "GET", "/v1/status", "", map[string]string{"Host": "localhost:1"}, 200},
		{open, "GET", "/v1/status", "", map[string]string{"Host": "[::1]:1"}, 200},
		{guarded, "GET", "/v1/status", "", nil, 401},
		{guarded, "GET", "/v1/status", "", map[string]string{"Authorization": "Bearer wrong"}, 401},
		{guarded, "GET", "/v1/status", "", map[string]string{"Authorization": "Basic correct"}, 401},
		{guarded, "GET", "/v1/status", "", right, 200},
		{guarded, "GET", "/v1/nothing", "", nil, 401},
		{guarded, "GET", "/healthz", "", nil, 200},
		{guarded, "POST", "/v1/cutover", "{}", right, 200},
		{socket, "GET", "/v1/status", "", nil, 401},
		{socket, "GET", "/v1/status", "", right, 200},
	} {
		code, e, header := ask(t, c.door, c.method, c.path, c.body, c.header)
		if code != c.want || (code != 200) != (e.Message != "") {
			t.Errorf("%s %s %q %v: %d %+v, want %d", c.method, c.path, c.body, c.header, code, e, c.want)
		}
		if code == 405 && header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", c.path)
		}
	}
	_, err := dial(t, config.Admin{Address: guarded.Address, Token: "wrong"}).Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "token") || strings.Contains(err.Error(), "correct") {
		t.Errorf("a wrong token: %v", err)
	}
}

// TestAuditedVerbs: who asks is noted before the verb runs, and how it ended; verbs that
// only look are not.
func TestAuditedVerbs(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:0"} {
		log, err := audit.Open(filepath.Join(shortDir(t), "audit"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		noted := 0
		op := &fake{cutover: func(context.Context, migration.SwitchOptions) (migration.Report, error) {
			noted = len(log.Last(10))
			return migration.Report{}, nil
		}}
		_, c, stop := startWith(t, Options{Config: config.Admin{Address: address, Token: "sesame"}, Operator: op, Serving: func() bool { return true }, Audit: log})
		client, ctx := dial(t, c), t.Context()
		if _, err := client.Status(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Cutover(ctx, SwitchRequest{WhenReady: true, MaxLag: "5ms"}); err != nil || noted != 1 {
			t.Errorf("%v; %d entries when the verb ran", err, noted)
		}
		_, _ = client.Cutover(ctx, SwitchRequest{MaxLag: "5"})
		_, _ = client.Abort(ctx)
		_, _ = client.Rollback(ctx, SwitchRequest{})
		list, err := client.Audit(ctx)
		if err != nil || len(list) != 8 {
			t.Fatalf("%v: %+v", err, list)
		}
		for i, want := range []string{"ok", "refused", "refused", "failed"} {
			asked, answered := list[2*i], list[2*i+1]
			if asked.Event != "asked" || answered.Event != "answered" || asked.Verb != answered.Verb || answered.Result != want || (answered.Why == "") != (want == "ok") {
				t.Errorf("%+v\n%+v, want %s", asked, answered, want)
			}
			who := asked.Who
			if !who.Token || (address == "") != (who.UID != nil && *who.UID == uint32(os.Getuid()) && who.PID == int32(os.Getpid())) ||
				(address == "") == strings.HasPrefix(who.Address, "127.0.0.1:") {
				t.Errorf("asked by %+v", who)
			}
		}
		if string(list[0].Asked) != `{"max_lag":"5ms","when_ready":true}` {
			t.Errorf("asked: %s", list[0].Asked)
		}
		if err := errors.Join(stop(), log.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestNotServingYet(t *testing.T) {
	_, c, _ := start(t, config.Admin{}, &fake{}, func() bool { return false })
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/v1/status": 200} {
		if code, _, _ := ask(t, c, "GET", path, "", nil); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	if code, _, _ := ask(t, c, "POST", "/v1/cutover", "", nil); code != 503 {
		t.Errorf("a cutover before serving: %d", code)
	}
}

// TestCutoverOutlivesItsClient: only a stop of the sidecar ends a verb's context.
func TestCutoverOutlivesItsClient(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	op := &fake{cutover: func(ctx context.Context, _ migration.SwitchOptions) (migration.Report, error) {
		close(begun)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return migration.Report{}, context.Cause(ctx)
	}}
	_, c, stop := start(t, config.Admin{}, op, nil)
	ctx, cancel := context.WithCancel(t.Context())
	client := dial(t, c)
	answered := make(chan error, 1)
	go func() {
		_, err := client.Cutover(ctx, SwitchRequest{})
		answered <- err
	}()
	<-begun
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Errorf("the client: %v", err)
	}
	if _, err := dial(t, c).Status(t.Context()); err != nil { // the server has seen the other go, most likely
		t.Error(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the cutover ended with its client: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrStopping) {
		t.Errorf("the cutover ended with %v", err)
	}
}

func TestStopDeliversTheAnswer(t *testing.T) {
	begun := make(chan struct{})
	op := &fake{cutover: func(ctx context.Context, _ migration.SwitchOptions) (migration.Report, error) {
		close(begun)
		<-ctx.Done()
		return migration.Report{}, errors.New("taken back")
	}}
	_, c, stop := start(t, config.Admin{}, op, nil)
	client := dial(t, c)
	answered := make(chan error, 1)
	go func() {
		_, err := client.Cutover(t.Context(), SwitchRequest{})
		answered <- err
	}()
	<-begun
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := <-answered; err == nil || err.Error() != "taken back" {
		t.Errorf("answered: %v", err)
	}
	_, path, _ := config.SplitAddress(c.Address)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no crossfade is listening on unix:") {
		t.Errorf("after the stop: %v", err)
	}
}

func TestSocketFile(t *testing.T) {
	s, c, _ := start(t, config.Admin{}, &fake{}, nil)
	_, path, _ := config.SplitAddress(c.Address)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	second := New(Options{Config: c, Operator: &fake{}}, s.log)
	if err := second.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("in use: %v", err)
	}
	if _, err := dial(t, c).Status(t.Context()); err != nil {
		t.Errorf("after somebody else's try: %v", err)
	}

	dir := shortDir(t)
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, c, _ = start(t, config.Admin{Address: "unix:" + stale}, &fake{}, nil)
	if _, err := dial(t, c).Status(t.Context()); err != nil {
		t.Errorf("over a stale socket: %v", err)
	}

	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := New(Options{Config: config.Admin{Address: "unix:" + plain}, Operator: &fake{}}, s.log)
	if err := third.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a plain file: %v", err)
	}
	if text, _ := os.ReadFile(plain); string(text) != "precious" {
		t.Error("a plain file was replaced")
	}
}

func TestClientErrors(t *testing.T) {
	notOurs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := notOurs.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "-ERR unknown command 'GET'\r\n")
			_ = c.Close()
		}
	}()
	defer func() { _ = notOurs.Close(); <-ended }()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	for address, want := range map[string]string{
		nobody.Addr().String():                  "no crossfade is listening",
		"unix:" + shortDir(t) + "/none":         "no such file",
		notOurs.Addr().String():                 "sidecar at " + notOurs.Addr().String(),
		"unix:" + filepath.Join("nowhere", "s"): "no such file in /",
	} {
		_, err := dial(t, config.Admin{Address: address}).Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
	if _, err := NewClient(config.Admin{Address: "127.0.0.1:0"}); err == nil {
		t.Error("port 0 was taken")
	}
}
