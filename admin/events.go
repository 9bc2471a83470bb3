package admin

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
)

// Point is what the charts show of one moment: some of a status's numbers.
type Point struct {
	At        time.Time `json:"at"`
	LagMS     float64   `json:"lag_ms"`
	OldestMS  float64   `json:"oldest_change_ms"`
	Dirty     int       `json:"dirty"`
	PerSecond float64   `json:"commands_per_second"`
	P50MS     float64   `json:"p50_ms"` // of all commands of the last seconds, in the proxy and the server
	P99MS     float64   `json:"p99_ms"`
	Clients   int       `json:"clients"`
}

// Hello is the first event of a stream.
type Hello struct {
	Role    role    `json:"role"`
	Page    string  `json:"page"` // what requests that change something show in their header
	Version string  `json:"version"`
	Past    []Point `json:"past"` // the oldest first
}

// Moment is each further one. The status is that of /v1/status.
type Moment struct {
	Point  Point       `json:"point"`
	Status StatusReply `json:"status"`
}

// PointOf takes a moment out of a status.
func PointOf(st StatusReply) Point {
	p := Point{At: time.Now(), LagMS: st.LagMS, OldestMS: st.OldestMS, Dirty: st.Dirty}
	if m := st.Proxy; m != nil {
		p.PerSecond, p.P50MS, p.P99MS = m.Recent.PerSecond, m.Recent.TotalMS.P50, m.Recent.TotalMS.P99
		p.Clients = m.Clients.Shared + m.Clients.Pinned
	}
	return p
}

// moment is the watch's look.
func (s *Server) moment() ([]byte, Point) {
	m := Moment{Status: s.overview()}
	m.Point = PointOf(m.Status)
	text, err := eventText("status", m)
	if err != nil {
		s.log.Error("writing the status for the dashboard", "error", err)
	}
	return text, m.Point
}

// eventText writes a server-sent event; nothing with an error.
func eventText(name string, data any) ([]byte, error) {
	text, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Grow(len(text) + 32)
	b.WriteString("event: " + name + "\ndata: ")
	b.Write(text)
	b.WriteString("\n\n")
	return b.Bytes(), nil
}

// streamed answers with server-sent events until who asked has gone, or we stop.
func (s *Server) streamed(r *http.Request, _ []byte) (any, error) {
	as := roleOf(r)
	events, past, ok := s.watch.join()
	if !ok {
		return nil, &Error{Code: http.StatusServiceUnavailable, Message: "too many dashboards are open, or crossfade is stopping", Hint: "close some"}
	}
	past = past[max(0, len(past)-watchKept):]
	hello, err := eventText("hello", Hello{Role: as, Page: s.nonce, Version: s.opt.Version, Past: past})
	if err != nil {
		s.watch.leave(events)
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.watch.leave(events)
		w.Header().Set("Content-Type", "text/event-stream")
		if r.Method == http.MethodHead {
			return
		}
		control := http.NewResponseController(w)
		send := func(event []byte) bool {
			_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err := w.Write(event)
			return err == nil && control.Flush() == nil
		}
		for ok := send(hello); ok; {
			select {
			case event := <-events:
				ok = send(event)
			case <-r.Context().Done():
				return
			case <-s.verbCtx.Done(): // we stop: pages try again, and meet who comes after us
				return
			}
		}
	}), nil
}
