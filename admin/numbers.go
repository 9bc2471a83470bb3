package admin

import (
	"math"
	"time"

	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/router"
)

// Meter is where the proxy's numbers come from. Its methods may be called from
// several goroutines.
type Meter interface {
	// Numbers returns those since the start.
	Numbers() proxy.Numbers
	// Recent returns those of the last seconds, and how many these were; none
	// while it is too early for that.
	Recent() (proxy.Numbers, time.Duration)
	// Slow returns the slow commands, the latest first.
	Slow() []proxy.SlowCall
}

// StatusReply is of /v1/status. Names and units are stable.
type StatusReply struct {
	migration.Status
	Proxy *ProxyStatus  `json:"proxy,omitempty"`
	Audit []audit.Entry `json:"audit"` // the last ones, the oldest first
}

// ProxyStatus is what the proxy has measured since the start, and how it stands now.
type ProxyStatus struct {
	Clients    Clients                `json:"clients"`
	Upstreams  map[string]Connections `json:"upstreams"` // by side
	InFlight   InFlight               `json:"in_flight"`
	Commands   int64                  `json:"commands"`  // that came
	BytesIn    int64                  `json:"bytes_in"`  // from clients
	BytesOut   int64                  `json:"bytes_out"` // to them
	Errors     map[string]int64       `json:"errors"`    // error replies by their first word
	Recent     Recent                 `json:"recent"`
	Families   []FamilyStatus         `json:"families"` // those that have any commands
	SlowLogged uint64                 `json:"slow_logged"`
}

// Clients are connections of clients.
type Clients struct {
	Shared      int   `json:"shared"` // that share upstream connections
	Pinned      int   `json:"pinned"` // that have their own
	Accepted    int64 `json:"accepted"`
	Refused     int64 `json:"refused"`      // there were too many
	OutputLimit int64 `json:"output_limit"` // closed because they did not read their replies
}

// Connections are connections to one side.
type Connections struct {
	Shared int   `json:"shared"`
	Pinned int   `json:"pinned"`
	Idle   int   `json:"idle"`   // kept for the next client that needs one
	Failed int64 `json:"failed"` // attempts to connect in vain, since the start
}

// InFlight are commands that are not answered yet.
type InFlight struct {
	Shared int `json:"shared"`
	Pinned int `json:"pinned"`
}

// Recent is of the last seconds. Commands that block are in none of its times.
type Recent struct {
	Seconds    float64 `json:"seconds"` // 0 while it is too early to tell
	PerSecond  float64 `json:"commands_per_second"`
	Errors     int64   `json:"errors"`
	UpstreamMS Times   `json:"upstream_ms"`
	TotalMS    Times   `json:"total_ms"`
}

// FamilyStatus is of one group of commands, since the start.
type FamilyStatus struct {
	Family     string `json:"family"`
	Commands   int64  `json:"commands"` // that were answered
	UpstreamMS Times  `json:"upstream_ms"`
	TotalMS    Times  `json:"total_ms"`
}

// Times are in milliseconds. The quantiles may be wrong by a third.
type Times struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// SlowReply is of /v1/slowlog, the latest first.
type SlowReply struct {
	Slow []SlowCommand `json:"slow"`
}

// SlowCommand is a command that took long. It holds no key and no value.
type SlowCommand struct {
	ID         uint64    `json:"id"` // counts from 1 since the start
	Time       time.Time `json:"time"`
	Client     string    `json:"client"`
	Database   int       `json:"database"` // the client's number for it
	Command    string    `json:"command"`  // "other" where the proxy does not know it
	Args       int       `json:"args"`     // the command's words included
	Bytes      int       `json:"bytes"`    // of the request
	UpstreamMS float64   `json:"upstream_ms"`
	TotalMS    float64   `json:"total_ms"`
}

func (s *Server) status() (StatusReply, error) { return s.overview(), nil }

// overview is the one status, for scripts and for the dashboard.
func (s *Server) overview() StatusReply {
	reply := StatusReply{Status: s.opt.Operator.Status(), Audit: s.opt.Audit.Last(auditShown)}
	if s.opt.Meter != nil {
		reply.Proxy = proxyStatus(s.opt.Meter)
	}
	return reply
}

func proxyStatus(m Meter) *ProxyStatus {
	n := m.Numbers()
	st := &ProxyStatus{
		Clients:   Clients{Shared: n.Shared, Pinned: n.Pinned, Accepted: n.Accepted, Refused: n.Refused, OutputLimit: n.Overflowed},
		Upstreams: make(map[string]Connections, len(n.Connections)),
		InFlight:  InFlight{Shared: n.Sharing, Pinned: n.Pinning},
		Commands:  n.Commands, BytesIn: n.BytesIn, BytesOut: n.BytesOut, Errors: n.Errors, Families: []FamilyStatus{},
		SlowLogged: n.SlowLogged,
	}
	for side, c := range n.Connections {
		st.Upstreams[router.Side(side).String()] = Connections(c)
	}
	for _, f := range n.Families {
		if f.Commands > 0 {
			st.Families = append(st.Families, FamilyStatus{Family: f.Name, Commands: f.Commands, UpstreamMS: times(&f.Upstream), TotalMS: times(&f.Total)})
		}
	}
	if r, d := m.Recent(); d > 0 {
		all := r.All()
		st.Recent = Recent{Seconds: d.Seconds(), PerSecond: float64(r.Commands) / d.Seconds(), UpstreamMS: times(&all.Upstream), TotalMS: times(&all.Total)}
		for _, count := range r.Errors {
			st.Recent.Errors += count
		}
	}
	return st
}

func times(h *proxy.Histogram) Times {
	return Times{Mean: millis(h.Mean()), P50: millis(h.Quantile(0.5)), P99: millis(h.Quantile(0.99)), P999: millis(h.Quantile(0.999))}
}

// millis leaves four decimals.
func millis(d time.Duration) float64 { return math.Round(float64(d)/100) / 1e4 }

func (s *Server) slow() (SlowReply, error) {
	reply := SlowReply{Slow: []SlowCommand{}}
	if s.opt.Meter == nil {
		return reply, nil
	}
	for _, c := range s.opt.Meter.Slow() {
		reply.Slow = append(reply.Slow, SlowCommand{ID: c.ID, Time: c.Time, Client: c.Client, Database: c.Database, Command: c.Command,
			Args: c.Args, Bytes: c.Bytes, UpstreamMS: millis(c.Upstream), TotalMS: millis(c.Total)})
	}
	return reply, nil
}
