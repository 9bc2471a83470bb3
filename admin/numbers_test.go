package admin

import (
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/router"
)

// gauge is a meter that always says the same.
type gauge struct{}

func (gauge) Numbers() proxy.Numbers {
	n := proxy.Numbers{At: time.Now(), Shared: 3, Pinned: 2, Sharing: 5, Pinning: 1, Refused: 4, Overflowed: 1, SlowLogged: 9,
		Stats:  proxy.Stats{Commands: 70, Accepted: 8, BytesIn: 1000, BytesOut: 2000},
		Errors: map[string]int64{"ERR": 6, "other": 1}}
	n.Connections[router.Source] = proxy.Upstreams{Shared: 1, Pinned: 2, Idle: 3, Failed: 4}
	read, none := proxy.Family{Name: "string_read", Commands: 60}, proxy.Family{Name: "hash"}
	read.Upstream.Buckets[2], read.Upstream.Sum = 60, 90*time.Microsecond // 1.5 to 2 µs
	read.Total.Buckets[0], read.Total.Buckets[20], read.Total.Buckets[len(read.Total.Buckets)-1] = 10, 49, 1
	read.Total.Sum = 90 * time.Second
	n.Families = []proxy.Family{read, none}
	return n
}

func (g gauge) Recent() (proxy.Numbers, time.Duration) { return g.Numbers(), 7 * time.Second }

func (gauge) Slow() []proxy.SlowCall {
	return []proxy.SlowCall{{ID: 9, Time: time.Now(), Client: "10.0.0.1:5", Database: 3, Command: "get", Args: 2, Bytes: 30, Upstream: 20 * time.Millisecond, Total: 21 * time.Millisecond}}
}

func startWithNumbers(t *testing.T, c config.Admin) config.Admin {
	t.Helper()
	_, c, _ = startWith(t, Options{Config: c, Operator: &fake{}, Meter: gauge{}, Version: "v1", Serving: func() bool { return true }})
	return c
}

func TestNumbersAsJSON(t *testing.T) {
	client := dial(t, startWithNumbers(t, config.Admin{}))
	st, err := client.Overview(t.Context())
	if err != nil || st.ID != "id" || st.Proxy == nil {
		t.Fatalf("overview: %+v, %v", st, err)
	}
	p := st.Proxy
	if p.Clients != (Clients{Shared: 3, Pinned: 2, Accepted: 8, Refused: 4, OutputLimit: 1}) || p.InFlight != (InFlight{5, 1}) ||
		p.Upstreams["source"] != (Connections{1, 2, 3, 4}) || p.Upstreams["target"] != (Connections{}) || p.BytesIn != 1000 || p.BytesOut != 2000 ||
		p.Errors["ERR"] != 6 || p.SlowLogged != 9 || p.Commands != 70 {
		t.Errorf("the proxy: %+v", p)
	}
	if len(p.Families) != 1 || p.Families[0].Family != "string_read" || p.Families[0].UpstreamMS.P50 <= 0.001 || p.Families[0].UpstreamMS.P50 > 0.002 {
		t.Errorf("families: %+v", p.Families)
	}
	if r := p.Recent; r.Seconds != 7 || r.PerSecond != 10 || r.Errors != 7 || r.TotalMS.P999 < 60_000 {
		t.Errorf("recent: %+v", r)
	}
	slow, err := client.Slow(t.Context())
	if err != nil || len(slow) != 1 || slow[0].Command != "get" || slow[0].TotalMS != 21 || slow[0].Client != "10.0.0.1:5" {
		t.Errorf("slow: %+v, %v", slow, err)
	}
	// Without a meter there are none, and no error.
	_, bare, _ := start(t, config.Admin{}, &fake{}, nil)
	if st, err := dial(t, bare).Overview(t.Context()); err != nil || st.Proxy != nil || st.ID != "id" {
		t.Errorf("without a meter: %+v, %v", st, err)
	}
	if slow, err := dial(t, bare).Slow(t.Context()); err != nil || len(slow) != 0 {
		t.Errorf("without a meter: %+v, %v", slow, err)
	}
}

// scrapeOf reads /metrics as Prometheus does.
func scrapeOf(t *testing.T, c config.Admin) map[string]*dto.MetricFamily {
	t.Helper()
	code, body, header := page(t, c, "/metrics", nil)
	if code != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		t.Fatalf("/metrics: %d, %v\n%s", code, header, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("/metrics cannot be parsed: %v\n%s", err, body)
	}
	return families
}

func page(t *testing.T, c config.Admin, path string, header map[string]string) (int, string, http.Header) {
	t.Helper()
	network, address, err := config.SplitAddress(c.Address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, nil)
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
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body), response.Header
}

// metric finds the one with these label values, in the order of their names.
func metric(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) *dto.Metric {
	t.Helper()
	for _, m := range families["crossfade_"+name].GetMetric() {
		var values []string
		for _, pair := range m.GetLabel() {
			values = append(values, pair.GetValue())
		}
		if strings.Join(values, " ") == strings.Join(labels, " ") {
			return m
		}
	}
	t.Fatalf("no metric crossfade_%s%v", name, labels)
	return nil
}

func TestMetrics(t *testing.T) {
	families := scrapeOf(t, startWithNumbers(t, config.Admin{}))
	for _, want := range []struct {
		name   string
		labels []string
		value  float64
	}{
		{"build_info", []string{"v1"}, 1}, {"phase", []string{"TAILING"}, 1}, {"side", []string{"source"}, 1}, {"side", []string{"target"}, 0},
		{"commands_total", []string{"string_read"}, 60}, {"errors_total", []string{"ERR"}, 6}, {"commands_in_flight", []string{"shared"}, 5},
		{"clients", []string{"pinned"}, 2}, {"clients_refused_total", nil, 4}, {"clients_output_limit_total", nil, 1},
		{"upstream_connections", []string{"idle", "source"}, 3}, {"received_bytes_total", nil, 1000}, {"slow_commands_total", nil, 9},
		{"upstream_failures_total", []string{"source"}, 4}, {"commands_received_total", nil, 70}, {"phase", []string{"COPYING"}, 0},
	} {
		m := metric(t, families, want.name, want.labels...)
		if got := m.GetGauge().GetValue() + m.GetCounter().GetValue(); got != want.value {
			t.Errorf("%s%v is %v, want %v", want.name, want.labels, got, want.value)
		}
	}
	total := metric(t, families, "command_duration_seconds", "string_read", "total").GetHistogram()
	if total.GetSampleCount() != 60 || math.Abs(total.GetSampleSum()-90) > 1e-6 {
		t.Errorf("the histogram: %v", total)
	}
	var last uint64
	for _, b := range total.GetBucket() {
		want := uint64(10)
		if b.GetUpperBound() >= proxy.Bound(20).Seconds() {
			want = 59
		}
		if math.IsInf(b.GetUpperBound(), 1) {
			want = 60
		}
		if b.GetCumulativeCount() != want || want < last {
			t.Errorf("up to %v: %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
		}
		last = b.GetCumulativeCount()
	}
	if n := len(total.GetBucket()); n < 20 || n > 22 {
		t.Errorf("%d buckets", n)
	}
	if families["go_goroutines"] == nil || families["process_cpu_seconds_total"] == nil {
		t.Error("nothing about the process itself")
	}
}

// TestMetricsNeedTheToken: they are no probe.
func TestMetricsNeedTheToken(t *testing.T) {
	c := startWithNumbers(t, config.Admin{Address: "127.0.0.1:0", Token: "sesame"})
	if code, _, _ := page(t, c, "/metrics", nil); code != http.StatusUnauthorized {
		t.Errorf("without the token: %d", code)
	}
	if code, body, _ := page(t, c, "/metrics", map[string]string{"Authorization": "Bearer sesame"}); code != http.StatusOK || !strings.Contains(body, "crossfade_phase") {
		t.Errorf("with the token: %d, %.200s", code, body)
	}
}
