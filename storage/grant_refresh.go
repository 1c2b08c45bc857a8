package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// RefreshOutcome is the outcome of a refresh.
type RefreshOutcome string

// The outcomes of a refresh.
const (
	RefreshFresh RefreshOutcome = "fresh"      // the newest token: rotated
	RefreshAhead RefreshOutcome = "ahead"      // newer than the row, as after lost commits: rotated, audited
	RefreshRetry RefreshOutcome = "retry"      // just replaced, in the window, successor unused: nothing changed
	RefreshLate  RefreshOutcome = "late-retry" // the same, later, once per LateRetry: only LateRetryAt changed
	RefreshReuse RefreshOutcome = "reuse"      // any other replaced token: the grant is ended
	RefreshKept  RefreshOutcome = "kept"       // the token of a client without rotation: it stays
	RefreshDead  RefreshOutcome = "dead"       // no live grant of this client and family: nothing changed

	RefreshTooLarge RefreshOutcome = "too_large" // fresh or ahead, but roles exceed MaxRoles: nothing changed
)

// Refresh is one presentation of a refresh token whose MAC is valid.
type Refresh struct {
	ID          GrantID
	Generation  int64 // of the token
	FamilyHash  string
	Caller      Caller
	KID         string        // the key that will sign the access token
	IdleTTL     time.Duration // how long the successor may stay unused
	RetryWindow time.Duration // 0: any second use is reuse
	LateRetry   time.Duration // minimum time between two retries after the window; 0: never
	Arrived     time.Time     // of the request, decides whether it is in the window; zero: now
	Outages     []Span        // of the database, in order: they extend the window
	Unsure      bool          // the clock of this replica is in doubt: end nothing
	Doubt       time.Duration // how far the clock may be fast: what expired within it may still be valid
	Keep        bool          // the client's refresh tokens do not rotate
	MaxRoles    int64         // rotate only if users.roles, as JSON text, has at most so many bytes; 0: no bound
}

// Span is a period of time.
type Span struct{ From, To time.Time }

// retryUntil returns the end of the window that a rotation or late retry has opened.
func (r Refresh) retryUntil(rotated time.Time) time.Time {
	until := rotated.Add(r.RetryWindow)
	for _, outage := range r.Outages {
		if r.RetryWindow > 0 && rotated.Before(outage.To) && outage.From.Before(until) &&
			outage.To.Add(r.RetryWindow).After(until) {
			until = outage.To.Add(r.RetryWindow)
		}
	}
	return until
}

// Rotate rotates the grant. For the newest token, this is one autocommit statement, which checks everything that can
// have changed since the token was issued. Only if it changes nothing, the row is read to find out why. If a driver
// sends the statement again after a cut connection, the second run finds the row of the first, and the outcome is a
// retry: the same successor.
//
// The returned state is that after the refresh. The successor has its Generation, and was first issued at its
// RotatedAt.
func (g Grants) Rotate(ctx context.Context, r Refresh, now time.Time) (GrantState, RefreshOutcome, error) {
	s, err := GrantState{}, error(nil)
	if !r.Keep {
		if s, err = g.rotateFresh(ctx, r, now); err == nil {
			return s, RefreshFresh, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return GrantState{}, "", err
		}
	}
	if r.Caller.Revision != 0 {
		return GrantState{}, "", ErrClientChanged
	}
	// The connection that writes reads the row: on SQLite, the snapshot of a reader may be older.
	err = g.db.engine.ChangeReturning(ctx, "refresh", &s, grantStateQuery+` WHERE g.id = $1`, r.ID)
	if errors.Is(err, ErrNotFound) {
		return GrantState{}, RefreshDead, nil
	}
	if err != nil {
		return GrantState{}, "", err
	}
	outcome := r.Classify(s, now)
	if (outcome == RefreshFresh || outcome == RefreshAhead) && s.RolesSize > r.maxRoles() {
		return s, RefreshTooLarge, nil
	}
	switch outcome {
	case RefreshFresh:
		if r.Keep {
			return g.renew(ctx, r, s, now)
		}
		// The row changed between the two statements, as after a step of the clock. The client may try again.
		return GrantState{}, "", fmt.Errorf("refresh: %w: the grant changed meanwhile", ErrUnavailable)
	case RefreshDead:
		if r.Doubt > 0 && r.Classify(s, now.Add(-r.Doubt)) != RefreshDead {
			return GrantState{}, "", fmt.Errorf("refresh: %w: the time may be too late", ErrUnavailable)
		}
		return s, outcome, nil
	case RefreshAhead:
		return g.catchUp(ctx, r, now)
	case RefreshLate:
		return g.retryLate(ctx, r, s, now)
	case RefreshReuse:
		if r.Unsure {
			return GrantState{}, "", fmt.Errorf("refresh: %w: this server is not sure of the time", ErrUnavailable)
		}
		return s, outcome, g.endReused(ctx, r, s, now)
	default:
		return s, outcome, nil
	}
}

// Classify returns the outcome for a grant in the given state. It changes nothing.
func (r Refresh) Classify(s GrantState, now time.Time) RefreshOutcome {
	switch {
	case s.ClientID != r.Caller.ID || s.FamilyHash != r.FamilyHash || r.FamilyHash == "":
		return RefreshDead
	case !s.Live(now) || !now.Before(s.IdleExpiresAt.Time) || s.ExpiresAt.Before(expiresAfter(now).Time):
		return RefreshDead
	case s.Generation == r.Generation:
		return RefreshFresh
	case s.Generation < r.Generation:
		return RefreshAhead
	case s.Generation > r.Generation+1, // the successor was used
		s.Kept():
		return RefreshReuse
	case r.inWindow(s.RotatedAt, now), s.LateRetryAt != nil && r.LateRetry > 0 && r.inWindow(*s.LateRetryAt, now):
		return RefreshRetry
	case r.LateRetry > 0 && (s.LateRetryAt == nil || !now.Before(s.LateRetryAt.Add(r.LateRetry))):
		return RefreshLate
	}
	return RefreshReuse
}

// inWindow reports whether the request arrived in the window that the given time has opened.
func (r Refresh) inWindow(opened Time, now time.Time) bool {
	if r.Arrived.IsZero() {
		return now.Before(r.retryUntil(opened.Time))
	}
	return r.Arrived.Before(r.retryUntil(opened.Time))
}

// expiresAfter returns the earliest expiry of a grant that can be refreshed now: its access token must live for at
// least a second, and states its expiry in whole seconds.
func expiresAfter(now time.Time) Time { return At(now.Truncate(time.Second).Add(time.Second)) }

const rotateReturning = ` RETURNING id, user_id, user_epoch, client_epoch, client_id, family_hash, generation, kid,
	scope, audience, created_at, rotated_at, expires_at, idle_expires_at, revoked_at, revoked_reason,
	status_list, status_index,
	(SELECT u.sub FROM users u WHERE u.id = user_id) AS sub,
	(SELECT u.username FROM users u WHERE u.id = user_id) AS username,
	(SELECT u.roles FROM users u WHERE u.id = user_id) AS roles`

const rotateSet = `UPDATE grants AS g SET generation = $1, rotated_at = $2,
	idle_expires_at = CASE WHEN g.expires_at < $3 THEN g.expires_at ELSE $3 END, kid = $4
	WHERE g.id = $5 AND g.family_hash = $6 AND g.client_id = $7 AND g.revoked_at IS NULL
	AND g.expires_at >= $9 AND g.idle_expires_at > $2
	AND EXISTS (SELECT 1 FROM users u WHERE u.id = g.user_id AND u.disabled_at IS NULL AND u.epoch = g.user_epoch
		AND LENGTH(u.roles) <= CAST($10 AS BIGINT))
	AND EXISTS (SELECT 1 FROM clients c WHERE c.id = g.client_id AND c.disabled_at IS NULL
		AND c.epoch = g.client_epoch AND CAST($11 AS BIGINT) IN (0, c.revision))`

func (r Refresh) rotateArgs(now time.Time) []any {
	return []any{
		r.Generation + 1,
		At(now),
		At(now.Add(r.IdleTTL)),
		r.KID,
		r.ID,
		r.FamilyHash,
		r.Caller.ID,
		r.Generation,
		expiresAfter(now),
		r.maxRoles(),
		r.Caller.Revision,
	}
}

func (r Refresh) maxRoles() int64 {
	if r.MaxRoles == 0 {
		return math.MaxInt64
	}
	return r.MaxRoles
}

// rotateFresh rotates for the newest token. ErrNotFound if it changes nothing. On PostgreSQL, callers who wait at the
// same moment share a statement, and with it the commit; SQLite groups all commits.
func (g Grants) rotateFresh(ctx context.Context, r Refresh, now time.Time) (GrantState, error) {
	if g.db.Kind() != Postgres {
		return g.rotateOne(ctx, rotation{r, now})
	}
	done, err := g.db.rotations.Ask(ctx, rotation{r, now})
	switch {
	case err != nil:
		return GrantState{}, err
	case done.err != nil:
		return GrantState{}, fmt.Errorf("refresh: %w", done.err)
	case done.state == nil: // locked, or another case than a fresh token
		return g.rotateOne(ctx, rotation{r, now})
	}
	return *done.state, nil
}

// rotateOne is the statement for one newest token. ErrNotFound if it changes nothing.
func (g Grants) rotateOne(ctx context.Context, r rotation) (s GrantState, err error) {
	return s, g.db.engine.ChangeReturning(
		ctx,
		"refresh",
		&s,
		rotateSet+` AND g.generation = $8`+rotateReturning,
		r.rotateArgs(r.now)...)
}

// renewals is how many times in an idle TTL the row of a grant without rotation is written.
const renewals = 10

// renewStatement moves the idle limit of a grant, and leaves the moment of its rotation, from which the retry window
// runs.
const renewStatement = `UPDATE grants AS g SET kept_at = $1, kid = $3,
	idle_expires_at = CASE WHEN g.expires_at < $2 THEN g.expires_at ELSE $2 END
	WHERE g.id = $4 AND g.family_hash = $5 AND g.client_id = $6 AND g.generation = $7 AND g.revoked_at IS NULL
	AND g.expires_at >= $8 AND g.idle_expires_at > $1
	AND EXISTS (SELECT 1 FROM users u WHERE u.id = g.user_id AND u.disabled_at IS NULL AND u.epoch = g.user_epoch)
	AND EXISTS (SELECT 1 FROM clients c WHERE c.id = g.client_id AND c.disabled_at IS NULL
		AND c.epoch = g.client_epoch)` + rotateReturning

// renew keeps the refresh token of a client without rotation. It writes the row at the first use, and later only if the
// key that signs has changed, or if the idle limit would move by more than a tenth: such clients may refresh at every
// call.
func (g Grants) renew(
	ctx context.Context, r Refresh, s GrantState, now time.Time,
) (GrantState, RefreshOutcome, error) {
	idle := now.Add(r.IdleTTL)
	if s.ExpiresAt.Before(idle) {
		idle = s.ExpiresAt.Time
	}
	if s.Kept() && s.KID == r.KID && idle.Sub(s.IdleExpiresAt.Time).Abs() <= r.IdleTTL/renewals {
		return s, RefreshKept, nil
	}
	var renewed GrantState
	err := g.db.engine.ChangeReturning(ctx, "renew", &renewed, renewStatement, At(now), At(now.Add(r.IdleTTL)), r.KID,
		r.ID, r.FamilyHash, r.Caller.ID, r.Generation, expiresAfter(now))
	if errors.Is(err, ErrNotFound) {
		return GrantState{}, "", fmt.Errorf("refresh: %w: the grant changed meanwhile", ErrUnavailable)
	}
	return renewed, RefreshKept, err
}

// catchUp rotates for a token that is newer than the row. Its MAC proves that keyturn issued it, so the database has
// lost its newest commits (failover, restored backup). It is not part of rotateFresh, because it must be audited.
func (g Grants) catchUp(ctx context.Context, r Refresh, now time.Time) (GrantState, RefreshOutcome, error) {
	var s GrantState
	args, outcome := r.rotateArgs(now), RefreshAhead
	if r.Keep {
		args[0], outcome = r.Generation, RefreshKept // the token stays
	}
	err := g.db.inTx(ctx, "refresh ahead", func(t *tx) error {
		if err := t.Get(&s, rotateSet+` AND g.generation < $8`+rotateReturning, args...); err != nil {
			return err
		}
		if r.Keep {
			if err := t.ChangeOne(`UPDATE grants SET kept_at = rotated_at WHERE id = $1`, r.ID); err != nil {
				return err
			}
		}
		return t.audit(
			Actor{Name: "client:" + r.Caller.ID},
			now,
			Event{"grant.ahead", r.ID.String(), map[string]any{"generation": r.Generation}},
		)
	})
	if errors.Is(err, ErrNotFound) {
		return GrantState{}, "", fmt.Errorf("refresh: %w: the grant changed meanwhile", ErrUnavailable)
	}
	return s, outcome, err
}

// retryLate accepts a retry after the window, as phone networks cause them, with the same successor, once per
// LateRetry. The statement checks that it is the first. If not, another came at the same moment, and has reopened the
// window.
func (g Grants) retryLate(
	ctx context.Context, r Refresh, s GrantState, now time.Time,
) (GrantState, RefreshOutcome, error) {
	err := g.db.inTx(ctx, "late retry", func(t *tx) error {
		if err := t.ChangeOne(`UPDATE grants SET late_retry_at = $1 WHERE id = $2 AND family_hash = $3
			AND generation = $4 AND revoked_at IS NULL AND (late_retry_at IS NULL OR late_retry_at <= $5)`,
			At(now), r.ID, r.FamilyHash, r.Generation+1, At(now.Add(-r.LateRetry))); err != nil {
			return err
		}
		return t.audit(Actor{Name: "client:" + r.Caller.ID}, now, Event{"grant.late-retry", r.ID.String(),
			map[string]any{"presented": r.Generation, "rotated_at": s.RotatedAt}})
	})
	if errors.Is(err, ErrNotFound) {
		return GrantState{}, "", fmt.Errorf("refresh: %w: the grant changed meanwhile", ErrUnavailable)
	}
	return s, RefreshLate, err
}

// endReused ends the grant of a token that was used twice, unless the row has changed since. It continues if the client
// stops waiting.
func (g Grants) endReused(ctx context.Context, r Refresh, s GrantState, now time.Time) error {
	ctx = context.WithoutCancel(ctx)
	return g.db.inTx(ctx, "refresh reuse", func(t *tx) error {
		n, err := t.endGrants(now, `UPDATE grants SET revoked_at = $1, revoked_reason = 'reuse'
			WHERE id = $2 AND family_hash = $3 AND generation > $4 AND revoked_at IS
			NULL`, At(now), r.ID, r.FamilyHash, r.Generation)
		if err != nil || n == 0 {
			return err
		}
		return t.audit(Actor{Name: "client:" + r.Caller.ID}, now, Event{"grant.reuse", r.ID.String(),
			map[string]any{"presented": r.Generation, "current": s.Generation}})
	})
}
