package migration

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/crossfade/crossfade/internal/tracing"
)

// traceMove has a transition be seen in the span of the attempt that makes it, or, where none
// is under way, in one of its own.
func (m *Migration) traceMove(current *attempted, was Phase, r Record, why string) {
	about := []attribute.KeyValue{
		attribute.String("crossfade.migration", r.ID), attribute.String("crossfade.side", r.Side.String()),
		attribute.String("crossfade.phase", string(r.Phase)), attribute.String("crossfade.phase.was", string(was)),
		attribute.Int64("crossfade.epoch", int64(r.Epoch)), attribute.Int64("crossfade.token", int64(r.Token)), //nolint:gosec // they count
	}
	if why != "" {
		about = append(about, attribute.String("crossfade.why", why))
	}
	if current != nil {
		current.span.AddEvent(string(r.Phase), trace.WithAttributes(about...))
		return
	}
	_, span := m.opt.Tracer.Start(context.Background(), "phase: "+string(r.Phase), trace.WithAttributes(about...))
	span.End()
}

// trace ends the span of an attempt with what its report says.
func (a *attempt) trace(span trace.Span, err error) {
	r, rec := a.report, a.record()
	span.SetAttributes(
		attribute.String("crossfade.migration", rec.ID),
		attribute.String("crossfade.from", r.From.String()), attribute.String("crossfade.to", r.To.String()),
		attribute.Bool("crossfade.dry_run", r.DryRun), attribute.Bool("crossfade.rehearsal", r.Rehearsal),
		attribute.Float64("crossfade.held_ms", r.Held), attribute.Float64("crossfade.max_stall_ms", r.MaxStall),
		attribute.Float64("crossfade.stall.p50_ms", r.Stall.P50), attribute.Float64("crossfade.stall.p99_ms", r.Stall.P99),
		attribute.Float64("crossfade.stall.max_ms", r.Stall.Max), attribute.Int("crossfade.sessions", r.Sessions),
	)
	if !a.held.IsZero() {
		span.AddEvent("clients wait", trace.WithTimestamp(a.held))
	}
	tracing.End(span, err)
}
