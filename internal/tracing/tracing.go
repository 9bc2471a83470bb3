// Package tracing tells a collector, by OpenTelemetry's protocol, how long what operators have
// asked for took, and which step of it how long.
// It owns the exporter and what is said of this process. It never keeps anybody waiting: what a
// collector does not take in time is dropped, and told in the log.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/crossfade/crossfade/config"
)

// scope is who makes spans.
const scope = "github.com/crossfade/crossfade"

const (
	sendEvery    = time.Second      // how long a span waits for others
	sendTimeout  = 5 * time.Second  // that a collector has for an answer
	closeTimeout = 2 * time.Second  // … when the process ends
	complainLess = 10 * time.Minute // between two lines of the log about the same trouble
)

// Traces sends spans. The zero value sends none. Safe for concurrent use.
type Traces struct {
	provider *trace.TracerProvider
}

// Open returns what sends spans to the collector of c, or nothing where c names none. It
// connects to nobody yet. What OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS say
// counts as well. The caller closes it.
func Open(ctx context.Context, c config.Traces, version string, log *slog.Logger) (*Traces, error) {
	if c.URL == "" {
		return &Traces{}, nil
	}
	at, err := c.Endpoint()
	if err != nil {
		return nil, fmt.Errorf("traces.%w", err)
	}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(at.String()),
		otlptracehttp.WithTimeout(sendTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: sendTimeout, MaxInterval: time.Minute, MaxElapsedTime: 5 * time.Minute}),
	)
	if err != nil {
		return nil, fmt.Errorf("making ready to send traces to %s: %w", at.Host, err)
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(attribute.String("service.name", "crossfade"), attribute.String("service.version", version)),
		resource.WithFromEnv(), // last: its words count more
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("reading what traces are to say of this process: %w", err)
	}
	otel.SetErrorHandler(&complaints{log: log, at: at.Host})
	return &Traces{trace.NewTracerProvider(
		trace.WithResource(about),
		trace.WithBatcher(exporter, trace.WithBatchTimeout(sendEvery), trace.WithExportTimeout(6*time.Minute)),
	)}, nil
}

// Tracer makes spans; where there is no collector they cost nothing.
func (t *Traces) Tracer() api.Tracer {
	if t.provider == nil {
		return Off()
	}
	return t.provider.Tracer(scope)
}

// Close sends what is left, for at most two seconds.
func (t *Traces) Close() error {
	if t.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last traces: %w", err)
	}
	return nil
}

// Off returns a tracer whose spans go nowhere.
func Off() api.Tracer { return noop.NewTracerProvider().Tracer("") }

// Begin makes a span within that of ctx: where ctx has none, or it goes nowhere, so does this.
func Begin(ctx context.Context, name string, more ...attribute.KeyValue) (context.Context, api.Span) {
	return api.SpanFromContext(ctx).TracerProvider().Tracer(scope).Start(ctx, name, api.WithAttributes(more...))
}

// End ends a span as an error says.
func End(span api.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// complaints log what hinders the sending, the same not again for a while.
type complaints struct {
	log *slog.Logger
	at  string

	mu   sync.Mutex
	said string
	when time.Time
}

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	again := c.said == err.Error() && time.Since(c.when) < complainLess
	if !again {
		c.said, c.when = err.Error(), time.Now()
	}
	c.mu.Unlock()
	if !again {
		c.log.Warn("traces do not reach the collector; what is older than some minutes is dropped", "collector", c.at, "error", err)
	}
}
