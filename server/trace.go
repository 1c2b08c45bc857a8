package server

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyturn/keyturn/storage"
)

// beginTrace continues the trace of a request (W3C Trace Context), or begins one. Without a tracer it only stores the
// id of the trace for the log. Apart from the method, a trace holds no text from the request.
func (s *gateway) beginTrace(r *http.Request, x *response) (traced *http.Request, end func()) {
	if s.tracer == nil {
		x.trace = traceID(r.Header.Get("Traceparent"))
		return r, func() {}
	}
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := s.tracer.Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer))
	x.trace = span.SpanContext().TraceID().String()
	return r.WithContext(ctx), func() {
		span.SetName(methodOf(r) + " " + x.route)
		span.SetAttributes(
			attribute.String("http.request.method", methodOf(r)),
			attribute.String("http.route", x.route),
			attribute.Int("http.response.status_code", x.status),
			attribute.String("keyturn.client_id", x.clientID),
			attribute.String("keyturn.outcome", x.outcome),
			attribute.String("keyturn.request_id", x.id),
		)
		if x.status >= 500 {
			span.SetStatus(codes.Error, x.outcome)
		}
		span.End()
	}
}

// span begins a step of a request in its trace.
func (s *core) span(ctx context.Context, name string) (inner context.Context, end func(error)) {
	if s.tracer == nil {
		return ctx, func(error) {}
	}
	ctx, span := s.tracer.Start(ctx, name)
	return ctx, func(err error) {
		if errors.Is(err, storage.ErrUnavailable) {
			span.SetStatus(codes.Error, "the database is unavailable")
		}
		span.End()
	}
}

// traceID returns the trace id of a traceparent header, or "" if the header is invalid (W3C Trace Context §3.2).
func traceID(header string) string {
	parts := strings.Split(header, "-")
	if len(parts) < 4 || parts[0] == "ff" {
		return ""
	}
	if parts[0] == "00" && len(parts) != 4 {
		return ""
	}
	for i, length := range []int{2, 32, 16, 2} {
		if len(parts[i]) != length || strings.Trim(parts[i], "0123456789abcdef") != "" {
			return ""
		}
	}
	if strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" {
		return ""
	}
	return parts[1]
}
