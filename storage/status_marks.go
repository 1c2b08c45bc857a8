package storage

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// StatusMark is the place of an ended grant in a Token Status List.
type StatusMark struct {
	List      StatusListID `db:"list"`
	Index     int64        `db:"place_index"`
	ExpiresAt Time         `db:"expires_at"` // when no access token of the grant lives any more
}

// StatusMarks is the table of marks.
type StatusMarks struct{ db *DB }

// StatusMarks returns the table of marks.
func (d *DB) StatusMarks() StatusMarks { return StatusMarks{d} }

// maxMarks is how many marks one statement reads.
const maxMarks = 10_000

// Pages hands the marks that were made since a time, page by page, to do.
func (s StatusMarks) Pages(ctx context.Context, since time.Time, do func([]StatusMark)) error {
	last := StatusMark{ExpiresAt: At(since.Add(markFor))}
	for {
		var page []StatusMark
		err := s.db.engine.AllForUpkeep(ctx, "status marks", &page, `SELECT list, place_index, expires_at
			FROM status_marks WHERE (expires_at, list, place_index) > ($1, $2, $3)
			ORDER BY expires_at, list, place_index LIMIT $4`, last.ExpiresAt, last.List, last.Index, maxMarks)
		if err != nil || len(page) == 0 {
			return err
		}
		do(page)
		if last = page[len(page)-1]; len(page) < maxMarks {
			return nil
		}
	}
}

// AddLate adds the marks of grants whose login was judged before all grants of their user ended, and written after it.
// It looks at the endings of the last hour, since the clocks of hosts differ, and a commit can wait for a standby. It
// returns how many it added.
func (s StatusMarks) AddLate(ctx context.Context, now time.Time) (int64, error) {
	var ended []int64
	if err := s.db.engine.AllForUpkeep(ctx, "late logins", &ended, `SELECT g.id`+lateGrants+` LIMIT 1`,
		At(now.Add(-markFor))); err != nil || len(ended) == 0 {
		return 0, err
	}
	return s.db.engine.Change(ctx, "late logins", `INSERT INTO status_marks (list, place_index, expires_at)
		SELECT g.status_list, g.status_index, CAST($2 AS BIGINT)`+lateGrants+`
		ON CONFLICT (list, place_index) DO NOTHING`, At(now.Add(-markFor)), At(now.Add(markFor)))
}

const lateGrants = ` FROM endings e JOIN grants g ON g.user_epoch = e.epoch
	AND g.user_id = CASE WHEN e.owner LIKE 'user:%' THEN CAST(substr(e.owner, 6) AS BIGINT) END
	WHERE e.ended_at > $1 AND g.status_list IS NOT NULL AND NOT EXISTS
	(SELECT 1 FROM status_marks m WHERE m.list = g.status_list AND m.place_index = g.status_index)`

// metaStatusChange names a value that changes with ends of grants that have no audit record of their own.
const metaStatusChange = "status change"

// noteStatusChange makes servers read the marks again.
func (t *tx) noteStatusChange() error {
	_, err := t.Change(`INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET
		value = excluded.value`, metaStatusChange, strconv.FormatInt(randomID(), 16))
	return err
}

// endGrants runs an UPDATE of grants that ends some, and marks their places. It returns how many it ended.
func (t *tx) endGrants(now time.Time, update string, args ...any) (int64, error) {
	var ended []struct {
		List  *StatusListID `db:"status_list"`
		Index *int64        `db:"status_index"`
	}
	if err := t.All(&ended, update+` RETURNING status_list, status_index`, args...); err != nil {
		return 0, err
	}
	var values []any
	for _, g := range ended {
		if g.List != nil && g.Index != nil {
			values = append(values, *g.List, *g.Index, At(now.Add(markFor)))
		}
	}
	const columns = 3
	for len(values) > 0 {
		rows := batchSize(len(values) / columns)
		var places []string
		for i := range rows {
			places = append(places, engine.Placeholders(i*columns, columns))
		}
		if _, err := t.Change(`INSERT INTO status_marks (list, place_index, expires_at) VALUES `+
			strings.Join(places, ", ")+` ON CONFLICT (list, place_index) DO NOTHING`,
			values[:rows*columns]...); err != nil {
			return 0, err
		}
		values = values[rows*columns:]
	}
	return int64(len(ended)), nil
}

// markUser marks the places of all open grants of a user.
func (t *tx) markUser(username string, now time.Time) error {
	_, err := t.Change(`INSERT INTO status_marks (list, place_index, expires_at)
		SELECT g.status_list, g.status_index, CAST($1 AS BIGINT) FROM users u JOIN grants g ON g.user_id = u.id
		WHERE u.username = $2 AND g.status_list IS NOT NULL AND g.expires_at > $3 AND g.revoked_at IS NULL
		ON CONFLICT (list, place_index) DO NOTHING`, At(now.Add(markFor)), username, At(now))
	return err
}
