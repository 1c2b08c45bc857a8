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

// health is what a server knows of its own fitness.
type health struct {
	*core
	stopping    atomic.Bool
	older       atomic.Bool // the database has gone back to an older state
	replaced    atomic.Bool // the file of the database is not the one that was opened
	readiness   atomic.Pointer[readiness]
	looking     atomic.Pointer[time.Time] // since when a look is under way
	toldUnready time.Duration             // when the log was last told; the watch loop alone uses it
}

// check is one thing that a server needs to be able to serve. Its error is for the log: a stranger learns no more than
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

func (s *health) databaseServes(ctx context.Context) error {
	if s.older.Load() {
		return errOlder
	}
	return s.db.Serves(ctx)
}

// finding is what a check found: nil if all is well.
type finding struct {
	name string
	err  error
}

// readiness is what all checks found, and when.
type readiness struct {
	findings []finding
	at       time.Duration // by the time that passes
}

const (
	// watchInterval is how often a replica looks whether it can serve: readyz tells what the last look has shown.
	watchInterval = time.Second
	// readinessAge is how old a look may be. A replica that does not even look is not ready.
	readinessAge = 5 * time.Second
	// readinessWarning is how often the log tells of a replica that is not ready.
	readinessWarning = time.Minute
)

// watch looks each second whether this replica can serve, until the context ends.
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

// look runs all checks, together within the time of one request, and keeps what they find.
func (s *health) look(ctx context.Context) {
	ctx, cancel := s.databaseTimeout(ctx)
	defer cancel()
	if err := s.observeClock(ctx); err != nil && !errors.Is(err, storage.ErrUnavailable) {
		s.log.Warn("the time of the database is not known", "error", err.Error())
	}
	s.replaced.Store(s.db.Replaced() != nil)
	begun := s.now()
	s.looking.Store(&begun)
	defer s.looking.Store(nil)
	r, before := &readiness{}, s.readiness.Load()
	for i, c := range s.checks() {
		f := finding{c.name, c.run(ctx)}
		if errors.Is(f.err, storage.ErrBusy) && before != nil {
			f = before.findings[i] // too many requests say nothing about the database
		}
		r.findings = append(r.findings, f)
	}
	r.at = s.elapsed()
	s.noteOutage(begun, r)
	s.readiness.Store(r)
	s.tellReadiness(before, r)
}

// slowLook is how long a look may take for the database to be there.
const slowLook = 2 * time.Second

// noteSlowLook notes that the database is away or locked at this moment: a look at it has had no answer for a while.
func (s *health) noteSlowLook() {
	if begun, now := s.looking.Load(), s.now(); begun != nil && now.Sub(*begun) > slowLook {
		s.ring.Away(*begun, now)
	}
}

// noteOutage notes a time for which the database was away or locked: whoever gave up meanwhile was not answered.
func (s *health) noteOutage(begun time.Time, r *readiness) {
	now := s.now()
	if errors.Is(r.findings[0].err, storage.ErrUnavailable) || now.Sub(begun) > slowLook {
		s.ring.Away(begun, now)
	}
}

// tellReadiness tells the log what is not well: when it begins, and then once a minute.
func (s *health) tellReadiness(before, now *readiness) {
	for i, f := range now.findings {
		if f.err == nil {
			continue
		}
		begins := before == nil || before.findings[i].err == nil
		if !begins && now.at-s.toldUnready < readinessWarning {
			continue
		}
		s.toldUnready = now.at
		s.log.Warn("not ready", "check", f.name, "error", f.err.Error())
	}
}

// found is what the last look has shown, with what is known without one.
func (s *health) found() []finding {
	serving := finding{name: "serving"}
	if s.stopping.Load() {
		serving.err = errors.New("stopping")
	}
	r := s.readiness.Load()
	if r == nil || s.elapsed()-r.at > readinessAge {
		return []finding{serving, {"look", errors.New("nothing has been looked at for a while")}}
	}
	return append([]finding{serving}, r.findings...)
}

// ready is why this replica cannot serve; nil if it can.
func (s *health) ready() error {
	for _, f := range s.found() {
		if f.err != nil {
			return fmt.Errorf("%s: %w", f.name, f.err)
		}
	}
	return nil
}

// livez tells that the process answers; it asks nothing else.
func livez(w *response, r *http.Request) {
	text := "ok"
	if r.URL.Query().Has("verbose") {
		text = "process ok\nok"
	}
	plain(w, http.StatusOK, text)
}

// readyz tells whether this replica can serve, from what the last second has shown: it asks nobody. Strangers learn no
// more than the names of the checks.
func (s *health) readyz(w *response, r *http.Request) {
	s.tellReady(w, r, func(finding) string { return "" })
}

// adminReadyz is readyz with the reasons.
func (s *health) adminReadyz(w *response, r *http.Request) {
	s.tellReady(w, r, func(f finding) string { return ": " + f.err.Error() })
}

func (s *health) tellReady(w *response, r *http.Request, why func(finding) string) {
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

// unfit is why this replica must answer nobody by its database; nil if it may.
func (s *health) unfit() error {
	switch {
	case s.older.Load():
		return errOlder
	case s.replaced.Load():
		return storage.ErrReplaced
	}
	return s.clock.Known()
}
