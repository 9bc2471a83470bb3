package admin

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Metric is what there is to say about one metric of ours.
type Metric struct {
	Name   string // with crossfade_
	Type   string // counter, gauge, histogram or summary
	Help   string
	Labels []string
}

// described is filled while the package's variables are made.
var described []Metric

// Metrics returns those that /metrics can have, by name. Beside them it has what
// client_golang says of every process: go_… and process_….
func Metrics() []Metric {
	return slices.SortedFunc(slices.Values(described), func(x, y Metric) int { return cmp.Compare(x.Name, y.Name) })
}

// typeOf goes by what names end in, which a test holds them to.
func typeOf(name string) string {
	switch {
	case strings.HasSuffix(name, "_total"):
		return "counter"
	case strings.HasSuffix(name, "_duration_seconds"):
		return "histogram"
	case strings.HasSuffix(name, "_heartbeat_lag_seconds"):
		return "summary"
	}
	return "gauge"
}

// Path is one that a server answers at.
type Path struct {
	Path, Method, About string
	Asks                []string // the names of the body's fields
}

// Paths are all of them, sorted.
func Paths() (list []Path) {
	table := (&Server{}).table(nil, nil)
	for _, at := range slices.Sorted(maps.Keys(table)) {
		r := table[at]
		p := Path{Path: at, Method: r.method, About: r.about}
		if r.asks != nil {
			for i := range r.asks.NumField() {
				name, _, _ := strings.Cut(r.asks.Field(i).Tag.Get("json"), ",")
				p.Asks = append(p.Asks, name)
			}
		}
		list = append(list, p)
	}
	return list
}

func isProbe(path string) bool { return slices.Contains(Probes(), path) }

// Probes are those of them for whoever watches the process; they want no token.
func Probes() []string { return []string{pathHealth, pathReady} }
