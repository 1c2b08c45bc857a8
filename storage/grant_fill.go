package storage

import (
	"context"
	"strconv"
	"time"
)

const (
	// FilledPerUser is how many grants each filled user has.
	FilledPerUser = 50
	// filledStride is odd, so that its multiples visit every value of the random bits of an id once, in no order.
	filledStride = 99194853093
	fillBatch    = 5_000 // few enough for the deadline of a statement on a busy machine
)

// Fill describes grants, and their users, that are written without a login, as if logins had been spread evenly over
// the last lifetime of a grant. It is for measurements on a large database.
type Fill struct {
	N        int
	Client   Client
	Grant    Grant         // family, kid, scope and audience of each
	Lifetime time.Duration // of a grant
	Now      time.Time
}

func (f Fill) span() time.Duration { return (f.Lifetime - time.Hour) / time.Duration(f.N) }

// ID returns the id of the i-th grant.
func (f Fill) ID(i int) GrantID {
	expires := At(f.Now.Add(time.Hour)).UnixMilli() + int64(i)*f.span().Milliseconds()
	return GrantID(expires/3_600_000<<grantHourShift | int64(i)*filledStride&(1<<grantRandomBits-1))
}

// Fill writes the users and the grants, without audit records. ErrConflict if the database was filled before.
func (g Grants) Fill(ctx context.Context, f Fill) error {
	const series = `WITH RECURSIVE series (i) AS (SELECT CAST($1 AS BIGINT) UNION ALL SELECT i + 1 FROM series
		WHERE i < CAST($2 AS BIGINT)) `
	batches := func(n int, query string, args ...any) error {
		for from := 0; from < n; from += fillBatch {
			to := min(from+fillBatch, n) - 1
			if _, err := g.db.engine.Change(ctx, "fill", query, append([]any{from, to}, args...)...); err != nil {
				return err
			}
		}
		return nil
	}
	if err := batches((f.N+FilledPerUser-1)/FilledPerUser, `INSERT INTO users (id, sub, username, password_hash,
		roles, epoch, created_at) `+series+`
		SELECT i + 1, 'filled ' || CAST(i AS TEXT), 'filled ' || CAST(i AS TEXT), '', '["admin"]', 1, CAST($3 AS BIGINT)
		FROM series`, At(f.Now)); err != nil {
		return err
	}
	return batches(
		f.N,
		`INSERT INTO grants (id, user_id, user_epoch, client_epoch, client_id, family_hash, generation, kid, scope,
		audience, created_at, rotated_at, expires_at, idle_expires_at) `+series+`
		SELECT (expires / 3600000 << `+itoa(grantHourShift)+`)
			| (i * CAST($3 AS BIGINT) & `+itoa(1<<grantRandomBits-1)+`),
			i / `+itoa(FilledPerUser)+` + 1, 1, CAST($4 AS BIGINT), $5, $6, 0, $7, $8, $9,
			expires - CAST($10 AS BIGINT), CAST($11 AS BIGINT), expires,
			CASE WHEN expires < CAST($12 AS BIGINT) THEN expires ELSE CAST($12 AS BIGINT) END
		FROM (SELECT i, CAST($13 AS BIGINT) + i * CAST($14 AS BIGINT) AS expires FROM series) filled`,
		filledStride,
		f.Client.Epoch,
		f.Client.ID,
		f.Grant.FamilyHash,
		f.Grant.KID,
		f.Grant.Scope,
		f.Grant.Audience,
		f.Lifetime.Milliseconds(),
		At(f.Now),
		At(f.Now.Add(f.Lifetime/6)),
		At(f.Now.Add(time.Hour)),
		f.span().Milliseconds(),
	)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
