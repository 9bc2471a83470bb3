package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin/web"
	"github.com/crossfade/crossfade/internal/tracing"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/verify"
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
	pathOpenAPI  = "/v1/openapi.json"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 4 << 10

// route is one path: reading answers at once, changing is a verb. An answer that is
// an http.Handler writes the reply itself, all else is written as JSON. What is said of
// it is what the description of all paths is made of, see OpenAPI.
type route struct {
	method string
	answer func(r *http.Request, body []byte) (any, error)

	about   string       // what it does, in a sentence
	asks    reflect.Type // of the body, nil where none is read
	gives   reflect.Type // of a reply that is 200, nil where it is no JSON
	media   string       // of that, where it is no JSON
	refuses []int        // with what it may refuse besides those that all refuse with
	inside  bool         // for operators on the unix socket only
}

// Who reads learns nothing of these, and who changes may meet them.
var verbRefuses = []int{http.StatusBadRequest, http.StatusConflict, http.StatusUnsupportedMediaType, http.StatusInternalServerError, http.StatusServiceUnavailable}

// reads is a path that says something.
func reads[R any](about string, answer func() (R, error), refuses ...int) route {
	return route{
		method: http.MethodGet, about: about, gives: reflect.TypeFor[R](), refuses: refuses,
		answer: func(*http.Request, []byte) (any, error) { return answer() },
	}
}

// serves is a path that answers in its own way.
func serves(about, media string, answer func(r *http.Request, body []byte) (any, error), refuses ...int) route {
	return route{method: http.MethodGet, about: about, media: media, answer: answer, refuses: refuses}
}

// verbOf is a path that changes something, or takes long. An empty body is the zero Q.
func verbOf[Q, R any](s *Server, about string, run func(context.Context, *http.Request, Q) (R, error)) route {
	return route{
		method: http.MethodPost, about: about, asks: reflect.TypeFor[Q](), gives: reflect.TypeFor[R](), refuses: verbRefuses,
		answer: s.verb(func(ctx context.Context, r *http.Request, body []byte) (any, error) {
			var request Q
			if err := decode(body, &request); err != nil {
				return nil, err
			}
			return run(ctx, r, request)
		}),
	}
}

func (s *Server) routes() map[string]route { return s.table(s.metricsPage(), describePaths()) }

// table is of all paths. What is only described may have no pages.
func (s *Server) table(metrics, description http.Handler) map[string]route {
	all := map[string]route{
		pathHealth:  reads("Says that the process lives.", func() (AliveReply, error) { return AliveReply{true}, nil }),
		pathReady:   reads("Says whether clients are served.", s.ready, http.StatusServiceUnavailable),
		pathVersion: reads("Says the version of the sidecar.", func() (VersionReply, error) { return VersionReply{s.opt.Version}, nil }),
		pathMetrics: serves("The metrics, for Prometheus.", "text/plain", func(*http.Request, []byte) (any, error) { return metrics, nil }, http.StatusServiceUnavailable),
		pathStatus:  reads("Says where the migration stands, and what the proxy has measured.", s.status),
		pathSlow:    reads("Lists the slow commands, the latest first.", s.slow),
		pathOpenAPI: serves("This description.", "application/json", func(*http.Request, []byte) (any, error) { return description, nil }),

		pathVerified: reads("The newest report of a comparison of both sides.", s.verified, http.StatusNotFound),
		pathAudit:    reads("The last entries of the audit log, the oldest first.", s.audited),
		pathFindings: reads("What the newest check has found.", s.findings, http.StatusNotFound),
		pathEvents:   serves("Server-sent events: hello once, then status every second, until who asked has gone.", "text/event-stream", s.streamed, http.StatusServiceUnavailable),

		pathCutover:  verbOf(s, "Moves the clients to the target.", s.cutover),
		pathRollback: verbOf(s, "Moves the clients back to the source.", s.rollback),
		pathAbort:    verbOf(s, "Takes back a switch that is under way, or ends one that waits.", s.abort),
		pathComplete: verbOf(s, "Ends the migration and cleans up.", s.complete),
		pathVerify:   verbOf(s, "Compares both sides key by key; it ends when who asked for it has gone.", s.verify),
		pathThrottle: verbOf(s, "Changes how fast scans may copy, and says how fast that is.", s.throttle),
		pathShadow:   verbOf(s, "Changes how many reads the target is asked too, and says what came of them.", s.shadow),
		pathCheck:    verbOf(s, "Makes the checks of the next switch.", s.check),
	}
	maps.Copy(all, profiles())
	return all
}

func (s *Server) ready() (ReadyReply, error) {
	if !s.opt.Serving() {
		return ReadyReply{}, notServing()
	}
	return ReadyReply{true}, nil
}

func notServing() *Error {
	return &Error{Code: http.StatusServiceUnavailable, Message: "crossfade is starting: clients are not served yet", Hint: "see crossfade status"}
}

// verb wraps what changes something, or takes long.
func (s *Server) verb(run func(ctx context.Context, r *http.Request, body []byte) (any, error)) func(*http.Request, []byte) (any, error) {
	return func(r *http.Request, body []byte) (any, error) {
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
		ctx, span := s.traced(r, verb, who)
		reply, err := run(ctx, r, body)
		tracing.End(span, err)
		took := time.Since(started)
		s.answered(who, verb, took, err)
		if err != nil {
			log.Warn("the operator was answered", "took_ms", took.Milliseconds(), "error", err)
		} else {
			log.Info("the operator was answered", "took_ms", took.Milliseconds())
		}
		return reply, err
	}
}

func (s *Server) throttle(_ context.Context, _ *http.Request, request ThrottleRequest) (t throttle.Status, err error) {
	for name, n := range map[string]*int64{"keys_per_second": request.Keys, "bytes_per_second": request.Bytes} {
		if n != nil && (*n < 0 || *n > maxPerSecond) {
			return t, badRequest(fmt.Errorf("%s: %d is out of range: give 0 for no bound, or 1 to %d", name, *n, int64(maxPerSecond)))
		}
	}
	if request.Scheduled && (request.Keys != nil || request.Bytes != nil || request.Paused != nil) {
		return t, badRequest(errors.New("scheduled: it takes back what was set: give it alone"))
	}
	return s.opt.Operator.Throttle(migration.ThrottleOptions(request)), nil
}

// maxPerSecond bounds what a throttle may be set to.
const maxPerSecond = 1 << 50

func (s *Server) cutover(ctx context.Context, _ *http.Request, request SwitchRequest) (migration.Report, error) {
	return switchOver(ctx, request, s.opt.Operator.Cutover)
}

func (s *Server) rollback(ctx context.Context, _ *http.Request, request SwitchRequest) (migration.Report, error) {
	return switchOver(ctx, request, s.opt.Operator.Rollback)
}

func switchOver(ctx context.Context, request SwitchRequest, run func(context.Context, migration.SwitchOptions) (migration.Report, error)) (migration.Report, error) {
	options, err := request.options()
	if err != nil {
		return migration.Report{}, badRequest(err)
	}
	report, err := run(ctx, options)
	if err != nil {
		e := asError(err)
		if !report.Started.IsZero() {
			e.Report = &report
		}
		return report, e
	}
	return report, nil
}

func (s *Server) abort(ctx context.Context, _ *http.Request, _ struct{}) (Done, error) {
	if err := s.opt.Operator.Abort(ctx); err != nil {
		return Done{}, err
	}
	return Done{[]string{"the switch is being taken back, or waits no more; crossfade status tells when it is so"}}, nil
}

func (s *Server) complete(ctx context.Context, _ *http.Request, request CompleteRequest) (Done, error) {
	done, err := s.opt.Operator.Complete(ctx, migration.CompleteOptions{StayOnSource: request.StayOnSource})
	if err != nil {
		e := asError(err)
		if len(done) > 0 {
			e.Hint = "done so far: " + strings.Join(done, "; ")
		}
		return Done{}, e
	}
	return Done{append([]string{}, done...)}, nil
}

// verify ends with its request too: it reads a lot, and nobody would see the end.
func (s *Server) verify(ctx context.Context, r *http.Request, request VerifyRequest) (verify.Report, error) {
	if !(request.Sample >= 0 && request.Sample <= 1) {
		return verify.Report{}, badRequest(fmt.Errorf("sample: %v is out of range: give a share above 0 and up to 1, such as 0.1", request.Sample))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.Context(), func() { cancel(errors.New("who asked for it has gone")) })()
	return s.opt.Operator.Verify(ctx, migration.VerifyOptions{Sample: request.Sample, Repair: request.Repair})
}

// verified is the newest report.
func (s *Server) verified() (verify.Report, error) {
	r, ok := s.opt.Operator.LastVerification()
	if !ok {
		return r, &Error{Code: http.StatusNotFound, Message: "no verification has come to its end yet", Hint: "crossfade verify makes one"}
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
			switch code {
			case http.StatusUnauthorized:
				w.Header().Set("WWW-Authenticate", "Bearer")
			case http.StatusTooManyRequests:
				w.Header().Set("Retry-After", strconv.Itoa(int(guessEvery.Seconds())))
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
		return nil, &Error{Code: http.StatusForbidden, Message: "this token or certificate may look, and change nothing", Hint: "ask somebody who may operate"}
	}
	if _, network := whoConnected(r); route.inside && (as != operates || network != "unix") {
		return nil, &Error{Code: http.StatusForbidden, Message: r.URL.Path + " is for operators on the unix socket only", Hint: "ask at admin.address: unix:PATH"}
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
