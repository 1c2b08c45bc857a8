package server

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// forgeries reports access tokens that a signing key has signed although no server made them: the key has leaked. The
// first of each key and hour are audit records; a flood of others is only counted.
type forgeries struct {
	*core
	server  string // id of this replica
	mu      sync.Mutex
	tallies map[forgeryHour]*forgeryTally // mu guards it; a few, as there are few keys
	totals  map[string]int64              // by kid, since the start; mu guards it
}

// forgeryHour is an hour of one key.
type forgeryHour struct {
	kid  string
	hour int64
}

// forgeryTally counts the forged tokens of an hour.
type forgeryTally struct {
	known  int64             // in the database, as far as this replica knows
	listed []storage.Forgery // not written yet
	more   int64             // not written yet, and not to be listed
}

func newForgeries(c *core, server string) *forgeries {
	return &forgeries{core: c, server: server, tallies: map[forgeryHour]*forgeryTally{}, totals: map[string]int64{}}
}

// report reports a token that was presented and that no server made.
func (s *forgeries) report(req *request, v *verified) {
	f := storage.Forgery{
		KID:      v.kid,
		Sub:      v.claims.Subject,
		ClientID: v.claims.ClientID,
		Audience: v.claims.Audience,
		IssuedAt: v.claims.IssuedAt,
		Expires:  v.claims.Expires,
		Token:    hex.EncodeToString(v.digest[:]),
		By:       storage.Actor{Name: "client:" + req.client.ID},
		Address:  req.from,
		Server:   s.server,
		At:       req.at,
	}
	req.later(func() {
		ctx, cancel := s.databaseTimeout(context.WithoutCancel(req.base))
		defer cancel()
		s.note(ctx, f)
	})
}

// note counts a forged token, and writes it to the audit trail if the hour has room.
func (s *forgeries) note(ctx context.Context, f storage.Forgery) {
	if !s.count(f) {
		return
	}
	s.alarm(f.KID,
		slog.String("sub", f.Sub),
		slog.String("client_id", f.ClientID),
		slog.String("by", f.By.Name),
		slog.String("address", f.Address))
	s.flush(ctx)
}

// alarm logs that a key has leaked.
func (s *forgeries) alarm(kid string, facts ...any) {
	event := []any{slog.String("event", storage.AuditForgery), slog.String("kid", kid)}
	advice := slog.String("advice", "keyturn keys revoke "+kid)
	s.log.Error("a signing key has signed a token that no server made: the key has leaked",
		append(append(event, facts...), advice)...)
}

// count adds a forged token to its hour, and reports whether it is to be listed.
func (s *forgeries) count(f storage.Forgery) (listed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.totals[f.KID]++
	t := s.tally(forgeryHour{f.KID, storage.HourOf(f.At)})
	if t.known+int64(len(t.listed)) >= storage.MaxForgeryRecords {
		t.more++
		return false
	}
	t.listed = append(t.listed, f)
	return true
}

// tally returns the tally of an hour; mu is locked.
func (s *forgeries) tally(hour forgeryHour) *forgeryTally {
	t := s.tallies[hour]
	if t == nil {
		t = &forgeryTally{}
		s.tallies[hour] = t
	}
	return t
}

// presented returns how many forged tokens of a key have been presented to this replica.
func (s *forgeries) presented(kid string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.totals[kid]
}

// flush writes what is not written yet. What fails is kept for the next call.
func (s *forgeries) flush(ctx context.Context) {
	for hour, t := range s.take() {
		seen, err := s.db.Forgeries().Note(ctx, hour.kid, hour.hour, t.listed, t.more)
		s.settle(hour, t, seen, err)
		if err != nil && !errors.Is(err, storage.ErrUnavailable) {
			s.log.Error("a forged token could not be recorded", "kid", hour.kid, "error", err.Error())
		}
	}
}

// take removes what is not written yet from the tallies, and returns it. It forgets hours that are over.
func (s *forgeries) take() map[forgeryHour]forgeryTally {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := map[forgeryHour]forgeryTally{}
	for hour, t := range s.tallies {
		switch {
		case len(t.listed) > 0, t.more > 0:
			taken[hour] = *t
			t.known += int64(len(t.listed))
			t.listed, t.more = nil, 0
		case hour.hour < storage.HourOf(s.now())-1:
			delete(s.tallies, hour)
		}
	}
	return taken
}

// settle notes what the database counts, or puts back what could not be written.
func (s *forgeries) settle(hour forgeryHour, taken forgeryTally, seen int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tally(hour)
	if err == nil {
		t.known = max(t.known, seen)
		return
	}
	t.known -= int64(len(taken.listed))
	t.listed = append(taken.listed, t.listed...)
	t.more += taken.more
}

// look writes what is left over, and revokes keys that have signed forged tokens, if the configuration says so. It does
// so within the time limit of a request.
func (s *forgeries) look(ctx context.Context) {
	ctx, cancel := s.databaseTimeout(ctx)
	defer cancel()
	s.flush(ctx)
	for _, kid := range s.seen() {
		if err := s.revoke(ctx, kid); err != nil && !errors.Is(err, storage.ErrUnavailable) {
			s.log.Error("a key that has leaked could not be revoked", "kid", kid, "error", err.Error())
		}
	}
}

// seen returns the kids whose forged tokens this replica has seen, or has read of in an intact audit record.
func (s *forgeries) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.totals))
}

// heed logs a record of a forged token, unless this replica has logged it. It checks that keyturn wrote the record:
// whoever can write the table must not make servers revoke a key.
func (s *forgeries) heed(r storage.AuditRecord) {
	var details struct {
		Server string `json:"server"`
	}
	if err := json.Unmarshal(r.Details, &details); err == nil && details.Server == s.server {
		return
	}
	s.alarm(r.Target,
		slog.Int64("seq", r.Seq),
		slog.String("by", r.Actor),
		slog.String("details", string(r.Details)))
	if !s.db.Audit().Intact(r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.totals[r.Target]
	if details.Server == "" { // a command saw the token, and has no metrics
		n++
	}
	s.totals[r.Target] = n
}

// revoke revokes a key that has signed a forged token, once, if the configuration says so.
func (s *forgeries) revoke(ctx context.Context, kid string) error {
	if s.config().OnForgery != config.OnForgeryRevoke || s.ring.Trusts(kid) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	by := storage.Actor{Name: keyturnActor, Reason: "it has signed a token that no server made (on_forgery)"}
	done, err := s.ring.LifeCycle().Revoke(ctx, by, keys.Leak{KID: kid})
	if errors.Is(err, storage.ErrNotFound) || done.Already {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.ring.Anchor(s.place.AnchorFile).Note(ctx, true); err != nil {
		s.log.Error("the anchor could not be kept", "error", err.Error())
	}
	return nil
}

// revokeTimeout is the time limit of a revocation. It makes a key, which can take seconds.
const revokeTimeout = time.Minute

// concludeForgeries records the hours with more forged tokens than are listed, and deletes old counters.
func (s *core) concludeForgeries(ctx context.Context, now time.Time) error {
	if err := s.db.Forgeries().Conclude(ctx, storage.Actor{Name: keyturnActor}, now); err != nil {
		return err
	}
	return s.db.Forgeries().Clean(ctx, now.Add(-keepStale))
}
