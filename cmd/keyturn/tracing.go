package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server"
)

// wantsTracing reports whether the standard variables of OpenTelemetry ask for traces. Without them nothing is sent. It
// refuses values that keyturn does not support.
func wantsTracing(getenv func(string) string) (bool, error) {
	exporter := getenv("OTEL_TRACES_EXPORTER")
	if strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") || exporter == "none" {
		return false, nil
	}
	asked := exporter == "otlp"
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		u, err := url.Parse(getenv(name))
		if err != nil ||
			getenv(name) != "" && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return false, fmt.Errorf("%s is not a URL such as http://localhost:4318", name)
		}
		asked = asked || getenv(name) != ""
	}
	switch protocol := cmp.Or(getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), getenv("OTEL_EXPORTER_OTLP_PROTOCOL"),
		"http/protobuf"); {
	case !asked && exporter == "":
		return false, nil
	case exporter != "" && exporter != "otlp":
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER: %q is neither otlp nor none", exporter)
	case protocol != "http/protobuf":
		return false, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: %q is not http/protobuf", protocol)
	}
	return true, nil
}

// tracing starts to send traces by OTLP over HTTP if the environment asks for it. The variables OTEL_* set endpoint,
// headers, sampler and service name. Otherwise the tracer is nil. stop sends the remaining traces.
func tracing(
	ctx context.Context,
	getenv func(string) string,
	log *slog.Logger,
) (tracer trace.Tracer, stop func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	wanted, err := wantsTracing(getenv)
	if err != nil {
		return nil, nothing, &config.Error{Problems: []error{err}}
	}
	if !wanted {
		return nil, nothing, nil
	}
	otel.SetLogger(logr.FromSlogHandler(log.Handler())) // by default it writes to standard error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces were not sent", "error", err.Error())
	}))
	client, err := newOTLPClient(getenv, log)
	if err != nil {
		return nil, nothing, fmt.Errorf("tracing: %w", err)
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, nothing, fmt.Errorf("tracing: %w", err)
	}
	version := server.Version().Version
	about, err := resource.New(
		ctx,
		resource.WithAttributes(
			attribute.String("service.name", "keyturn"),
			attribute.String("service.version", version),
		),
		resource.WithFromEnv(),
		resource.WithTelemetrySDK(),
	)
	if err != nil {
		return nil, nothing, fmt.Errorf("tracing: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return provider.Tracer("github.com/keyturn/keyturn"), provider.Shutdown, nil
}
