package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// health knows whether this replica can serve.
type health struct {
	*core
	stopping      atomic.Bool
	older         atomic.Bool // the database has gone back to an older state
	replaced      atomic.Bool // another file has replaced the opened database
	readiness     atomic.Pointer[readiness]
	looking       atomic.Pointer[time.Time] // start of the running look; nil: none runs
	unreadyLogged time.Duration             // elapsed time of the last log line; only the watch loop uses it
}

// check is one condition for serving. Its error is for the log and the admin listener. The public listener shows only
// its name.
type check struct {
	name string
	run  func(context.Context) error
}

func (s *health) checks() []check {
	return []check{
		{"database", s.databaseServes},
		{"schema", s.db.CheckSchema},
		{"keys", func(context.Context) error { return s.ring.Healthy() }},
		{"clock", func(context.Context) error { return s.clock.Sure() }},
	}
}

// databaseServes reports why the database cannot be used.
func (s *health) databaseServes(ctx context.Context) error {
	if s.older.Load() {
		return errOlder
	}
	return s.db.Serves(ctx)
}

// finding is the result of a check. err is nil if the check passed.
type finding struct {
	name string
	err  error
}

// readiness holds the results of all checks.
type readiness struct {
	findings []finding
	at       time.Duration // elapsed time since the start
}

const (
	// watchInterval is the time between two looks. readyz reports the result of the last one.
	watchInterval = time.Second
	// readinessAge is the age at which the last look is too old, and the replica not ready.
	readinessAge = 5 * time.Second
	// readinessWarning is the shortest time between two log lines about the same failure.
	readinessWarning = time.Minute
)

// watch looks once a second, until the context ends.
func (s *health) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		s.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look runs all checks within the time limit of one request, and stores their results.
func (s *health) look(ctx context.Context) {
	ctx, cancel := s.databaseTimeout(ctx)
	defer cancel()
	if err := s.observeClock(ctx); err != nil && !errors.Is(err, storage.ErrUnavailable) {
		s.log.Warn("the time of the database could not be read", "error", err.Error())
	}
	s.replaced.Store(s.db.Replaced() != nil)
	begun := s.now()
	s.looking.Store(&begun)
	defer s.looking.Store(nil)
	r, before := &readiness{}, s.readiness.Load()
	for i, c := range s.checks() {
		f := finding{c.name, c.run(ctx)}
		if errors.Is(f.err, storage.ErrBusy) && before != nil {
			f = before.findings[i] // this replica is overloaded, which shows nothing about the database
		}
		r.findings = append(r.findings, f)
	}
	r.at = s.elapsed()
	s.noteOutage(begun, r)
	s.readiness.Store(r)
	s.logReadiness(before, r)
}

// slowLook is the duration of a look after which the database counts as unavailable.
const slowLook = 2 * time.Second

// noteSlowLook records an outage of the database if the running look has had no answer for a while.
func (s *health) noteSlowLook() {
	if begun, now := s.looking.Load(), s.now(); begun != nil && now.Sub(*begun) > slowLook {
		s.ring.NoteOutage(*begun, now)
	}
}

// noteOutage records an outage of the database. Clients that gave up during it had no answer.
func (s *health) noteOutage(begun time.Time, r *readiness) {
	now := s.now()
	if errors.Is(r.findings[0].err, storage.ErrUnavailable) || now.Sub(begun) > slowLook {
		s.ring.NoteOutage(begun, now)
	}
}

// logReadiness logs failed checks: at once when a failure begins, and then once a minute.
func (s *health) logReadiness(before, now *readiness) {
	for i, f := range now.findings {
		if f.err == nil {
			continue
		}
		begins := before == nil || before.findings[i].err == nil
		if !begins && now.at-s.unreadyLogged < readinessWarning {
			continue
		}
		s.unreadyLogged = now.at
		s.log.Warn("not ready", "check", f.name, "error", f.err.Error())
	}
}

// found returns the results of the last look, after the state of the server itself.
func (s *health) found() []finding {
	serving := finding{name: "serving"}
	if s.stopping.Load() {
		serving.err = errors.New("stopping")
	}
	last := s.readiness.Load()
	if last == nil || s.elapsed()-last.at > readinessAge {
		return []finding{serving, {"look", errors.New("the last look is too old")}}
	}
	return append([]finding{serving}, last.findings...)
}

// ready returns nil if this replica can serve, or the first reason why not.
func (s *health) ready() error {
	for _, f := range s.found() {
		if f.err != nil {
			return fmt.Errorf("%s: %w", f.name, f.err)
		}
	}
	return nil
}

// livez answers ok while the process runs. It checks nothing.
func livez(w *response, r *http.Request) {
	text := "ok"
	if r.URL.Query().Has("verbose") {
		text = "process ok\nok"
	}
	plain(w, http.StatusOK, text)
}

// readyz reports whether this replica can serve. It answers from memory, and shows only the names of the checks.
func (s *health) readyz(w *response, r *http.Request) {
	s.writeReadiness(w, r, func(finding) string { return "" })
}

// adminReadyz is readyz with the errors of the checks.
func (s *health) adminReadyz(w *response, r *http.Request) {
	s.writeReadiness(w, r, func(f finding) string { return ": " + f.err.Error() })
}

// writeReadiness writes ok or not ready, with one line for each check if the query has verbose.
func (s *health) writeReadiness(w *response, r *http.Request, why func(finding) string) {
	status, verdict := http.StatusOK, "ok"
	var lines []string
	for _, f := range s.found() {
		if f.err != nil {
			status, verdict = http.StatusServiceUnavailable, "not ready"
			lines = append(lines, f.name+" failed"+why(f))
			continue
		}
		lines = append(lines, f.name+" ok")
	}
	if !r.URL.Query().Has("verbose") {
		lines = nil
	}
	plain(w, status, strings.Join(append(lines, verdict), "\n"))
}

// checkFit returns an error if this replica must not use its database or its clock for any answer.
func (s *health) checkFit() error {
	switch {
	case s.older.Load():
		return errOlder
	case s.replaced.Load():
		return storage.ErrReplaced
	}
	return s.clock.Known()
}
