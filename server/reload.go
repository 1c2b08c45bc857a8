package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"time"
)

// Reload is how a running server gets to know that its configuration is to be read again.
type Reload struct {
	Asked <-chan os.Signal
	Read  func() (Config, error)
}

// reloads reads the configuration again whenever it is asked to, until the context ends. A bad one changes nothing.
func (s *Server) reloads(ctx context.Context, f *front, o Options) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.Reload.Asked:
		}
		c, err := o.Reload.Read()
		if err == nil {
			err = s.reload(ctx, f, o, c)
		}
		s.tellReload(err)
	}
}

func (s *Server) tellReload(err error) {
	var bad *ConfigError
	switch {
	case err == nil:
		s.log.Info("the configuration was read again", "event", "config.reload", "outcome", "ok")
	case errors.As(err, &bad):
		for _, problem := range bad.Problems {
			s.log.Error(
				"the configuration stays as it was",
				"event",
				"config.reload",
				"outcome",
				"failed",
				"problem",
				problem.Error(),
			)
		}
	default:
		s.log.Error("the configuration stays as it was", "event", "config.reload", "outcome", "failed", "error", err.Error())
	}
	outcome, ok := "ok", 1.0
	if err != nil {
		outcome, ok = "failed", 0
	}
	s.metrics.reloads.WithLabelValues(outcome).Inc()
	s.metrics.reloaded.Set(ok)
}

// reload puts into force what may change while the server runs, and says what would need a restart.
func (s *Server) reload(ctx context.Context, f *front, o Options, c Config) error {
	if problems := c.Problems(true); problems != nil {
		return &ConfigError{problems}
	}
	mixed, later := s.config().reloaded(c)
	if problems := mixed.Problems(true); problems != nil {
		return &ConfigError{problems}
	}
	certificate, err := mixed.certificate()
	if err != nil {
		return &ConfigError{[]error{err}}
	}
	changed := s.config().schedule() != mixed.schedule()
	if err := s.recordSchedule(ctx, mixed); err != nil && changed { // commands would go by other settings than the server
		return err
	}
	c.warn(s.log)
	s.follow(mixed)
	f.certificate.Store(certificate)
	if level, err := mixed.logLevel(); err == nil && o.Level != nil {
		o.Level.Set(level)
	}
	f.public.set(s.Public())
	if len(later) > 0 {
		s.log.Warn("some settings change with a restart only", "event", "config.reload", "settings", strings.Join(later, " "))
	}
	return nil
}

// warn tells the log of the warnings of a configuration that is taken.
func (c Config) warn(log *slog.Logger) {
	for _, w := range c.Warnings() {
		log.Warn("the configuration should be changed", "event", "config", "warning", w.String())
	}
}

// follow goes by another configuration from now on.
func (s *Server) follow(c Config) {
	s.settings.Store(&c)
	s.ring.Follow(c.Keys())
	s.clientFailures.change(c.LoginFailures, time.Duration(c.LoginWindow), s.now())
}

// reloaded is c with all that may change while a server runs as it is in next, and the keys of what differs otherwise.
func (c Config) reloaded(next Config) (mixed Config, later []string) {
	mixed = c
	to, from := reflect.ValueOf(&mixed).Elem(), reflect.ValueOf(next)
	for i := range to.NumField() {
		tag := to.Type().Field(i).Tag
		switch {
		case reflect.DeepEqual(to.Field(i).Interface(), from.Field(i).Interface()):
		case tag.Get("reload") == "true":
			to.Field(i).Set(from.Field(i))
		default:
			later = append(later, tag.Get("key"))
		}
	}
	if (c.TLSCertFile == "") != (next.TLSCertFile == "") { // a listener does not change its protocol
		mixed.TLSCertFile, mixed.TLSKeyFile = c.TLSCertFile, c.TLSKeyFile
		later = append(later, "tls_cert_file")
	}
	return mixed, later
}
