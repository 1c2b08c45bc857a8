package main

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyturn/keyturn/server"
)

// wantsTracing tells whether the standard variables of OpenTelemetry ask for traces: nothing is sent anywhere unless they do.
func wantsTracing(getenv func(string) string) bool {
	switch {
	case getenv("OTEL_SDK_DISABLED") == "true" || getenv("OTEL_TRACES_EXPORTER") == "none":
		return false
	case getenv("OTEL_TRACES_EXPORTER") == "otlp":
		return true
	}
	return getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// tracing begins to send traces by OTLP over HTTP, if the environment asks for it: endpoint, headers, sampler and service name are what OTEL_* say.
// Without, the tracer is nil. stop sends what has not been sent.
func tracing(ctx context.Context, getenv func(string) string) (tracer trace.Tracer, stop func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	if !wantsTracing(getenv) {
		return nil, nothing, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, nothing, fmt.Errorf("tracing: %w", err)
	}
	version := server.Version().Version
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "keyturn"), attribute.String("service.version", version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, nothing, fmt.Errorf("tracing: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return provider.Tracer("github.com/keyturn/keyturn"), provider.Shutdown, nil
}
