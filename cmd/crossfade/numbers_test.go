package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
)

// TestNumbers: what clients do can be seen by each way, and none of it shows what
// they have written.
func TestNumbers(t *testing.T) {
	const secret = "s3cr3t"
	source, target := redistest.Start(t), redistest.Start(t)
	cf := startSidecar(t, source, target, "--proxy.slow_log_slower_than", "200ms")
	cf.awaitReady(t)
	client := clientOf(t, cf.dir)
	for i := range 50 {
		client.do("SET", fmt.Sprint(secret, i), secret)
		client.do("STRLEN", fmt.Sprint(secret, i))
	}
	client.do("EVAL", `"local t = redis.call('TIME') local till = t[1] * 1000000 + t[2] + 300000 `+
		`repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > till return #'`+secret+`'"`, "0")
	client.do("BLPOP", secret+"-list", "0.3")

	var st admin.StatusReply
	redistest.Eventually(t, 10*time.Second, func() bool {
		text := must(t, cf.dir, 0, "status", "--json").stdout
		if strings.Contains(text, secret) {
			t.Fatalf("the status holds what a client wrote:\n%s", text)
		}
		st = admin.StatusReply{}
		if err := json.Unmarshal([]byte(text), &st); err != nil || st.Proxy == nil {
			t.Fatalf("status --json: %v\n%s", err, text)
		}
		return st.Proxy.Recent.Seconds > 0
	}, "recent numbers")
	have := map[string]int64{}
	for _, f := range st.Proxy.Families {
		have[f.Family] = f.Commands
		if f.TotalMS.P50 < f.UpstreamMS.P50 {
			t.Errorf("%+v", f)
		}
	}
	if have["string_read"] != 50 || have["string_write"] != 50 || have["script"] != 1 || have["blocking"] != 1 {
		t.Errorf("families: %v", have)
	}
	text := must(t, cf.dir, 0, "status").stdout
	if !strings.Contains(text, "traffic   ") || !strings.Contains(text, "latency   p50 ") || !strings.Contains(text, "1 client") {
		t.Errorf("status:\n%s", text)
	}

	slow := must(t, cf.dir, 0, "slowlog").stdout
	if lines := strings.Split(strings.TrimSpace(slow), "\n"); len(lines) != 2 || !strings.Contains(lines[1], " eval ") || strings.Contains(slow, secret) {
		t.Errorf("slowlog:\n%s", slow)
	}
	var reply admin.SlowReply
	text = must(t, cf.dir, 0, "slowlog", "--json").stdout
	if err := json.Unmarshal([]byte(text), &reply); err != nil || len(reply.Slow) != 1 || reply.Slow[0].Args != 3 || reply.Slow[0].TotalMS < 200 || strings.Contains(text, secret) {
		t.Errorf("slowlog --json: %v\n%s", err, text)
	}

	text = metricsOf(t, filepath.Join(cf.dir, "crossfade.sock"))
	for _, want := range []string{`crossfade_commands_total{family="string_read"} 50`, `crossfade_command_duration_seconds_count{family="script",part="upstream"} 1`,
		`crossfade_phase{phase="TAILING"} 1`, `crossfade_clients{kind="`, `crossfade_upstream_connections{kind="shared",side="source"} 1`, "crossfade_slow_commands_total 1"} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics does not say %s:\n%s", want, text)
		}
	}
	if strings.Contains(text, secret) {
		t.Errorf("/metrics holds what a client wrote:\n%s", text)
	}
}

func metricsOf(t *testing.T, socket string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://crossfade/metrics", nil)
	if err := request.Write(conn); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: %s, %v", response.Status, err)
	}
	return string(body)
}
