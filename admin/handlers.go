package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin/web"
	"github.com/crossfade/crossfade/migration"
)

// The paths. Their replies are stable within /v1.
const (
	pathHealth   = "/healthz"
	pathReady    = "/readyz"
	pathVersion  = "/v1/version"
	pathMetrics  = "/metrics"
	pathStatus   = "/v1/status"
	pathSlow     = "/v1/slowlog"
	pathCutover  = "/v1/cutover"
	pathRollback = "/v1/rollback"
	pathAbort    = "/v1/abort"
	pathComplete = "/v1/complete"
	pathVerify   = "/v1/verify"
	pathThrottle = "/v1/throttle"
	pathShadow   = "/v1/shadow"
	pathVerified = "/v1/verification"
	pathAudit    = "/v1/audit"
	pathCheck    = "/v1/check"
	pathFindings = "/v1/findings"
	pathEvents   = "/v1/events"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 4 << 10

// route is one path: reading answers at once, changing is a verb. An answer that is
// an http.Handler writes the reply itself, all else is written as JSON.
type route struct {
	method string
	answer func(r *http.Request, body []byte) (any, error)
}

func (s *Server) routes() map[string]route {
	read := func(answer func() (any, error)) route {
		return route{http.MethodGet, func(*http.Request, []byte) (any, error) { return answer() }}
	}
	metrics := s.metricsPage()
	return map[string]route{
		pathHealth:  read(func() (any, error) { return map[string]bool{"alive": true}, nil }),
		pathReady:   read(s.ready),
		pathVersion: read(func() (any, error) { return VersionReply{s.opt.Version}, nil }),
		pathMetrics: read(func() (any, error) { return metrics, nil }),
		pathStatus:  read(s.status),
		pathSlow:    read(s.slow),

		pathVerified: read(s.verified),
		pathAudit:    read(s.audited),
		pathFindings: read(s.findings),
		pathEvents:   {http.MethodGet, s.streamed},

		pathCutover:  s.verb(s.cutover),
		pathRollback: s.verb(s.rollback),
		pathAbort:    s.verb(s.abort),
		pathComplete: s.verb(s.complete),
		pathVerify:   s.verb(s.verify),
		pathThrottle: s.verb(s.throttle),
		pathShadow:   s.verb(s.shadow),
		pathCheck:    s.verb(s.check),
	}
}

func (s *Server) ready() (any, error) {
	if !s.opt.Serving() {
		return nil, notServing()
	}
	return map[string]bool{"ready": true}, nil
}

func notServing() *Error {
	return &Error{Code: http.StatusServiceUnavailable, Message: "crossfade is starting: clients are not served yet", Hint: "see crossfade status"}
}

// verb wraps what changes something, or takes long.
func (s *Server) verb(run func(ctx context.Context, r *http.Request, body []byte) (any, error)) route {
	return route{http.MethodPost, func(r *http.Request, body []byte) (any, error) {
		if !s.begin() {
			return nil, &Error{Code: http.StatusServiceUnavailable, Message: ErrStopping.Error()}
		}
		defer s.verbs.Done()
		if !s.opt.Serving() {
			return nil, notServing()
		}
		started := time.Now()
		verb, who := strings.TrimPrefix(r.URL.Path, "/v1/"), s.whoAsks(r)
		log := s.log.With("verb", verb, "who", who.String())
		log.Info("the operator asks", "body", string(bytes.TrimSpace(body)))
		s.asked(who, verb, body)
		reply, err := run(s.verbCtx, r, body)
		took := time.Since(started)
		s.answered(who, verb, took, err)
		if err != nil {
			log.Warn("the operator was answered", "took_ms", took.Milliseconds(), "error", err)
		} else {
			log.Info("the operator was answered", "took_ms", took.Milliseconds())
		}
		return reply, err
	}}
}

func (s *Server) throttle(_ context.Context, _ *http.Request, body []byte) (any, error) {
	var request ThrottleRequest
	if err := decode(body, &request); err != nil {
		return nil, err
	}
	for name, n := range map[string]*int64{"keys_per_second": request.Keys, "bytes_per_second": request.Bytes} {
		if n != nil && (*n < 0 || *n > maxPerSecond) {
			return nil, badRequest(fmt.Errorf("%s: %d is out of range: give 0 for no bound, or 1 to %d", name, *n, int64(maxPerSecond)))
		}
	}
	if request.Scheduled && (request.Keys != nil || request.Bytes != nil || request.Paused != nil) {
		return nil, badRequest(errors.New("scheduled: it takes back what was set: give it alone"))
	}
	return s.opt.Operator.Throttle(migration.ThrottleOptions(request)), nil
}

// maxPerSecond bounds what a throttle may be set to.
const maxPerSecond = 1 << 50

func (s *Server) cutover(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	return switchOver(ctx, body, s.opt.Operator.Cutover)
}

func (s *Server) rollback(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	return switchOver(ctx, body, s.opt.Operator.Rollback)
}

func switchOver(ctx context.Context, body []byte, run func(context.Context, migration.SwitchOptions) (migration.Report, error)) (any, error) {
	var request SwitchRequest
	if err := decode(body, &request); err != nil {
		return nil, err
	}
	options, err := request.options()
	if err != nil {
		return nil, badRequest(err)
	}
	report, err := run(ctx, options)
	if err != nil {
		e := asError(err)
		if !report.Started.IsZero() {
			e.Report = &report
		}
		return nil, e
	}
	return report, nil
}

func (s *Server) abort(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	if err := decode(body, &struct{}{}); err != nil {
		return nil, err
	}
	if err := s.opt.Operator.Abort(ctx); err != nil {
		return nil, err
	}
	return Done{[]string{"the switch is being taken back, or waits no more; crossfade status tells when it is so"}}, nil
}

func (s *Server) complete(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var request CompleteRequest
	if err := decode(body, &request); err != nil {
		return nil, err
	}
	done, err := s.opt.Operator.Complete(ctx, migration.CompleteOptions{StayOnSource: request.StayOnSource})
	if err != nil {
		e := asError(err)
		if len(done) > 0 {
			e.Hint = "done so far: " + strings.Join(done, "; ")
		}
		return nil, e
	}
	return Done{append([]string{}, done...)}, nil
}

// verify ends with its request too: it reads a lot, and nobody would see the end.
func (s *Server) verify(ctx context.Context, r *http.Request, body []byte) (any, error) {
	var request VerifyRequest
	if err := decode(body, &request); err != nil {
		return nil, err
	}
	if !(request.Sample >= 0 && request.Sample <= 1) {
		return nil, badRequest(fmt.Errorf("sample: %v is out of range: give a share above 0 and up to 1, such as 0.1", request.Sample))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.Context(), func() { cancel(errors.New("who asked for it has gone")) })()
	return s.opt.Operator.Verify(ctx, migration.VerifyOptions{Sample: request.Sample, Repair: request.Repair})
}

// verified is the newest report.
func (s *Server) verified() (any, error) {
	r, ok := s.opt.Operator.LastVerification()
	if !ok {
		return nil, &Error{Code: http.StatusNotFound, Message: "no verification has come to its end yet", Hint: "crossfade verify makes one"}
	}
	return r, nil
}

// handler checks what all requests have in common, and writes the reply.
func (s *Server) handler() http.Handler {
	routes := s.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply, err := s.answer(w, r, routes)
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if page, ok := reply.(http.Handler); ok {
			page.ServeHTTP(w, r)
			_ = control.SetWriteDeadline(time.Time{})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		code := http.StatusOK
		if err != nil {
			e := asError(err)
			reply, code = e, e.Code
			if code == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
		}
		text, err := json.MarshalIndent(reply, "", "  ")
		if err != nil {
			s.log.Error("writing a reply to the operator", "path", r.URL.Path, "error", err)
			code, text = http.StatusInternalServerError, []byte(`{"error":"the reply cannot be written as JSON"}`)
		}
		w.WriteHeader(code)
		_, _ = w.Write(append(text, '\n')) // who has gone needs no answer
		_ = control.SetWriteDeadline(time.Time{})
	})
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, routes map[string]route) (any, error) {
	as, refusal := s.guard(r)
	if refusal != nil {
		return nil, refusal
	}
	route, known := routes[r.URL.Path]
	switch {
	case known:
	case web.Has(r.URL.Path):
		route.method, route.answer = http.MethodGet, func(*http.Request, []byte) (any, error) { return s.page, nil }
	default:
		return nil, &Error{Code: http.StatusNotFound, Message: "nothing at " + quoted(r.URL.Path), Hint: "GET " + pathStatus + " says where the migration stands"}
	}
	if r.Method != route.method && (r.Method != http.MethodHead || route.method != http.MethodGet) {
		w.Header().Set("Allow", route.method)
		return nil, &Error{Code: http.StatusMethodNotAllowed, Message: r.URL.Path + " takes " + route.method}
	}
	if route.method != http.MethodGet && as != operates {
		s.log.Warn("a verb was refused to who may look only", "path", r.URL.Path, "who", s.whoAsks(r).String())
		return nil, &Error{Code: http.StatusForbidden, Message: "this token may look, and change nothing", Hint: "ask somebody who has admin.token"}
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	return route.answer(r.WithContext(context.WithValue(r.Context(), roleKey{}, as)), body)
}

type roleKey struct{}

// roleOf is what a request that the guard has let in may do.
func roleOf(r *http.Request) role {
	as, _ := r.Context().Value(roleKey{}).(role)
	return as
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(headerTimeout))
	// The deadline must go: it would end a long verb's request.
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, &Error{Code: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the body has more than %d bytes", maxBody)}
	case err != nil:
		return nil, badRequest(fmt.Errorf("reading the body: %w", err))
	}
	if kind := r.Header.Get("Content-Type"); len(body) > 0 && r.Method == http.MethodPost {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
			return nil, &Error{Code: http.StatusUnsupportedMediaType, Message: "the body must be application/json", Hint: "set Content-Type: application/json"}
		}
	}
	return body, nil
}

// decode is strict: a wish that is misspelt must not be passed over.
func decode(body []byte, into any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest(fmt.Errorf("reading the body: %s", strings.TrimPrefix(err.Error(), "json: ")))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest(errors.New("reading the body: more than one JSON value"))
	}
	return nil
}

func badRequest(err error) *Error { return &Error{Code: http.StatusBadRequest, Message: err.Error()} }

// asError gives an error its HTTP status: 409 for what a check refused, 500 else.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var refused *migration.Refused
	if errors.As(err, &refused) {
		return &Error{Code: http.StatusConflict, Message: err.Error(), Reasons: refused.Reasons}
	}
	return &Error{Code: http.StatusInternalServerError, Message: err.Error()}
}

// quoted quotes and shortens what came from outside.
func quoted(text string) string {
	const enough = 80
	if len(text) > enough {
		text = strings.ToValidUTF8(text[:enough], "") + "…"
	}
	return fmt.Sprintf("%q", text)
}
