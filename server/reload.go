package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
)

// Reload tells a running server when and how to read its configuration again.
type Reload struct {
	Asked <-chan os.Signal                            // each signal asks for a reload
	Read  func(running config.Config) (Reread, error) // gets the current configuration; the error may be *config.Error
}

// Reread is a configuration that was read again.
type Reread struct {
	config.Config                  // the new settings: see [config.Config.Reloaded]
	Later         []string         // keys of changed settings that need a restart
	Warnings      []config.Warning // warnings about the configuration as it was read
}

// reloads reads the configuration again at each signal, until the context ends. An invalid one changes nothing.
func (s *Server) reloads(ctx context.Context, f *listeners, o Options) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.Reload.Asked:
		}
		c, err := o.Reload.Read(*s.config())
		if err == nil {
			err = s.reload(ctx, f, o, c)
		}
		s.tellReload(err)
	}
}

// tellReload logs and counts the outcome of a reload.
func (s *Server) tellReload(err error) {
	var bad *config.Error
	switch {
	case err == nil:
		s.log.Info("the configuration was read again", "event", "config.reload", "outcome", "ok")
	case errors.As(err, &bad):
		for _, problem := range bad.Problems {
			s.log.Error("the configuration stays as it was",
				"event", "config.reload", "outcome", "failed", "problem", problem.Error())
		}
	default:
		s.log.Error("the configuration stays as it was",
			"event", "config.reload", "outcome", "failed", "error", err.Error())
	}
	outcome, ok := outcomeOK, 1.0
	if err != nil {
		outcome, ok = outcomeFailed, 0
	}
	s.metrics.reloads.WithLabelValues(outcome).Inc()
	s.metrics.reloaded.Set(ok)
}

// reload applies a configuration, and logs which settings need a restart.
func (s *Server) reload(ctx context.Context, f *listeners, o Options, c Reread) error {
	_, err := c.Certificate()
	_, e := c.AdminCertificate()
	if err = errors.Join(err, e); err != nil {
		return &config.Error{Problems: []error{err}}
	}
	changed := schedule(*s.config()) != schedule(c.Config)
	if err := s.ring.ScheduleRecord().Write(ctx, schedule(c.Config)); err != nil && changed {
		return err // otherwise commands would use other settings than the server
	}
	warn(s.log, c.Warnings)
	if changes := s.config().Changes(c.Config); len(changes) > 0 { // at the present level, which may be one of them
		s.log.Info("settings change", "event", "config.reload", "changed", strings.Join(changes, "; "))
	}
	s.follow(c.Config)
	if err := f.readCertificates(c.Config); err != nil {
		return err
	}
	if level, err := c.Level(); err == nil && o.Level != nil {
		o.Level.Set(level)
	}
	f.public.set(s.PublicHandler())
	if len(c.Later) > 0 {
		s.log.Warn("some changed settings need a restart",
			"event", "config.reload", "settings", strings.Join(c.Later, " "))
	}
	return nil
}

// schedule returns the settings of this server that commands need.
func schedule(c config.Config) keys.Schedule {
	console := ""
	if urls := c.ConsoleURLs(); len(urls) > 0 {
		console = urls[0]
	}
	return keys.Schedule{
		AccessTTL:           keys.Span(c.AccessTTL),
		RefreshMaxTTL:       keys.Span(c.RefreshMaxTTL),
		KeyRotationInterval: keys.Span(c.KeyRotationInterval),
		KeyPublishLead:      keys.Span(c.KeyPublishLead),
		JWKSMaxAge:          keys.Span(c.JWKSMaxAge),
		KeyBits:             c.KeyBits,
		Issuer:              c.Issuer,
		StatusList:          c.StatusList,
		JWKSObserve:         c.JWKSObserve,
		WaitsFor:            c.KeyRotationWaitsFor,
		Patience:            keys.Span(c.KeyRotationPatience),
		AdminURL:            console,
	}
}

// warn logs the warnings about a configuration.
func warn(log *slog.Logger, warnings []config.Warning) {
	for _, w := range warnings {
		log.Warn("the configuration should be changed", "event", "config", "warning", w.String())
	}
}

// follow replaces the configuration.
func (s *Server) follow(c config.Config) {
	s.settings.Store(&c)
	s.ring.Configure(keys.Config(c.Keys()))
	s.failures.change(c.LoginFailures, c.LoginWindow, s.now())
}
