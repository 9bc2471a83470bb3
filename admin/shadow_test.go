package admin

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/proxy"
)

// shaded is a meter of a proxy that has shadow reads.
type shaded struct{ gauge }

func (s shaded) Numbers() proxy.Numbers {
	n := s.gauge.Numbers()
	n.Shadowed = proxy.Shadowed{Families: []proxy.ShadowFamily{{Name: "hash", Equal: 5, Differed: 2, Failed: 1, Skipped: 4}}, Failed: map[string]int64{"NOPERM": 1}, Connections: 1}
	n.Shadowed.Source.Buckets[2], n.Shadowed.Target.Buckets[4] = 8, 8
	n.Shadowed.Source.Sum = time.Millisecond
	return n
}

// TestShadow: what is asked for reaches the operator, what is none is refused, and both
// halves of the numbers are in the reply and on the metrics page.
func TestShadow(t *testing.T) {
	_, c, _ := startWith(t, Options{Operator: &fake{}, Meter: shaded{}, Version: "v1", Serving: func() bool { return true }})
	client := dial(t, c)
	ten, much := 10, 101
	r, err := client.Shadow(t.Context(), ShadowRequest{Percent: &ten})
	if err != nil || r.Percent != 10 || r.Behind != 2 || r.Asked == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if a := r.Asked; a.Reads != 8 || a.Differed != 2 || a.Failed != 1 || a.Skipped != 4 || a.FailedWith["NOPERM"] != 1 || a.TargetMS.P50 <= a.SourceMS.P50 {
		t.Errorf("%+v", a)
	}
	var refused *Error
	if _, err := client.Shadow(t.Context(), ShadowRequest{Percent: &much}); !errors.As(err, &refused) || refused.Code != http.StatusBadRequest {
		t.Errorf("101 percent: %v", err)
	}
	got := map[string]float64{}
	for _, m := range scrapeOf(t, c)["crossfade_shadow_reads_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "outcome" {
				got[l.GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if got["equal"] != 5 || got["failed"] != 1 || got["skipped"] != 4 {
		t.Errorf("the metrics: %v", got)
	}
	_, bare, _ := start(t, config.Admin{}, &fake{}, nil)
	if r, err := dial(t, bare).Shadow(t.Context(), ShadowRequest{}); err != nil || r.Asked != nil {
		t.Errorf("without a meter: %+v, %v", r, err)
	}
}
