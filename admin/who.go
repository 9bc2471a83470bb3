package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/migration"
)

// auditShown is how many entries a status has.
const auditShown = 10

// AuditReply is of /v1/audit, the oldest entry first.
type AuditReply struct {
	Audit []audit.Entry `json:"audit"`
}

func (s *Server) audited() (AuditReply, error) {
	return AuditReply{s.opt.Audit.Last(audit.Kept)}, nil
}

type connKey struct{}

// connected is what is known of a connection.
type connected struct {
	network string
	who     audit.Who
}

// withPeer keeps who is at the other end of a connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	conn := connected{network: c.LocalAddr().Network()}
	if unix, is := c.(*net.UnixConn); is {
		if uid, pid, ok := peer(unix); ok {
			conn.who = named(uid, pid)
		}
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// whoConnected returns what withPeer has kept.
func whoConnected(r *http.Request) (audit.Who, string) {
	conn, _ := r.Context().Value(connKey{}).(connected)
	return conn.who, conn.network
}

// named looks the user's name up. Who has none is known by the number.
func named(uid uint32, pid int32) audit.Who {
	who := audit.Who{UID: &uid, PID: pid}
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		who.User = u.Username
	}
	return who
}

// whoAsks names the operator of a request that the guard has let in.
func (s *Server) whoAsks(r *http.Request) *audit.Who {
	who, network := whoConnected(r)
	if network != "unix" {
		who.Address = r.RemoteAddr
	}
	who.Token = s.opt.Config.Token != ""
	if names := certificateNames(r); len(names) > 0 {
		who.Certificate = names[0]
	}
	who.Page = r.Header.Get(pageHeader) != ""
	return &who
}

// asked notes a verb before it runs: on the disk, so that it is known whatever it does.
func (s *Server) asked(who *audit.Who, verb string, body []byte) {
	e := audit.Entry{Event: "asked", Who: who, Verb: verb}
	// What nobody could read again (the number 1e999) would make the whole log such.
	if body = bytes.TrimSpace(body); len(body) > 0 && json.Unmarshal(body, new(any)) == nil {
		var text bytes.Buffer
		if json.Compact(&text, body) == nil {
			e.Asked = text.Bytes()
		}
	}
	s.opt.Audit.AddSynced(e)
}

func (s *Server) answered(who *audit.Who, verb string, took time.Duration, err error) {
	e := audit.Entry{Event: "answered", Who: who, Verb: verb, Result: "ok", MS: float64(took.Microseconds()) / 1000}
	var refused *migration.Refused
	var answer *Error
	switch {
	case err == nil:
	case errors.As(err, &refused), errors.As(err, &answer) && answer.Code/100 == 4:
		e.Result, e.Why = "refused", err.Error()
	default:
		e.Result, e.Why = "failed", err.Error()
	}
	s.opt.Audit.Add(e)
}

// traced begins the span of a verb, within the one that whoever asks has named in the header
// traceparent (https://www.w3.org/TR/trace-context/). The verb goes on when they have gone.
func (s *Server) traced(r *http.Request, verb string, who *audit.Who) (context.Context, trace.Span) {
	ctx := propagation.TraceContext{}.Extract(s.verbCtx, propagation.HeaderCarrier(r.Header))
	return s.opt.Tracer.Start(ctx, verb, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("enduser.id", who.String())))
}
