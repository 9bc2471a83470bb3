package alerts

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/template"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/crossfade/crossfade/internal/redistest"
)

const (
	scrapeEvery = 200 * time.Millisecond
	// What is longer in a rule is shortened to these, so that a test need not take hours.
	longestRange = 5 * time.Second
	longestFor   = time.Second
	longestAge   = 5 // seconds, of numbers that are longer than an hour
)

// series are the samples of one. The times are milliseconds and ascend.
type series struct {
	labels labels.Labels
	times  []int64
	values []float64
}

// memory keeps samples and gives them to Prometheus' own engine.
type memory struct {
	mu     sync.Mutex
	series map[string]*series
}

func (m *memory) add(at time.Time, samples map[string]sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := at.UnixMilli()
	for name, s := range samples {
		if m.series[name] == nil {
			m.series[name] = &series{labels: s.labels}
		}
		m.series[name].add(t, s.value)
	}
	for name, s := range m.series { // as Prometheus does with what is not there any more
		if _, there := samples[name]; !there && !value.IsStaleNaN(s.values[len(s.values)-1]) {
			s.add(t, math.Float64frombits(value.StaleNaN))
		}
	}
}

func (s *series) add(t int64, v float64) {
	if n := len(s.times); n == 0 || s.times[n-1] < t {
		s.times, s.values = append(s.times, t), append(s.values, v)
	}
}

func (m *memory) Querier(mint, maxt int64) (storage.Querier, error) {
	return &querier{m: m, mint: mint, maxt: maxt}, nil
}

type querier struct {
	m          *memory
	mint, maxt int64
}

func (q *querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	q.m.mu.Lock()
	defer q.m.mu.Unlock()
	set := &seriesSet{}
	for _, s := range q.m.series {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			from, _ := slices.BinarySearch(s.times, q.mint)
			to, _ := slices.BinarySearch(s.times, q.maxt+1)
			if from < to {
				var points []chunks.Sample
				for i := from; i < to; i++ {
					points = append(points, point{s.times[i], s.values[i]})
				}
				set.all = append(set.all, storage.NewListSeries(s.labels, points))
			}
		}
	}
	slices.SortFunc(set.all, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return set
}

func (*querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

func (*querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

func (*querier) Close() error { return nil }

// point is one value as Prometheus' code wants it.
type point struct {
	t int64
	v float64
}

func (p point) T() int64                    { return p.t }
func (p point) F() float64                  { return p.v }
func (point) ST() int64                     { return 0 }
func (point) H() *histogram.Histogram       { return nil }
func (point) FH() *histogram.FloatHistogram { return nil }
func (point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample         { return p }

type seriesSet struct {
	all []storage.Series
	at  int
}

func (s *seriesSet) Next() bool {
	s.at++
	return s.at <= len(s.all)
}
func (s *seriesSet) At() storage.Series                { return s.all[s.at-1] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// sample is one of a scrape.
type sample struct {
	labels labels.Labels
	value  float64
}

// scrape reads /metrics as Prometheus does; up is 0 with nothing else when it cannot.
func scrape(ctx context.Context, address string) map[string]sample {
	samples := make(map[string]sample)
	add := func(name string, v float64, pairs []*dto.LabelPair, more ...string) {
		b := labels.NewScratchBuilder(8)
		b.Add(model.MetricNameLabel, name)
		b.Add("instance", address)
		b.Add("job", "crossfade")
		for _, p := range pairs {
			b.Add(p.GetName(), p.GetValue())
		}
		if len(more) > 0 {
			b.Add(more[0], more[1])
		}
		b.Sort()
		l := b.Labels()
		samples[l.String()] = sample{l, v}
	}
	families, err := read(ctx, address)
	if err != nil {
		add("up", 0, nil)
		return samples
	}
	add("up", 1, nil)
	number := func(v float64) string { return fmt.Sprint(v) }
	for name, f := range families {
		for _, m := range f.GetMetric() {
			pairs := m.GetLabel()
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				for _, b := range m.GetHistogram().GetBucket() {
					add(name+"_bucket", float64(b.GetCumulativeCount()), pairs, "le", number(b.GetUpperBound()))
				}
				add(name+"_count", float64(m.GetHistogram().GetSampleCount()), pairs)
				add(name+"_sum", m.GetHistogram().GetSampleSum(), pairs)
			case dto.MetricType_SUMMARY:
				for _, q := range m.GetSummary().GetQuantile() {
					add(name, q.GetValue(), pairs, "quantile", number(q.GetQuantile()))
				}
				add(name+"_count", float64(m.GetSummary().GetSampleCount()), pairs)
				add(name+"_sum", m.GetSummary().GetSampleSum(), pairs)
			default:
				add(name, m.GetCounter().GetValue()+m.GetGauge().GetValue()+m.GetUntyped().GetValue(), pairs)
			}
		}
	}
	return samples
}

func read(ctx context.Context, address string) (map[string]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	return p.TextToMetricFamilies(response.Body)
}

// alert is a rule with what it is now.
type alert struct {
	rule
	since  time.Time // when its expression began to hold
	firing bool
	fired  int      // times that it has begun to
	texts  []string // annotations, of when it fired last
	err    error
}

// watcher scrapes a sidecar and evaluates the rules after each time.
type watcher struct {
	t       *testing.T
	address string
	memory  *memory
	engine  *promql.Engine

	mu     sync.Mutex
	alerts map[string]*alert
	rounds int
}

func newEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: 10 * time.Second, Parser: parser.NewParser(parser.Options{})})
}

// watchAlerts watches until the test ends.
func watchAlerts(t *testing.T, address string) *watcher {
	t.Helper()
	w := &watcher{t: t, address: address, memory: &memory{series: make(map[string]*series)}, engine: newEngine(), alerts: make(map[string]*alert)}
	for _, r := range rules(t) {
		w.alerts[r.name] = &alert{rule: r.shortened(t)}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(scrapeEvery)
		defer tick.Stop()
		for {
			w.round(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("the alerts: %s", strings.Join(w.now(), "\n"))
		}
	})
	return w
}

func (w *watcher) round(ctx context.Context) {
	at := time.Now()
	samples := scrape(ctx, w.address)
	if ctx.Err() != nil {
		return
	}
	w.memory.add(at, samples)
	for _, a := range w.alerts {
		found, texts, err := w.evaluate(ctx, a, at)
		w.mu.Lock()
		a.err = errors.Join(a.err, err)
		switch {
		case !found:
			a.since, a.firing = time.Time{}, false
		case a.since.IsZero():
			a.since = at
		}
		if found && !a.firing && at.Sub(a.since) >= a.holds {
			a.firing, a.texts = true, texts
			a.fired++
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	w.rounds++
	w.mu.Unlock()
}

func (w *watcher) evaluate(ctx context.Context, a *alert, at time.Time) (found bool, texts []string, err error) {
	vector, err := query(ctx, w.engine, w.memory, a.expr, at)
	if err != nil || len(vector) == 0 {
		return false, nil, err
	}
	for _, text := range a.annotations {
		said, err := expand(ctx, text, vector[0])
		if err != nil {
			return true, nil, err
		}
		texts = append(texts, said)
	}
	return true, texts, nil
}

// expand fills an annotation as Prometheus does.
func expand(ctx context.Context, text string, s promql.Sample) (string, error) {
	data := template.AlertTemplateData(s.Metric.Map(), nil, "", s)
	head := "{{$labels := .Labels}}{{$value := .Value}}"
	return template.NewTemplateExpander(ctx, head+text, "annotation", data, model.Now(), nil, nil, nil).Expand()
}

func query(ctx context.Context, e *promql.Engine, q storage.Queryable, expr string, at time.Time) (promql.Vector, error) {
	one, err := e.NewInstantQuery(ctx, q, nil, expr, at)
	if err != nil {
		return nil, err
	}
	defer one.Close()
	result := one.Exec(ctx)
	if result.Err != nil {
		return nil, fmt.Errorf("%s: %w", expr, result.Err)
	}
	return result.Vector()
}

// now says which alerts fire.
func (w *watcher) now() (firing []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, a := range w.alerts {
		if a.firing {
			firing = append(firing, name+": "+strings.Join(a.texts, " "))
		}
	}
	slices.Sort(firing)
	return firing
}

// await waits until all of these have fired since the last quiet, and returns what they say.
func (w *watcher) await(names ...string) map[string]string {
	w.t.Helper()
	said := make(map[string]string)
	for _, name := range names {
		if w.alerts[name] == nil {
			w.t.Fatalf("there is no alert %s", name)
		}
	}
	redistest.Eventually(w.t, 90*time.Second, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		var missing []string
		for _, name := range names {
			a := w.alerts[name]
			if a.err != nil {
				w.t.Fatalf("%s: %v", name, a.err)
			}
			if a.fired == 0 {
				missing = append(missing, name)
			}
			said[name] = strings.Join(a.texts, "\n")
		}
		if len(missing) > 0 {
			return fmt.Errorf("%v do not fire", missing)
		}
		return nil
	}, "the alerts fire")
	return said
}

// quiet waits until none fires, and none is about to.
func (w *watcher) quiet(but ...string) {
	w.t.Helper()
	redistest.Eventually(w.t, 90*time.Second, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		var on []string
		for name, a := range w.alerts {
			if !a.since.IsZero() && !slices.Contains(but, name) {
				on = append(on, name)
			}
		}
		if len(on) > 0 || w.rounds < 10 {
			return fmt.Errorf("%v after %d rounds", on, w.rounds)
		}
		return nil
	}, "the alerts clear")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.alerts {
		a.fired = 0
	}
}
