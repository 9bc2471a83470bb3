package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// TestMigrate walks the whole way by the verbs alone, with a client at the proxy.
func TestMigrate(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithPassword("sesame")), redistest.Start(t)
	ctx := t.Context()
	zero, three := source.Client(0), source.Client(3)
	for i := range 500 {
		if err := zero.Set(ctx, fmt.Sprint("k", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := three.Set(ctx, fmt.Sprint("k", i), -i, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	check := must(t, shortDir(t), 0, "check", "--source", url(source), "--target", url(target), "--map", "0=0,3=5")
	for line := range strings.Lines(check.stdout) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("check: a line of %d columns: %s", n, line)
		}
	}
	// A database that holds keys and is not in the map.
	must(t, shortDir(t), 3, "check", "--source", url(source), "--target", url(target), "--map", "0=0")

	cf := startSidecar(t, source, target, "--map", "0=0,3=5")
	cf.awaitReady(t)
	redistest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(cf.stderr.String(), `"msg":"status"`) }, "a status line")
	st := cf.status(t)
	if st.Phase != migration.Tailing || st.Side != router.Source || len(st.Databases) != 2 || st.Databases[1].Target != 5 {
		t.Errorf("status: %+v", st)
	}
	text := must(t, cf.dir, 0, "status").stdout
	for _, want := range []string{"TAILING", "on the source", "yes, for a cutover", "3 → 5", "100.0%", source.Addr(), target.Addr()} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	if r := must(t, cf.dir, 0, "verify"); !strings.Contains(r.stdout, "No difference") {
		t.Errorf("verify: %s", r.stdout)
	}
	var report struct {
		Complete bool
		Keys     int
	}
	if err := json.Unmarshal([]byte(must(t, cf.dir, 0, "verify", "--json", "--sample", "0.5").stdout), &report); err != nil || !report.Complete || report.Keys == 0 {
		t.Errorf("verify --json: %+v, %v", report, err)
	}

	if r := must(t, cf.dir, 3, "abort"); !strings.Contains(r.stderr, "no switch is under way") {
		t.Errorf("abort: %s", r.stderr)
	}
	must(t, cf.dir, 3, "rollback")
	must(t, cf.dir, 3, "complete")
	if r := must(t, cf.dir, 0, "cutover", "--dry-run"); !strings.Contains(r.stdout, "can be made now") {
		t.Errorf("dry run: %s", r.stdout)
	}
	if side := cf.status(t).Side; side != router.Source {
		t.Fatalf("a dry run moved the clients to the %s", side)
	}

	client := clientOf(t, cf.dir)
	client.do("AUTH", "sesame")
	client.do("SELECT", "3")
	client.do("INCR", "n")
	r := must(t, cf.dir, 0, "cutover", "--max-stall", "1s")
	for _, want := range []string{"cutover done: the clients are on the target", "hard-fence", "crossfade rollback", "crossfade complete"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("cutover does not say %q:\n%s", want, r.stdout)
		}
	}
	client.do("INCR", "n")
	if n, err := target.Client(5).Get(ctx, "n").Int(); err != nil || n != 2 {
		t.Errorf("on the target: %d, %v", n, err)
	}
	if r := must(t, cf.dir, 3, "cutover", "--json"); !strings.Contains(r.stdout, `"error"`) || !strings.Contains(r.stderr, "on the target already") {
		t.Errorf("a second cutover: %s%s", r.stdout, r.stderr)
	}
	cf.awaitReady(t)
	var back migration.Report
	if err := json.Unmarshal([]byte(must(t, cf.dir, 0, "rollback", "--json").stdout), &back); err != nil || !back.OK || back.To != router.Source || len(back.Steps) == 0 {
		t.Errorf("rollback --json: %+v, %v", back, err)
	}
	client.do("INCR", "n")
	if n, err := source.Client(3).Get(ctx, "n").Int(); err != nil || n != 3 {
		t.Errorf("on the source: %d, %v", n, err)
	}
	cf.awaitReady(t)
	must(t, cf.dir, 0, "cutover")
	if text := must(t, cf.dir, 0, "status").stdout; !strings.Contains(text, "on the target") || !strings.Contains(text, "cutover at") {
		t.Errorf("status:\n%s", text)
	}
	if code := cf.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("exit status %d after SIGTERM", code)
	}
	for _, gone := range []string{"crossfade.sock", "clients.sock"} {
		if _, err := os.Lstat(filepath.Join(cf.dir, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}

	// The state file knows where the clients are.
	cf = startIn(t, cf.dir, source, target, "--map", "0=0,3=5")
	client = clientOf(t, cf.dir)
	client.do("SELECT", "3")
	client.do("INCR", "n")
	if n, err := target.Client(5).Get(ctx, "n").Int(); err != nil || n != 4 {
		t.Errorf("after a restart: %d, %v", n, err)
	}
	cf.awaitReady(t)
	if r := must(t, cf.dir, 0, "complete", "--json"); !strings.Contains(r.stdout, `"done"`) {
		t.Errorf("complete: %s", r.stdout)
	}
	if phase := cf.status(t).Phase; phase != migration.Completed {
		t.Errorf("after complete: %s", phase)
	}
	client.do("INCR", "n")
	if code := cf.stop(t, syscall.SIGINT); code != 130 {
		t.Errorf("exit status %d after SIGINT", code)
	}
	if strings.Contains(cf.stderr.String(), "sesame") {
		t.Errorf("the log has a password")
	}
}

// TestTwoAtOnce: the second one is told what the first one holds.
func TestTwoAtOnce(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	cf := startSidecar(t, source, target)
	args := []string{"run", "--source", url(source), "--target", url(target), "--listen", "127.0.0.1:0"}
	if r := must(t, cf.dir, 1, args...); !strings.Contains(r.stderr, "another crossfade is running with it") {
		t.Errorf("the same state: %s", r.stderr)
	}
	if r := must(t, cf.dir, 1, append(args, "--state", "other")...); !strings.Contains(r.stderr, "another process listens there") {
		t.Errorf("the same socket: %s", r.stderr)
	}
	must(t, cf.dir, 0, "status") // the first one is unharmed

	// What a killed one leaves behind stops nobody.
	if err := cf.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-cf.ended
	cf = startIn(t, cf.dir, source, target)
	cf.awaitReady(t)
}

// TestNotReady: notifications are off, may not be switched on, and nothing else is allowed.
func TestNotReady(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	args := []string{"--sync.set_notifications=false", "--sync.feed=notifications"}
	if r := must(t, shortDir(t), 3, append([]string{"check", "--json", "--source", url(source), "--target", url(target)}, args...)...); !strings.Contains(r.stdout, `"ok": false`) {
		t.Errorf("check --json: %s", r.stdout)
	}
	cf := startSidecar(t, source, target, args...)
	redistest.Eventually(t, 10*time.Second, func() bool {
		return strings.Contains(strings.Join(cf.status(t).Reasons, " "), "notify-keyspace-events")
	}, "saying why it is not ready")
	if text := must(t, cf.dir, 0, "status").stdout; !strings.Contains(text, "not ready") {
		t.Errorf("status:\n%s", text)
	}
	if r := must(t, cf.dir, 3, "cutover"); !strings.Contains(r.stderr, "notify-keyspace-events") {
		t.Errorf("cutover: %s", r.stderr)
	}
	// The clients are served all the same.
	clientOf(t, cf.dir).do("PING")
	if code := cf.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("exit status %d", code)
	}
}

func TestWatch(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	cf := startSidecar(t, source, target)
	watch := launch(t, cf.dir, "status", "--watch", "--json")
	redistest.Eventually(t, 10*time.Second, func() bool { return strings.Count(watch.out.String(), "\n") >= 2 }, "two lines")
	if code := watch.stop(t, syscall.SIGINT); code != 130 {
		t.Errorf("exit status %d", code)
	}
	first, _, _ := strings.Cut(watch.out.String(), "\n")
	var st migration.Status
	if err := json.Unmarshal([]byte(first), &st); err != nil || st.ID == "" {
		t.Errorf("a line: %v in %s", err, first)
	}
}

// TestDoor: on a port, with a token.
func TestDoor(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	dir := shortDir(t)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("letmein\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	door := unused(t)
	startIn(t, dir, source, target, "--admin", door, "--admin.token_file", "token")
	must(t, dir, 0, "status", "--admin", door, "--admin.token_file", "token")
	if r := must(t, dir, 1, "status", "--admin", door); !strings.Contains(r.stderr, "token") {
		t.Errorf("without a token: %s", r.stderr)
	}
	if r := call(t, dir, []string{"CROSSFADE_ADMIN=" + door, "CROSSFADE_ADMIN_TOKEN=letmein"}, "status"); r.code != 0 {
		t.Errorf("by the environment: %+v", r)
	}
}

// TestOldConfiguration: a restart goes to the server that the clients were moved
// to, even when the configuration names another one by then.
func TestOldConfiguration(t *testing.T) {
	source, target, other := redistest.Start(t), redistest.Start(t), redistest.Start(t)
	cf := startSidecar(t, source, target)
	cf.awaitReady(t)
	must(t, cf.dir, 0, "cutover")
	cf.stop(t, syscall.SIGTERM)
	cf = startIn(t, cf.dir, source, other)
	clientOf(t, cf.dir).do("SET", "k", "v")
	if v, err := target.Client(0).Get(t.Context(), "k").Result(); err != nil || v != "v" {
		t.Errorf("on the target: %q, %v", v, err)
	}
	if n, err := other.Client(0).Exists(t.Context(), "k").Result(); err != nil || n != 0 {
		t.Errorf("on the other server: %d, %v", n, err)
	}
}

// TestBlockedClient waits on the source and is served on the target.
func TestBlockedClient(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	cf := startSidecar(t, source, target)
	cf.awaitReady(t)
	answered := make(chan string, 1)
	waiting := clientOf(t, cf.dir)
	go func() { answered <- waiting.do("BLPOP", "queue", "0") }()
	redistest.Eventually(t, 5*time.Second, func() bool {
		info, err := source.Client(0).Info(t.Context(), "clients").Result()
		return err == nil && strings.Contains(info, "blocked_clients:1")
	}, "blocking")
	if r := must(t, cf.dir, 0, "cutover"); !strings.Contains(r.stdout, "cutover done") {
		t.Error(r.stdout)
	}
	clientOf(t, cf.dir).do("RPUSH", "queue", "item")
	if got := <-answered; got != "*2\r\n" {
		t.Errorf("BLPOP was answered %q", got)
	}
}

// TestSecondSignal ends what the first one only asks to end.
func TestSecondSignal(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithConfig("busy-reply-threshold", "20")), redistest.Start(t)
	cf := startSidecar(t, source, target, "--proxy.shutdown_timeout", "1m")
	cf.awaitReady(t)
	// A command that stays in flight for ever.
	if _, err := clientOf(t, cf.dir).conn.Write([]byte("EVAL 'while true do end' 0\r\n")); err != nil {
		t.Fatal(err)
	}
	direct := source.Client(0)
	redistest.Eventually(t, 5*time.Second, func() bool {
		err := direct.Ping(t.Context()).Err()
		return err != nil && strings.HasPrefix(err.Error(), "BUSY")
	}, "running the script")
	if err := cf.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 5*time.Second, func() bool { return strings.Contains(cf.stderr.String(), `"stopping"`) }, "beginning to stop")
	select {
	case <-cf.ended:
		t.Fatal("it did not wait for the command in flight")
	case <-time.After(100 * time.Millisecond):
	}
	if code := cf.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("exit status %d", code)
	}
}
