package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

// report is what redis-benchmark 7.0 prints, shortened.
const report = "GET: rps=0.0 (overall: 0.0) avg_msec=nan (overall: nan)\r====== GET ======\n" + `  100000 requests completed in 3.57 seconds
  50 parallel clients
  64 bytes payload
  keep alive: 1

Latency by percentile distribution:
0.000% <= 0.088 milliseconds (cumulative count 1)
50.000% <= 1.015 milliseconds (cumulative count 50012)
99.805% <= 7.527 milliseconds (cumulative count 99806)
99.902% <= 11.023 milliseconds (cumulative count 99903)
99.951% <= 11.663 milliseconds (cumulative count 99952)
100.000% <= 32.559 milliseconds (cumulative count 100000)

Cumulative distribution of latencies:
0.001% <= 0.103 milliseconds (cumulative count 1)
100.000% <= 33.119 milliseconds (cumulative count 100000)

Summary:
  throughput summary: 27995.52 requests per second
  latency summary (msec):
          avg       min       p50       p95       p99       max
        1.150     0.088     1.015     1.895     4.575    32.559

`

func TestReportIsRead(t *testing.T) {
	got, err := parseReport(report)
	if want := (seen{rate: 27995.52, p50: 1.015, p99: 4.575, p999: 11.023}); err != nil || got != want {
		t.Errorf("read %+v, %v, not %+v", got, err, want)
	}
	few := strings.Replace(report, "99.902% <= 11.023 milliseconds (cumulative count 99903)\n99.951% <= 11.663 milliseconds (cumulative count 99952)\n", "", 1)
	if got, err := parseReport(few); err != nil || got.p999 != 32.559 {
		t.Errorf("of few requests the largest counts; read %+v, %v", got, err)
	}
	for _, cut := range []string{"throughput summary", "Latency by", "27995.52", "avg       min", "11.023 ", "  p99  ", "4.575"} {
		if got, err := parseReport(strings.Replace(report, cut, "nonsense", 1)); err == nil {
			t.Errorf("without %q it was read as %+v", cut, got)
		}
	}
	if _, err := parseReport("Could not connect to Redis\n"); err == nil {
		t.Error("no report was read as one")
	}
}

// A lag that was measured beside too few writes proves nothing.
func TestLagNeedsItsWrites(t *testing.T) {
	idle := lagSeen{p50: .5, p99: 1}
	busy, hot := lagSeen{p99: 5, writes: lagRate}, lagSeen{writes: hotRate, copies: 900}
	for _, c := range lagClaims(idle, busy, hot) {
		if !c.pass {
			t.Errorf("with all writes: %s", c)
		}
	}
	busy.writes, hot.writes = .9*lagRate, .9*hotRate
	for i, c := range lagClaims(idle, busy, hot) {
		if c.pass != (i == 0) || i > 0 && !strings.Contains(c.proof, "only") {
			t.Errorf("with too few writes: %s", c)
		}
	}
}

// Latencies beside a copy say nothing of a way that did not answer what was asked.
func TestBulkNeedsItsAnswers(t *testing.T) {
	ways := []string{"ours", "theirs"}
	rounds := func(ours, theirs float64) map[string][]beside {
		return map[string][]beside{"ours": {{seen: seen{rate: ours}}}, "theirs": {{seen: seen{rate: theirs}}}}
	}
	if c := answeredClaim(1000, ways, rounds(1001, 985)); !c.pass || !strings.Contains(c.proof, "98 %") {
		t.Errorf("with all answers: %s", c)
	}
	if c := answeredClaim(1000, ways, rounds(1000, 970)); c.pass || c.proof != "theirs, only 970" {
		t.Errorf("with too few answers: %s", c)
	}
}

func TestProcessorsAreRead(t *testing.T) {
	from, err := parseProcessors("cpu  100 0 50 1000 10 5 5 30 7 0\ncpu0 1 2 3\n")
	if err != nil || from != (processors{busy: 1900 * time.Millisecond, whole: 12 * time.Second}) {
		t.Fatalf("read %+v, %v", from, err)
	}
	to, err := parseProcessors("cpu  250 0 100 1150 20 5 5 70 7 0\n")
	if got := to.since(from); err != nil || got != 60 {
		t.Errorf("%v %% of the time, %v", got, err)
	}
	if got := to.since(to); got != 0 {
		t.Errorf("%v %% of no time", got)
	}
	for _, text := range []string{"", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 4 x 6 7 8\n"} {
		if got, err := parseProcessors(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
	if _, err := os.Stat("/proc/stat"); err == nil {
		if p, err := processorTime(); err != nil || p.busy == 0 || p.busy > p.whole {
			t.Errorf("this machine: %+v, %v", p, err)
		}
	}
}

func TestProcessFiguresAreRead(t *testing.T) {
	got, err := parseCPU("42 (a) name (x)) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 4 0 100 200 300\n")
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("read %v, %v", got, err)
	}
	for _, text := range []string{"", "42 (a) S 1 2", "42 (a) S 1 2 3 4 5 6 7 8 9 10 x 25 0"} {
		if got, err := parseCPU(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
	if got, err := parseMemory("Name:\tx\nVmHWM:\t 3000 kB\nVmRSS:\t 2000 kB\n", "VmRSS:"); err != nil || got != 2.048 {
		t.Errorf("read %v, %v", got, err)
	}
	if got, err := parseMemory("Name:\tx\n", "VmRSS:"); err == nil {
		t.Errorf("nothing was read as %v", got)
	}
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		if _, err := cpuTime(os.Getpid()); err != nil {
			t.Error(err)
		}
		if mb, err := residentMB(os.Getpid()); err != nil || mb < 1 {
			t.Errorf("this process has %v MB, %v", mb, err)
		}
	}
}

func TestCellsAreChosen(t *testing.T) {
	all, err := choose("all")
	if err != nil || len(all) != len(cells) {
		t.Fatal(len(all), err)
	}
	names := make(map[string]bool)
	for _, c := range all {
		if names[c.name] {
			t.Errorf("two cells are named %s", c.name)
		}
		names[c.name] = true
	}
	quick, err := choose("quick, get ,mget,get")
	if err != nil {
		t.Fatal(err)
	}
	if last := quick[len(quick)-1]; last.name != "mget" {
		t.Errorf("the last one is %s", last.name)
	}
	if _, err := choose("get,gte"); err == nil || !strings.Contains(err.Error(), "gte") {
		t.Errorf("a mistake is answered by %v", err)
	}
}

func TestRequestsAreWellFormed(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range cells {
		next, commands := c.requests(), make(map[string]int)
		for range 100 {
			b := next(nil, random)
			in := new(resp.Requests)
			in.Advance(copy(in.Space(), b))
			if c.size > small && c.op == "set" {
				continue // larger than what is read at once
			}
			req, ok, err := in.Next()
			if !ok || err != nil || len(req.Raw) != len(b) {
				t.Fatalf("%s: %q is no request: %v", c.name, b, err)
			}
			commands[string(req.Args[0])]++
			if key := string(req.Args[1]); len(key) != len(keyName(0)) || !strings.HasPrefix(key, "key:") {
				t.Fatalf("%s asks for the key %q", c.name, key)
			}
		}
		if c.op == "mixed" && (commands["GET"] < 60 || commands["SET"] < 5) {
			t.Errorf("%s: %v", c.name, commands)
		}
	}
	if got := string(appendKey(nil, 4207)); got != "$16\r\n"+keyName(4207)+"\r\n" {
		t.Errorf("the key is written %q", got)
	}
}

func TestMedian(t *testing.T) {
	for want, values := range map[float64][]float64{0: nil, 3: {3}, 2: {9, 1, 2}, 2.5: {4, 1, 2, 3}} {
		if got := median(values); got != want {
			t.Errorf("median of %v is %v, not %v", values, got, want)
		}
	}
}

// measured makes a result of rates and p50s, one round each.
func measured(name string, rates map[string]float64) *result {
	list, _ := choose(name)
	r := &result{cell: list[0], rounds: make(map[string][]figures), failed: map[string]string{"twemproxy": "knows no | RESP3"}}
	for way, rate := range rates {
		for _, slow := range []float64{1, 2, 1} { // the second round is a slow one for all
			r.rounds[way] = append(r.rounds[way], figures{seen: seen{requests: 1000, rate: rate / slow, p50: 100 / rate, p99: 200 / rate, p999: 300 / rate}, proxy: 5, server: 1000 / rate, rss: 20})
		}
	}
	return r
}

func TestClaims(t *testing.T) {
	rs := results{
		measured("get", map[string]float64{direct: 1000, shared: 950, pinned: 500, "haproxy": 600, "predixy": 960}),
		measured("set-p16", map[string]float64{direct: 1000, shared: 860, pinned: 700, "haproxy": 600}),
		measured("set-c500", map[string]float64{direct: 1000, shared: 1050}),
		measured("mget", map[string]float64{direct: 1000, shared: 100}),
	}
	var got []string
	for _, c := range rs.claims() {
		got = append(got, c.String())
	}
	for _, want := range []string{
		"PASS  get, shared at least 0.90 of direct: 0.95",
		"FAIL  get, shared ahead of haproxy, twemproxy, predixy: 0.95 of direct; haproxy 0.60, twemproxy was not measured, predixy 0.96",
		"PASS  set-p16, shared at least 0.85 of direct: 0.86",
		"PASS  set-p16, shared ahead of haproxy: 0.86 of direct; haproxy 0.60",
		"FAIL  set-c500, shared at least 1.10 of direct: 1.05",
		"FAIL  get, server CPU a request, shared at most half of direct: 1.05; 1.1 and 1.0 µs",
		"FAIL  get, pinned at least haproxy's rate: 0.83 times; 0.50 and 0.60 of direct",
		"PASS  set-p16, pinned at least haproxy's rate: 1.17 times; 0.70 and 0.60 of direct",
	} {
		if !strings.Contains(strings.Join(got, "\n")+"\n", want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() || len(got) != 9 { // the ninth: pinned in set-c500, which was not measured
		t.Errorf("%d claims:\n%s", len(got), strings.Join(got, "\n"))
	}
}

func TestTablesAndPlot(t *testing.T) {
	rates := map[string]float64{direct: 123456, shared: 100000, pinned: 80000, "haproxy": 70000}
	rs := results{measured("get", rates), measured("get-1m", rates)}
	ways := []way{{name: direct}, {name: shared, pid: 1}, {name: pinned, pid: 1}, {name: "haproxy", pid: 1}, {name: "twemproxy", pid: 1}}
	var terminal, text, picture strings.Builder
	rs[0].print(&terminal, ways)
	for line := range strings.Lines(terminal.String() + explain) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"123456   1.00", "100000   0.81", "twemproxy   knows no"} {
		if !strings.Contains(terminal.String(), want) {
			t.Errorf("no %q in\n%s", want, terminal.String())
		}
	}
	m := machine{processor: "A & B", cpus: 2, date: "2026-01-02 03:04 UTC", command: "bench -x"}
	markdown(&text, m, 3, 1.5, ways, rs, rs.claims())
	for _, want := range []string{"| get | 123456/s | 0.81 | 0.65 | 0.57 | – |", "A & B, 2 CPUs", "knows no / RESP3", "**get-1m**: GET, 1 MiB, 50 clients"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	plot(&picture, m, rs)
	mustParse(t, picture.String())
	if strings.Contains(picture.String(), "NaN") || strings.Contains(picture.String(), "Inf") {
		t.Error("the plot has marks at no place")
	}
}

func TestAxes(t *testing.T) {
	a := axis{low: 0.5, high: 8, log: true}
	if a.share(0.5) != 0 || a.share(8) != 1 || a.share(2) != 0.5 {
		t.Error("the logarithmic scale is wrong")
	}
	a = panels[0].axis(results{measured("get", map[string]float64{direct: 100, shared: 130})})
	if a.low != 0 || a.high <= 1.3 || a.ticks[0] != 0 || a.ticks[len(a.ticks)-1] != a.high {
		t.Errorf("the scale is %+v", a)
	}
}

func TestHeadOfLineComparesRatios(t *testing.T) {
	rounds := map[string][]pair{
		direct: {{quiet: seen{p99: 1}, noisy: seen{p99: 3}}, {quiet: seen{p99: 1}, noisy: seen{p99: 30}}},
		shared: {{quiet: seen{p99: 2}, noisy: seen{p99: 9}}, {quiet: seen{p99: 2}, noisy: seen{p99: 90}}},
		pinned: {{quiet: seen{p99: 2}, noisy: seen{p99: 18}}, {quiet: seen{p99: 2}, noisy: seen{p99: 180}}},
	}
	if c := holClaim(shared, rounds); !c.pass || c.proof != "1.50 times" {
		t.Error(c)
	}
	if c := holClaim(pinned, rounds); c.pass {
		t.Error(c)
	}
	ours := []beside{{seen: seen{p99: 3}}, {seen: seen{p99: 1}}, {seen: seen{p99: 2}}}
	if c := bulkClaim(ours, []beside{{seen: seen{p99: 4}}, {seen: seen{p99: 2}}, {seen: seen{p99: 1}}}, "x"); !c.pass {
		t.Error(c)
	}
	if c := bulkClaim(ours, []beside{{seen: seen{p99: 1}}, {seen: seen{p99: 0.5}}, {seen: seen{p99: 4}}}, "x"); c.pass {
		t.Error(c)
	}
}

// mustParse fails unless a picture is well-formed XML.
func mustParse(t *testing.T, picture string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(picture))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
	}
}

// TestPagesClaim: rounds are compared with themselves, so that a machine that gets slower in
// the middle does not count.
func TestPagesClaim(t *testing.T) {
	list := func(rates ...float64) (f []figures) {
		for _, r := range rates {
			f = append(f, figures{seen: seen{rate: r}})
		}
		return f
	}
	without := list(100, 50, 10)
	if c := pagesClaim(100, without, list(99, 49.5, 9.9)); !c.pass || !strings.HasSuffix(c.String(), "1.0 %") {
		t.Errorf("a hundredth less: %v", c)
	}
	if c := pagesClaim(100, without, list(97, 48.5, 9.7)); c.pass {
		t.Errorf("three hundredths less: %v", c)
	}
}
