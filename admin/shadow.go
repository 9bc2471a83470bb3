package admin

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/proxy"
)

// ShadowReply is of /v1/shadow: what was judged, and what the proxy has asked.
type ShadowReply struct {
	migration.ShadowStatus
	Asked *ShadowAsked `json:"asked,omitempty"`
}

// ShadowAsked is what has become of the reads that were chosen, since the start.
type ShadowAsked struct {
	Reads       int64            `json:"reads"`    // that both servers have answered, or refused
	Differed    int64            `json:"differed"` // that were handed on to be judged
	Failed      int64            `json:"failed"`   // that one of the servers could not or would not answer
	Skipped     int64            `json:"skipped"`  // that the target was not asked, or not answered in time
	FailedWith  map[string]int64 `json:"failed_with"`
	Connections int              `json:"connections"`
	SourceMS    Times            `json:"source_ms"` // of the same reads
	TargetMS    Times            `json:"target_ms"`
	Families    []ShadowCount    `json:"families"`
}

// ShadowCount is the same of one group of commands.
type ShadowCount struct {
	Family   string `json:"family"`
	Equal    int64  `json:"equal"`
	Differed int64  `json:"differed"`
	Failed   int64  `json:"failed"`
	Skipped  int64  `json:"skipped"`
}

func (s *Server) shadow(_ context.Context, _ *http.Request, request ShadowRequest) (ShadowReply, error) {
	if p := request.Percent; p != nil && (*p < 0 || *p > 100) {
		return ShadowReply{}, badRequest(fmt.Errorf("percent: %d is out of range: give 0 to 100", *p))
	}
	reply := ShadowReply{ShadowStatus: s.opt.Operator.Shadow(migration.ShadowOptions(request))}
	if s.opt.Meter != nil {
		n := s.opt.Meter.Numbers()
		reply.Asked = asked(&n.Shadowed)
	}
	return reply, nil
}

func asked(n *proxy.Shadowed) *ShadowAsked {
	a := &ShadowAsked{FailedWith: n.Failed, Connections: n.Connections, SourceMS: times(&n.Source), TargetMS: times(&n.Target), Families: []ShadowCount{}}
	for _, f := range n.Families {
		a.Reads += f.Equal + f.Differed + f.Failed
		a.Differed += f.Differed
		a.Failed += f.Failed
		a.Skipped += f.Skipped
		a.Families = append(a.Families, ShadowCount{Family: f.Name, Equal: f.Equal, Differed: f.Differed, Failed: f.Failed, Skipped: f.Skipped})
	}
	return a
}

var (
	descShadowPercent  = describe("shadow_percent", "How many of a hundred plain reads the target is asked too, as wished.")
	descShadowOn       = describe("shadow_active", "Whether reads are asked of the target now.")
	descShadowReads    = describe("shadow_reads_total", "Reads chosen to be asked of the target too, by what became of them.", "family", "outcome")
	descShadowKeys     = describe("shadow_differing_keys_total", "Times that a key was proved to differ after a read of it.")
	descShadowFailed   = describe("shadow_failed_total", "Shadow reads that one of the servers refused, by the error's first word.", "kind")
	descShadowDuration = describe("shadow_duration_seconds", "How long the servers took for the same reads.", "side")
)

var shadowDescs = []*prometheus.Desc{descShadowPercent, descShadowOn, descShadowReads, descShadowKeys, descShadowFailed, descShadowDuration}

func judgedShadows(out chan<- prometheus.Metric, st migration.ShadowStatus) {
	gauge, count := gauges(out), counts(out)
	gauge(descShadowPercent, float64(st.Percent))
	gauge(descShadowOn, one(st.State == "on"))
	count(descShadowKeys, float64(st.Keys))
	for _, f := range st.Families {
		count(descShadowReads, float64(f.Behind), f.Family, "behind")
		count(descShadowReads, float64(f.Differing), f.Family, "differing")
		count(descShadowReads, float64(f.Unsettled), f.Family, "unsettled")
	}
}

func askedShadows(out chan<- prometheus.Metric, n *proxy.Shadowed) {
	count := counts(out)
	for _, f := range n.Families {
		count(descShadowReads, float64(f.Equal), f.Name, "equal")
		count(descShadowReads, float64(f.Failed), f.Name, "failed")
		count(descShadowReads, float64(f.Skipped), f.Name, "skipped")
	}
	for kind, k := range n.Failed {
		count(descShadowFailed, float64(k), kind)
	}
	if n.Target.Count() > 0 {
		out <- histogram(descShadowDuration, &n.Source, "source")
		out <- histogram(descShadowDuration, &n.Target, "target")
	}
}
