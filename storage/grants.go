package storage

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// GrantID is the id of a grant: the hour of its expiry (20 bits), a shard (6 bits, always zero), random (37 bits). Rows
// that expire together are adjacent, so that clean-up is a range of the primary key.
type GrantID int64

const (
	grantRandomBits = 37
	grantHourShift  = grantRandomBits + 6
)

// NewGrantID returns a new id for a grant that expires at the given time.
func NewGrantID(expires time.Time) GrantID {
	var b [8]byte
	rand.Read(b[:])
	random := int64(binary.BigEndian.Uint64(b[:]) & (1<<grantRandomBits - 1))
	return GrantID(expires.Unix()/3600<<grantHourShift | random)
}

// ParseGrantID parses the text form, which is the sid of tokens: 16 hexadecimal digits.
func ParseGrantID(s string) (GrantID, error) {
	n, err := strconv.ParseInt(s, 16, 64)
	if err != nil || GrantID(n).String() != s {
		return 0, fmt.Errorf("grant id: 16 hexadecimal digits, not %q", s)
	}
	return GrantID(n), nil
}

// String returns the text form.
func (id GrantID) String() string { return fmt.Sprintf("%016x", int64(id)) }

// MarshalText returns the text form.
func (id GrantID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// Grants is the table of grants.
type Grants struct{ db *DB }

// Grants returns the table of grants.
func (d *DB) Grants() Grants { return Grants{d} }

// Grant is one login, with its refresh token and access tokens.
type Grant struct {
	ID          GrantID `db:"id" json:"id"`
	UserID      int64   `db:"user_id" json:"-"`
	UserEpoch   int64   `db:"user_epoch" json:"-"`   // of the user, at login
	ClientEpoch int64   `db:"client_epoch" json:"-"` // of the client, at login
	ClientID    string  `db:"client_id" json:"client_id"`
	// SHA-256 of the family secret; "" for a grant without refresh tokens
	FamilyHash string `db:"family_hash" json:"-"`
	Generation int64  `db:"generation" json:"generation"`
	KID        string `db:"kid" json:"-"`       // the signing key of the newest access token
	Scope      string `db:"scope" json:"scope"` // the whole granted scope
	// all granted audiences, space-separated; the first is the default
	Audience      string  `db:"audience" json:"audience"`
	CreatedAt     Time    `db:"created_at" json:"created_at"`   // at login
	RotatedAt     Time    `db:"rotated_at" json:"last_used_at"` // of the last refresh that was written, or the login
	ExpiresAt     Time    `db:"expires_at" json:"expires_at"`
	IdleExpiresAt Time    `db:"idle_expires_at" json:"idle_expires_at"`
	RevokedAt     *Time   `db:"revoked_at" json:"revoked_at"`
	RevokedReason *string `db:"revoked_reason" json:"revoked_reason"`
	LateRetryAt   *Time   `db:"late_retry_at" json:"late_retry_at"` // of the last late retry, if any
	// of the last use, without rotation, of the newest refresh token, as far as it was written
	KeptAt *Time `db:"kept_at" json:"-"`
	// its place in a Token Status List; nil: it has none
	StatusList  *StatusListID `db:"status_list" json:"-"`
	StatusIndex *int64        `db:"status_index" json:"-"`
}

// GrantState is a grant with everything that decides whether it is live, read in one statement.
type GrantState struct {
	Grant
	Sub              *string `db:"sub" json:"sub"` // nil: the user is gone
	Username         *string `db:"username" json:"username"`
	Roles            List    `db:"roles" json:"-"`
	RolesSize        int64   `db:"roles_size" json:"-"` // length of the JSON text; 0 after a rotation
	UserEpochNow     *int64  `db:"user_epoch_now" json:"-"`
	UserDisabledAt   *Time   `db:"user_disabled_at" json:"-"`
	ClientEpochNow   *int64  `db:"client_epoch_now" json:"-"` // nil: the client is gone
	ClientDisabledAt *Time   `db:"client_disabled_at" json:"-"`
	// read from a read-only database: the old primary after a failover
	Stale bool `db:"stale" json:"-"`
}

// Kept reports whether the newest refresh token was used without rotation: the one before it is replaced for good.
func (s GrantState) Kept() bool { return s.KeptAt != nil && !s.KeptAt.Before(s.RotatedAt.Time) }

// Live reports whether tokens of the grant are valid at the given time. It ignores the idle limit of the refresh token,
// which access tokens outlive.
func (s GrantState) Live(now time.Time) bool {
	return s.RevokedAt == nil && now.Before(s.ExpiresAt.Time) &&
		s.UserEpochNow != nil && *s.UserEpochNow == s.UserEpoch && s.UserDisabledAt == nil &&
		s.ClientEpochNow != nil && *s.ClientEpochNow == s.ClientEpoch && s.ClientDisabledAt == nil
}

const grantStateColumns = `g.id, g.user_id, g.user_epoch, g.client_epoch, g.client_id, g.family_hash, g.generation,
	g.kid, g.scope, g.audience, g.created_at, g.rotated_at, g.expires_at, g.idle_expires_at, g.revoked_at,
	g.revoked_reason, g.late_retry_at, g.kept_at, g.status_list, g.status_index,
	u.sub, u.username, COALESCE(u.roles, '[]') AS roles, COALESCE(LENGTH(u.roles), 0) AS roles_size,
	u.epoch AS user_epoch_now, u.disabled_at AS user_disabled_at,
	c.epoch AS client_epoch_now, c.disabled_at AS client_disabled_at,
	current_setting('transaction_read_only') = 'on' AS stale`

const grantStateTables = ` FROM grants g LEFT JOIN users u ON u.id = g.user_id LEFT JOIN clients c ON c.id =
	g.client_id`

const grantStateQuery = `SELECT ` + grantStateColumns + grantStateTables

// State reads one grant. ErrNotFound.
func (g Grants) State(ctx context.Context, id GrantID) (GrantState, error) {
	var s GrantState
	err := g.db.engine.Get(ctx, "grant", &s, grantStateQuery+` WHERE g.id = $1`, id)
	return s, g.notStale(s, err)
}

// notStale refuses a state that was read from a read-only database, which may be out of date.
func (g Grants) notStale(s GrantState, err error) error {
	if err != nil || !s.Stale {
		return err
	}
	return g.db.engine.Stale("grant")
}

// ListedGrant is a grant as people see it: it says when and why it ended.
type ListedGrant struct {
	GrantState
	UserEndedAt     *Time   `db:"user_ended_at" json:"-"`
	UserEndReason   *string `db:"user_end_reason" json:"-"`
	ClientEndedAt   *Time   `db:"client_ended_at" json:"-"`
	ClientEndReason *string `db:"client_end_reason" json:"-"`
	EndedAt         *Time   `db:"-" json:"ended_at"` // null: it is live, or the time is unknown
	EndedReason     *string `db:"-" json:"ended_reason"`
}

// tellEnding sets EndedAt and EndedReason: the earliest end counts.
func (g *ListedGrant) tellEnding(now time.Time) {
	if g.KeptAt != nil && g.KeptAt.After(g.RotatedAt.Time) {
		g.RotatedAt = *g.KeptAt // people see the last use
	}
	end := func(at *Time, reason string) {
		if at != nil && (g.EndedAt == nil || at.Before(g.EndedAt.Time)) {
			g.EndedAt, g.EndedReason = at, &reason
		}
	}
	if g.RevokedReason != nil {
		end(g.RevokedAt, *g.RevokedReason)
	}
	if g.UserEndReason != nil {
		end(g.UserEndedAt, *g.UserEndReason)
	}
	if g.ClientEndReason != nil {
		end(g.ClientEndedAt, *g.ClientEndReason)
	}
	if !now.Before(g.ExpiresAt.Time) {
		end(&g.ExpiresAt, "expired")
	}
	if g.FamilyHash != "" && !now.Before(g.IdleExpiresAt.Time) {
		end(&g.IdleExpiresAt, "not used for too long")
	}
	if g.EndedReason == nil && !g.Live(now) {
		reason := endedWithOwner
		g.EndedReason = &reason
	}
	if g.RevokedReason == nil && !g.Live(now) {
		reason := endedWithOwner
		g.RevokedReason = &reason
	}
}

// endedWithOwner is the reason of a grant that ended with its user or client at an unknown time.
const endedWithOwner = "ended with its user or client"

const listedQuery = `SELECT ` + grantStateColumns + `, eu.ended_at AS user_ended_at, eu.reason AS user_end_reason,
	ec.ended_at AS client_ended_at, ec.reason AS client_end_reason` + grantStateTables + `
	LEFT JOIN endings eu ON eu.owner = 'user:' || g.user_id AND eu.epoch = g.user_epoch
	LEFT JOIN endings ec ON ec.owner = 'client:' || g.client_id AND ec.epoch = g.client_epoch`

// Listed reads one grant as people see it. ErrNotFound.
func (g Grants) Listed(ctx context.Context, id GrantID, now time.Time) (ListedGrant, error) {
	var s ListedGrant
	err := g.db.engine.Get(ctx, "grant", &s, listedQuery+` WHERE g.id = $1`, id)
	s.tellEnding(now)
	return s, g.notStale(s.GrantState, err)
}

// GrantFilter narrows Pages. The zero value selects all unexpired grants.
type GrantFilter struct {
	Username string
	ClientID string
	Active   bool      // only grants that have not ended
	Ended    bool      // only grants that have ended, also those that have expired
	Since    time.Time // only logins since a time; zero: all
	After    GrantID   // which comes before the first; 0: none
}

// takes reports whether a row belongs to the list.
func (f GrantFilter) takes(g ListedGrant) bool {
	over := g.EndedReason != nil
	return !(f.Active && over || f.Ended && !over || g.CreatedAt.Before(f.Since))
}

// Pages hands the grants of a filter, by id, the latest expiry first, page by page to do, until that returns an error.
func (g Grants) Pages(ctx context.Context, f GrantFilter, now time.Time, do func([]ListedGrant) error) error {
	for {
		page, next, err := g.Page(ctx, f, now, engine.PageRows)
		if err != nil {
			return err
		}
		if len(page) > 0 {
			if err := do(page); err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
		f.After = next
	}
}

// Page reads the first grants of a filter, at most limit. next is the id to go on after; 0 if there are no more. A page
// may have fewer rows than limit, or none, although there are more: it examines a bounded number of grants.
func (g Grants) Page(
	ctx context.Context, f GrantFilter, now time.Time, limit int,
) (page []ListedGrant, next GrantID, err error) {
	span, err := g.span(ctx, f, limit)
	if err != nil {
		return nil, 0, err
	}
	more, err := span.next(ctx, g.db)
	if err != nil || span.from == 0 {
		return nil, 0, err
	}
	expired := now
	if f.Ended {
		expired = time.Time{}
	}
	if page, err = span.read(ctx, g.db, f.ClientID, expired, limit); err != nil {
		return nil, 0, err
	}
	if more {
		next = span.from
	}
	if last := len(page) - 1; last+1 == limit && page[last].ID > span.from {
		next = page[last].ID
	}
	for i := range page {
		page[i].tellEnding(now)
	}
	return slices.DeleteFunc(page, func(g ListedGrant) bool { return !f.takes(g) }), next, nil
}

// grantSpan is a range of ids with a number of rows, of all grants or of one user.
type grantSpan struct {
	ofUser      string // condition
	user        []any  // its argument, $1
	rows        int
	from, below GrantID
}

// span returns the position before the first span. It selects no rows if the user does not exist.
func (g Grants) span(ctx context.Context, f GrantFilter, limit int) (*grantSpan, error) {
	s := &grantSpan{
		ofUser: `CAST($1 AS BIGINT) = 0`,
		user:   []any{int64(0)},
		rows:   limit,
		below:  cmp.Or(f.After, math.MaxInt64),
	}
	if f.ClientID != "" {
		s.rows = engine.SparseRows
	}
	if f.Username == "" {
		return s, nil
	}
	user, err := g.db.Users().ByUsername(ctx, f.Username)
	if errors.Is(err, ErrNotFound) {
		s.below, err = 0, nil
	}
	s.ofUser, s.user = `g.user_id = $1`, []any{user.ID}
	return s, err
}

// next finds the first grant of the span, 0 if there is none, and reports whether there may be grants before it.
func (s *grantSpan) next(ctx context.Context, d *DB) (more bool, err error) {
	type found struct {
		From GrantID `db:"first"`
		N    int     `db:"n"`
	}
	rows, err := engine.ReadSlowly[found](ctx, d.engine, engine.PageTimeout, "grants",
		`SELECT COALESCE(MIN(id), 0) AS first, COUNT(*) AS n FROM (SELECT g.id FROM grants g
		WHERE `+s.ofUser+` AND g.id < $2 ORDER BY g.id DESC LIMIT $3) span`, append(s.user, s.below, s.rows)...)
	if err != nil {
		return false, err
	}
	s.from = rows[0].From
	return rows[0].N == s.rows, nil
}

// read reads the unexpired grants of the span, at most limit.
func (s *grantSpan) read(
	ctx context.Context, d *DB, clientID string, after time.Time, limit int,
) ([]ListedGrant, error) {
	return engine.ReadSlowly[ListedGrant](ctx, d.engine, engine.PageTimeout, "grants",
		listedQuery+` WHERE `+s.ofUser+` AND g.id >= $2 AND g.id < $3
		AND g.expires_at > $4 AND ($5 = '' OR g.client_id = $5) ORDER BY g.id DESC LIMIT $6`,
		append(s.user, s.from, s.below, At(after), clientID, limit)...)
}

// CountLive counts the grants that have not ended, of a user, of a client, or, if both are "", all. It may read the
// whole table: ErrTooSlow if that takes longer than within.
func (g Grants) CountLive(
	ctx context.Context, username, clientID string, now time.Time, within time.Duration,
) (int64, error) {
	n, err := engine.ReadSlowly[int64](ctx, g.db.engine, within, "live grants", `SELECT COUNT(*)`+liveGrants+`
		WHERE g.revoked_at IS NULL AND g.expires_at > $1 AND g.idle_expires_at > $1
		AND ($2 = '' OR u.username = $2) AND ($3 = '' OR c.id = $3)`, At(now), username, clientID)
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// Create inserts the row of a login. The statement checks again that the user and the client are as they were read, and
// that the place of the grant in a status list, if it has one, is still its own: ErrNotFound if not. If a driver sends
// it again after a cut connection, the second run finds the row of the first.
func (g Grants) Create(ctx context.Context, grant Grant, place *StatusPlace) error {
	var list, index, first, holder *int64
	if place != nil {
		id := int64(place.List)
		list, index, first, holder = &id, &place.Index, &place.Range.First, &place.Range.holder
	}
	n, err := g.db.engine.Change(
		ctx,
		"create grant",
		`INSERT INTO grants (id, user_id, user_epoch, client_epoch, client_id, family_hash, generation,
		kid, scope, audience, created_at, rotated_at, expires_at, idle_expires_at, status_list, status_index)
		SELECT CAST($1 AS BIGINT), u.id, u.epoch, c.epoch, c.id, $2, 0, $3, $4, $5, CAST($6 AS BIGINT),
		CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST($8 AS BIGINT), CAST($13 AS BIGINT), CAST($14 AS BIGINT)
		FROM users u, clients c WHERE u.id = $9 AND u.epoch = $10 AND u.disabled_at IS NULL AND c.id = $11
		AND c.epoch = $12 AND c.disabled_at IS NULL AND (CAST($13 AS BIGINT) IS NULL OR `+held+`)
		ON CONFLICT (id) DO UPDATE SET kid = excluded.kid, status_list = excluded.status_list,
		status_index = excluded.status_index WHERE grants.family_hash = excluded.family_hash
		AND grants.user_id = excluded.user_id
		AND grants.client_id = excluded.client_id AND grants.created_at = excluded.created_at AND grants.generation = 0
		AND grants.revoked_at IS NULL`,
		grant.ID,
		grant.FamilyHash,
		grant.KID,
		grant.Scope,
		grant.Audience,
		grant.CreatedAt,
		grant.ExpiresAt,
		grant.IdleExpiresAt,
		grant.UserID,
		grant.UserEpoch,
		grant.ClientID,
		grant.ClientEpoch,
		list,
		index,
		first,
		holder,
	)
	if err == nil && n == 0 {
		err = fmt.Errorf("create grant: %w", ErrNotFound)
	}
	return err
}

// oldestQuery reads at most 200 grants. There are more only if the limit was lowered, and then the next login
// continues.
const oldestQuery = `SELECT id FROM (SELECT g.id, g.created_at FROM grants g WHERE g.user_id = $1 AND g.client_id = $2
	AND g.user_epoch = (SELECT u.epoch FROM users u WHERE u.id = $1)
	AND g.client_epoch = (SELECT c.epoch FROM clients c WHERE c.id = $2) AND g.revoked_at IS NULL LIMIT 200) open
	ORDER BY created_at, id`

// EndOldest ends the oldest grants of the user at the client, idle or not, until at most keep are left: a script that
// logs in at every call must not fill the table.
func (g Grants) EndOldest(
	ctx context.Context,
	by Actor,
	userID int64,
	clientID string,
	keep int,
	now time.Time,
) error {
	return g.db.inTx(ctx, "end oldest grants", func(t *tx) error {
		var open []GrantID
		if err := t.All(&open, oldestQuery, userID, clientID); err != nil {
			return err
		}
		for len(open) > keep {
			if err := t.endGrant(by, open[0], "limit", now); err != nil {
				return err
			}
			open = open[1:]
		}
		return nil
	})
}

// endGrant revokes one grant, with an audit record. It leaves an ended grant unchanged.
func (t *tx) endGrant(by Actor, id GrantID, reason string, now time.Time) error {
	n, err := t.endGrants(now,
		`UPDATE grants SET revoked_at = $1, revoked_reason = $2 WHERE id = $3 AND revoked_at IS NULL`,
		At(now), reason, id)
	if err == nil && n == 0 && by.Saw != 0 {
		err = ErrChanged // somebody else has ended it
	}
	if err != nil || n == 0 {
		return err
	}
	return t.audit(by, now, Event{"grant.revoke", id.String(), map[string]any{"reason": reason}})
}

// Revocation is a grant that its client wants to end.
type Revocation struct {
	ID         GrantID
	Caller     Caller
	FamilyHash string // of the refresh token that was presented; "" for an access token
}

// revocation is a Revocation in a batch.
type revocation struct {
	Revocation
	by  Actor
	now time.Time
}

// Revoke ends the grant if it belongs to the caller and the family, and reports whether it did. ErrClientChanged if it
// did not, and the caller comes from a cache. Concurrent calls share a transaction, because the order of the audit
// records allows only one at a time.
func (g Grants) Revoke(ctx context.Context, by Actor, r Revocation, now time.Time) (bool, error) {
	ended, err := g.db.ending.Ask(ctx, revocation{r, by, now})
	if err == nil && !ended && r.Caller.Revision != 0 {
		err = ErrClientChanged
	}
	return ended, err
}

// inOrder returns the positions of the revocations, ordered by grant: transactions that lock rows in the same order do
// not deadlock.
func inOrder(all []revocation) []int {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(all[a].ID, all[b].ID) })
	return order
}

// revokeAtOnce ends all grants or none.
func (g Grants) revokeAtOnce(all []revocation) (ended []bool, err error) {
	err = g.db.inTx(context.Background(), "revoke grants", func(t *tx) error {
		ended = make([]bool, len(all))
		var entries []entry
		for _, i := range inOrder(all) {
			r := all[i]
			n, err := t.endGrants(r.now, `UPDATE grants SET revoked_at = $1, revoked_reason = 'revoked'
				WHERE id = $2 AND client_id = $3 AND ($4 = '' OR family_hash = $4)
				AND revoked_at IS NULL AND expires_at > $1
				AND EXISTS (SELECT 1 FROM clients c WHERE c.id = $3 AND c.disabled_at IS NULL
					AND CAST($5 AS BIGINT) IN (0, c.revision))`,
				At(r.now), r.ID, r.Caller.ID, r.FamilyHash, r.Caller.Revision)
			if err != nil {
				return err
			}
			if ended[i] = n > 0; ended[i] {
				entries = append(
					entries,
					entry{r.by, r.now, Event{"grant.revoke", r.ID.String(), map[string]any{"reason": "revoked"}}},
				)
			}
		}
		if len(entries) == 0 {
			return nil
		}
		return t.auditAll(entries)
	})
	return ended, err
}

// RevokeByID ends one grant for an administrator. ErrNotFound.
func (g Grants) RevokeByID(ctx context.Context, by Actor, id GrantID, now time.Time) error {
	return g.db.inTx(ctx, "revoke grant", func(t *tx) error {
		var found GrantID
		if err := t.Get(&found, `SELECT id FROM grants WHERE id = $1`, id); err != nil {
			return err
		}
		return t.endGrant(by, id, "revoked by administrator", now)
	})
}

// RevokeAll ends every grant by incrementing the epoch of every client.
func (g Grants) RevokeAll(ctx context.Context, by Actor, now time.Time) error {
	return g.db.inTx(ctx, "revoke all grants", func(t *tx) error {
		if _, err := t.Change(`UPDATE clients SET epoch = epoch + 1, revision = revision + 1`); err != nil {
			return err
		}
		if err := t.endClient("", EndedAll, false, now); err != nil {
			return err
		}
		return t.audit(by, now, Event{"grant.revoke-all", "", nil})
	})
}

// CleanExpired deletes up to limit grants that expired before the hour of expired: a range of the primary key. It
// returns how many.
func (g Grants) CleanExpired(ctx context.Context, limit int, expired time.Time) (int64, error) {
	before := (expired.Unix()/3600 - 1) << grantHourShift
	return g.db.engine.Change(
		ctx,
		"clean expired grants",
		`DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE id < $1 ORDER BY id LIMIT $2)`,
		before,
		limit,
	)
}

// CleanEnded examines limit grants after the given id, in the order of the primary key, and deletes those that became
// idle or were revoked before ended. It returns where to continue, 0 at the end of the table, and how many it deleted.
func (g Grants) CleanEnded(
	ctx context.Context,
	after GrantID,
	limit int,
	ended time.Time,
) (next GrantID, n int64, err error) {
	next, err = g.spanEnd(ctx, "clean ended grants", after, limit)
	if err != nil || next == 0 {
		return 0, 0, err
	}
	n, err = g.db.engine.Change(
		ctx,
		"clean ended grants",
		`DELETE FROM grants WHERE id > $1 AND id <= $2 AND (idle_expires_at < $3 OR revoked_at < $3)`,
		after,
		next,
		At(ended),
	)
	return next, n, err
}

// spanEnd returns the last of limit ids after the given one; 0 if there is none.
func (g Grants) spanEnd(ctx context.Context, op string, after GrantID, limit int) (GrantID, error) {
	var last *GrantID
	err := g.db.engine.Get(
		ctx,
		op,
		&last,
		`SELECT MAX(id) FROM (SELECT id FROM grants WHERE id > $1 ORDER BY id LIMIT $2) span`,
		after,
		limit,
	)
	if err != nil || last == nil {
		return 0, err
	}
	return *last, nil
}
