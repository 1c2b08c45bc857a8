package storagetest

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// FilledPerUser is how many filled grants one filled user has.
	FilledPerUser = 50

	// hourShift and randomBits are those of storage.NewGrantID.
	randomBits = 37
	hourShift  = randomBits + 6
	// filledStride is odd, so that its multiples visit every value of the random bits of an id once, in no order.
	filledStride = 99194853093
	fillBatch    = 5_000 // few enough for the deadline of a statement on a busy machine
)

// Fill says which grants, and users who have them, are written without a login: as many logins would have left them
// that came evenly over the last lifetime of a grant. It is for measurements on a database of some size.
type Fill struct {
	N        int
	Client   storage.Client
	Grant    storage.Grant // family, kid, scope and audience of each
	Lifetime time.Duration // of a grant
	Now      time.Time
}

func (f Fill) span() time.Duration { return (f.Lifetime - time.Hour) / time.Duration(f.N) }

// ID is the id of the i-th grant.
func (f Fill) ID(i int) storage.GrantID {
	expires := storage.At(f.Now.Add(time.Hour)).UnixMilli() + int64(i)*f.span().Milliseconds()
	return storage.GrantID(expires/3_600_000<<hourShift | int64(i)*filledStride&(1<<randomBits-1))
}

// Write writes the users and the grants. Nothing is audited. A database can be filled once.
func (f Fill) Write(ctx context.Context, raw *sql.DB) error {
	if err := f.inBatches(ctx, raw, (f.N+FilledPerUser-1)/FilledPerUser, `INSERT INTO users (id, sub, username,
		password_hash, roles, epoch, created_at) `+series+`
		SELECT i + 1, 'filled ' || CAST(i AS TEXT), 'filled ' || CAST(i AS TEXT), '', '["admin"]', 1, CAST($3 AS BIGINT)
		FROM series`, storage.At(f.Now)); err != nil {
		return err
	}
	return f.inBatches(
		ctx,
		raw,
		f.N,
		`INSERT INTO grants (id, user_id, user_epoch, client_epoch, client_id, family_hash, generation, kid, scope,
		audience, created_at, rotated_at, expires_at, idle_expires_at) `+series+`
		SELECT (expires / 3600000 << `+itoa(hourShift)+`) | (i * CAST($3 AS BIGINT) & `+itoa(1<<randomBits-1)+`),
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
		storage.At(f.Now),
		storage.At(f.Now.Add(f.Lifetime/6)),
		storage.At(f.Now.Add(time.Hour)),
		f.span().Milliseconds(),
	)
}

// series is the numbers from $1 to $2.
const series = `WITH RECURSIVE series (i) AS (SELECT CAST($1 AS BIGINT) UNION ALL SELECT i + 1 FROM series
	WHERE i < CAST($2 AS BIGINT)) `

func (f Fill) inBatches(ctx context.Context, raw *sql.DB, n int, query string, args ...any) error {
	for from := 0; from < n; from += fillBatch {
		to := min(from+fillBatch, n) - 1
		if _, err := raw.ExecContext(ctx, query, append([]any{from, to}, args...)...); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
