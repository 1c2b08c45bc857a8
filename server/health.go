package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// check is one thing that a server needs to be able to serve. Its advice is for the log: a stranger gets to know no more than its name.
type check struct {
	name string
	run  func(context.Context) error
}

func (s *Server) checks() []check {
	return []check{
		{"serving", func(context.Context) error {
			if s.stopping.Load() {
				return errors.New("stopping")
			}
			return nil
		}},
		{"database", s.databaseServes},
		{"schema", func(ctx context.Context) error {
			status, err := s.db.SchemaStatus(ctx)
			if err == nil && status.Pending > 0 {
				err = errors.New("migrations are pending")
			}
			return err
		}},
		{"keys", func(context.Context) error { return s.ring.Healthy() }},
		{"clock", s.clockAgrees},
	}
}

func (s *Server) databaseServes(ctx context.Context) error {
	if s.older.Load() {
		return errOlder
	}
	return s.db.Ping(ctx)
}

// livez tells that the process answers; it asks nothing else.
func livez(w *exchange, r *http.Request) {
	text := "ok"
	if r.URL.Query().Has("verbose") {
		text = "process ok\nok"
	}
	plain(w, http.StatusOK, text)
}

// ready is why this replica cannot serve; nil if it can.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := s.patience(ctx)
	defer cancel()
	for _, c := range s.checks() {
		if err := c.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// readyz tells whether this replica can serve.
func (s *Server) readyz(w *exchange, r *http.Request) {
	status, verdict := http.StatusOK, "ok"
	var lines []string
	ctx, cancel := s.patience(r.Context()) // for all of them: whoever asks does not wait for long
	defer cancel()
	for _, c := range s.checks() {
		if err := c.run(ctx); err != nil {
			s.log.Warn("not ready", "check", c.name, "error", err.Error())
			status, verdict = http.StatusServiceUnavailable, "not ready"
			lines = append(lines, c.name+" failed")
			continue
		}
		lines = append(lines, c.name+" ok")
	}
	if !r.URL.Query().Has("verbose") {
		lines = nil
	}
	plain(w, status, strings.Join(append(lines, verdict), "\n"))
}
