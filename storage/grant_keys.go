package storage

import (
	"context"
	"math"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// KeyGrants selects the grants that can have had a token of one key: those that existed while it signed and were used
// since a given time.
type KeyGrants struct {
	KID           string
	Since         time.Time  // used at or after; zero: any
	DeactivatedAt *time.Time // when the key stopped signing; nil: it still signs
	EndedSince    *time.Time // KeyUse also counts those ended at or after it for a revoked key; nil: none
}

// KeyUse counts what one client holds for one audience by a key.
type KeyUse struct {
	ClientID string `db:"client_id" json:"client_id"`
	Audience string `db:"audience" json:"audience"` // that of the grant, space-separated
	Grants   int64  `db:"grants" json:"grants"`     // live grants that can have had a token of the key
	Users    int64  `db:"users" json:"users"`       // of those grants
	// unexpired newest access tokens of those grants, signed by the key
	Tokens int64 `db:"tokens" json:"tokens"`
}

// isKept is true for a grant whose refresh token does not rotate. It may have been used since the time in its row.
const isKept = `COALESCE(g.kept_at >= g.rotated_at, FALSE)`

// ofKey is the condition of a KeyGrants: $1 is now, $2 since, $3 the kid, $4 when it stopped signing, or -1.
// It reads no other table: a lock on one must not delay the answer to a leak.
const ofKey = `g.expires_at > $1 AND (g.rotated_at >= $2 OR ` + isKept + `)
	AND (g.kid = $3 OR (CAST($4 AS BIGINT) >= 0 AND g.created_at <= CAST($4 AS BIGINT)))`

// keyRevoked is the revoked_reason of grants that EndKeyGrants has ended.
const keyRevoked = "key revoked"

func (c KeyGrants) args(now time.Time) []any {
	since, until := int64(0), int64(-1)
	if !c.Since.IsZero() {
		since = c.Since.UnixMilli()
	}
	if c.DeactivatedAt != nil {
		until = c.DeactivatedAt.UnixMilli()
	}
	return []any{At(now), since, c.KID, until}
}

// liveGrants joins a grant with its user and client if both are valid.
const liveGrants = ` FROM grants g JOIN users u ON u.id = g.user_id AND u.epoch = g.user_epoch AND u.disabled_at IS NULL
	JOIN clients c ON c.id = g.client_id AND c.epoch = g.client_epoch AND c.disabled_at IS NULL `

// newestToken is the latest moment at which the newest access token of a grant can have been issued: $1 is now. A token
// that does not rotate may have been used for as long as the key in the row signed.
const newestToken = `CASE WHEN ` + isKept + ` THEN (SELECT COALESCE(k.deactivated_at, $1) FROM signing_keys k
	WHERE k.kid = g.kid) ELSE g.rotated_at END`

// tokenAlive is true if the newest access token of a grant has not expired: $1 is now, $5 the default TTL.
const tokenAlive = newestToken + ` + CASE WHEN c.access_ttl > 0 THEN c.access_ttl ELSE $5 END > $1`

// KeyUse counts the live grants that can have had a token of the key, by client and audience, most first. It reads the
// whole table: ErrTooSlow if that takes longer than within.
func (g Grants) KeyUse(
	ctx context.Context, c KeyGrants, ttl time.Duration, now time.Time, within time.Duration,
) ([]KeyUse, error) {
	ended := int64(math.MaxInt64)
	if c.EndedSince != nil {
		ended = c.EndedSince.UnixMilli()
	}
	return engine.ReadSlowly[KeyUse](ctx, g.db.engine, within, "use of a key",
		`SELECT g.client_id, g.audience, COUNT(*) AS grants,
		COUNT(DISTINCT g.user_id) AS users,
		COALESCE(SUM(CASE WHEN g.kid = $3 AND `+tokenAlive+` THEN 1 ELSE 0 END), 0) AS tokens`+liveGrants+`
		WHERE `+ofKey+` AND (g.revoked_at IS NULL OR g.revoked_at >= $6 AND g.revoked_reason = '`+keyRevoked+`')
		GROUP BY g.client_id, g.audience ORDER BY grants DESC, g.client_id, g.audience`,
		append(c.args(now), Duration(ttl), ended)...)
}

// LiveTokens counts, by kid, the grants whose newest access token has not expired. It reads the whole table: ErrTooSlow
// if that takes longer than within.
func (g Grants) LiveTokens(
	ctx context.Context, ttl time.Duration, now time.Time, within time.Duration,
) (map[string]int64, error) {
	type count struct {
		KID    string `db:"kid"`
		Tokens int64  `db:"tokens"`
	}
	rows, err := engine.ReadSlowly[count](ctx, g.db.engine, within, "live tokens",
		`SELECT g.kid, COUNT(*) AS tokens`+liveGrants+`WHERE g.revoked_at IS NULL AND g.expires_at > $1
		AND `+newestToken+` + CASE WHEN c.access_ttl > 0 THEN c.access_ttl ELSE $2 END > $1 GROUP BY g.kid`,
		At(now), Duration(ttl))
	if err != nil {
		return nil, err
	}
	tokens := map[string]int64{}
	for _, r := range rows {
		tokens[r.KID] = r.Tokens
	}
	return tokens, nil
}

// CountKeyGrants counts the grants that EndKeyGrants would end. It reads the whole table: ErrTooSlow if that takes
// longer than within.
func (g Grants) CountKeyGrants(ctx context.Context, c KeyGrants, now time.Time, within time.Duration) (int64, error) {
	n, err := engine.ReadSlowly[int64](ctx, g.db.engine, within, "grants of a key",
		`SELECT COUNT(*) FROM grants g WHERE g.revoked_at IS NULL AND `+ofKey, c.args(now)...)
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// EndKeyGrants examines limit grants after the given id, in the order of the primary key, and ends those of the key. It
// returns where to continue, 0 at the end of the table, and how many it ended. If it ends any, it writes the audit
// record in the same transaction, unless record is nil: one record stands for all batches.
func (g Grants) EndKeyGrants(
	ctx context.Context,
	by Actor,
	c KeyGrants,
	record map[string]any,
	after GrantID,
	limit int,
	now time.Time,
) (next GrantID, n int64, err error) {
	next, err = g.spanEnd(ctx, "end grants of a key", after, limit)
	if err != nil || next == 0 {
		return 0, 0, err
	}
	err = g.db.inTx(ctx, "end grants of a key", func(t *tx) error {
		n, err = t.endGrants(now, `UPDATE grants AS g SET revoked_at = $1, revoked_reason = '`+keyRevoked+`'
			WHERE g.revoked_at IS NULL AND `+ofKey+` AND g.id > $5 AND g.id <= $6`,
			append(c.args(now), after, next)...)
		if err != nil || n == 0 {
			return err
		}
		if record == nil {
			return t.noteStatusChange()
		}
		return t.audit(by, now, Event{"grant.revoke-key", c.KID, record})
	})
	return next, n, err
}

// AnyBefore reports whether a usable grant was made before the given time. It reads the whole table if there is none:
// ErrTooSlow if that takes longer than within.
func (g Grants) AnyBefore(ctx context.Context, made, now time.Time, within time.Duration) (bool, error) {
	ids, err := engine.ReadSlowly[GrantID](ctx, g.db.engine, within, "old grants", `SELECT id FROM grants
		WHERE created_at < $1 AND expires_at > $2
		AND idle_expires_at > $2 AND revoked_at IS NULL AND family_hash <> '' ORDER BY id LIMIT 1`, At(made), At(now))
	return len(ids) > 0, err
}
