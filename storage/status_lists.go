package storage

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// StatusListID is the id of a Token Status List. It is random.
type StatusListID int64

// String returns the text form, which is in the URI of the list: 16 hexadecimal digits.
func (id StatusListID) String() string { return fmt.Sprintf("%016x", int64(id)) }

// ParseStatusListID parses the text form.
func ParseStatusListID(s string) (StatusListID, error) {
	n, err := strconv.ParseInt(s, 16, 64)
	if err != nil || StatusListID(n).String() != s {
		return 0, fmt.Errorf("status list id: 16 hexadecimal digits, not %q", s)
	}
	return StatusListID(n), nil
}

// StatusList is one list: a block of places for the grants of one epoch of a client.
type StatusList struct {
	ID       StatusListID `db:"id"`
	ClientID string       `db:"client_id"`
	Over     bool         `db:"over"`     // all grants of the epoch have ended
	EndedAt  *Time        `db:"ended_at"` // when they did; nil: unknown, or they have not
}

// StatusRange is a range of places of a list that one replica gives to grants. A grant gets the index of a place, which
// is not its number.
type StatusRange struct {
	List   StatusListID
	Seed   []byte // of the order of the indexes
	First  int64  // the number of its first place
	holder int64
}

// StatusPlace is the place of a grant in a list.
type StatusPlace struct {
	List  StatusListID
	Index int64
	Range StatusRange // from which it comes
}

const (
	// StatusRangeSize is the number of places in a range.
	StatusRangeSize = 1024
	// StatusListSize is the number of places in a list.
	StatusListSize = 1 << 20
	// MaxRangeAge is how long a replica may give places of a range to grants.
	MaxRangeAge = time.Hour
	// markFor is how long a mark stays: as long as an access token may live, and a minute for clocks that differ.
	markFor = time.Hour + time.Minute

	seedSize = 16
)

// StatusLists are the tables of Token Status Lists.
type StatusLists struct{ db *DB }

// StatusLists returns the tables of Token Status Lists.
func (d *DB) StatusLists() StatusLists { return StatusLists{d} }

// Take takes a range of places for grants of a client in an epoch, which expire before the given time.
func (s StatusLists) Take(
	ctx context.Context, clientID string, epoch int64, expires, now time.Time,
) (r StatusRange, err error) {
	err = s.db.inTx(ctx, "take places of a status list", func(t *tx) error {
		r, err = t.takeRange(clientID, epoch, expires)
		if errors.Is(err, ErrNotFound) { // there is no list, or it is full
			if err := t.addStatusList(clientID, epoch); err != nil {
				return err
			}
			r, err = t.takeRange(clientID, epoch, expires)
		}
		if err != nil {
			return err
		}
		r.holder = randomID()
		_, err = t.Change(`INSERT INTO status_ranges (list, first, holder, taken_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (list, first) DO UPDATE SET holder = excluded.holder, taken_at = excluded.taken_at`,
			r.List, r.First, r.holder, At(now))
		return err
	})
	return r, err
}

// takeRange takes a range of the newest list with room. ErrNotFound if there is none.
func (t *tx) takeRange(clientID string, epoch int64, expires time.Time) (StatusRange, error) {
	var rows []struct {
		ID    StatusListID `db:"id"`
		Seed  string       `db:"seed"`
		Taken int64        `db:"taken"`
	}
	err := t.All(&rows, `UPDATE status_lists SET taken = taken + $1,
		expires_at = CASE WHEN expires_at < $2 THEN $2 ELSE expires_at END
		WHERE taken <= $3 AND id = (SELECT id FROM status_lists WHERE client_id = $4 AND client_epoch = $5
			ORDER BY block DESC LIMIT 1) RETURNING id, seed, taken`,
		StatusRangeSize, At(expires), StatusListSize-StatusRangeSize, clientID, epoch)
	if err == nil && len(rows) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return StatusRange{}, err
	}
	seed, err := base64.RawURLEncoding.DecodeString(rows[0].Seed)
	return StatusRange{List: rows[0].ID, Seed: seed, First: rows[0].Taken - StatusRangeSize}, err
}

// addStatusList adds an empty list, unless another replica adds one at the same time.
func (t *tx) addStatusList(clientID string, epoch int64) error {
	seed := make([]byte, seedSize)
	rand.Read(seed)
	_, err := t.Change(`INSERT INTO status_lists (id, client_id, client_epoch, block, seed, taken, expires_at)
		SELECT CAST($1 AS BIGINT), CAST($2 AS TEXT), CAST($3 AS BIGINT), COALESCE(MAX(block) + 1, 0), CAST($4 AS TEXT),
		0, 0 FROM status_lists WHERE client_id = $2 AND client_epoch = $3
		ON CONFLICT (client_id, client_epoch, block) DO NOTHING`,
		randomID(), clientID, epoch, base64.RawURLEncoding.EncodeToString(seed))
	return err
}

// held is true for a grant whose place comes from a range that its replica still holds: $13 is the list, $15 the first
// place and $16 the holder of the range.
const held = `EXISTS (SELECT 1 FROM status_ranges r WHERE r.list = $13 AND r.first = CAST($15 AS BIGINT)
	AND r.holder = CAST($16 AS BIGINT))`

// Assign gives a place to a grant that has none, and returns the place that the grant has. ErrNotFound if the grant has
// ended, or the range of the place is not its replica's any more.
func (s StatusLists) Assign(
	ctx context.Context, id GrantID, p StatusPlace,
) (list StatusListID, index int64, err error) {
	var row struct {
		List  StatusListID `db:"status_list"`
		Index int64        `db:"status_index"`
	}
	err = s.db.engine.ChangeReturning(ctx, "assign status", &row, `UPDATE grants AS g SET
		status_list = COALESCE(g.status_list, $1), status_index = COALESCE(g.status_index, $2)
		WHERE g.id = $3 AND g.revoked_at IS NULL AND (g.status_list IS NOT NULL
			OR EXISTS (SELECT 1 FROM status_ranges r WHERE r.list = $1 AND r.first = $4 AND r.holder = $5)
			AND EXISTS (SELECT 1 FROM status_lists l WHERE l.id = $1 AND l.client_id = g.client_id
				AND l.client_epoch = g.client_epoch))
		RETURNING status_list, status_index`, p.List, p.Index, id, p.Range.First, p.Range.holder)
	return row.List, row.Index, err
}

// All reads all lists.
func (s StatusLists) All(ctx context.Context) (lists []StatusList, err error) {
	return lists, s.db.engine.AllForUpkeep(ctx, "status lists", &lists, `SELECT l.id, l.client_id, e.ended_at,
		c.epoch IS NULL OR c.epoch <> l.client_epoch AS over
		FROM status_lists l LEFT JOIN clients c ON c.id = l.client_id
		LEFT JOIN endings e ON e.owner = 'client:' || l.client_id AND e.epoch = l.client_epoch ORDER BY l.id`)
}

// Exists reports whether there is a list with the id.
func (s StatusLists) Exists(ctx context.Context, id StatusListID) (bool, error) {
	var n int64
	err := s.db.engine.Get(ctx, "status list", &n, `SELECT COUNT(*) FROM status_lists WHERE id = $1`, id)
	return n > 0, err
}

// Clean deletes up to limit rows of each kind that are needed no more: marks, ranges that are too old to be used, and
// lists whose last access token has expired. It reports whether there may be more.
func (s StatusLists) Clean(ctx context.Context, now time.Time, limit int) (more bool, err error) {
	for _, statement := range []struct {
		query  string
		before time.Time
	}{
		{`DELETE FROM status_marks WHERE (list, place_index) IN (SELECT list, place_index FROM status_marks
			WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, now},
		{`DELETE FROM status_ranges WHERE (list, first) IN (SELECT list, first FROM status_ranges
			WHERE taken_at < $1 LIMIT $2)`, now.Add(-2 * MaxRangeAge)},
		{`DELETE FROM status_lists WHERE id IN (SELECT l.id FROM status_lists l
			LEFT JOIN clients c ON c.id = l.client_id
			LEFT JOIN endings e ON e.owner = 'client:' || l.client_id AND e.epoch = l.client_epoch
			WHERE l.expires_at < $1 OR (c.epoch IS NULL OR c.epoch <> l.client_epoch) AND e.ended_at < $1
			ORDER BY l.id LIMIT $2)`, now.Add(-markFor)},
	} {
		n, err := s.db.engine.Change(ctx, "clean status lists", statement.query, At(statement.before), limit)
		if err != nil {
			return false, err
		}
		more = more || n == int64(limit)
	}
	return more, nil
}
