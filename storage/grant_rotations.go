package storage

import (
	"context"
	"errors"
	"time"

	"github.com/lib/pq"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// rotation is a refresh with the newest token.
type rotation struct {
	Refresh
	now time.Time
}

// rotated is the outcome of a rotation among others.
type rotated struct {
	state *GrantState // after the rotation; nil: nothing has changed, and the grant must be judged alone
	err   error       // the rotation is made, but its row cannot be read
}

// rotatedRow is a row of rotateMany. Its roles are read later, so that one row that cannot be read hides no other.
type rotatedRow struct {
	GrantState
	RolesText string `db:"roles"`
}

// rotateMany rotates grants of PostgreSQL. It judges each row as rotateOne does. It never waits for a lock: it skips
// locked rows, so that one grant does not delay the others.
const rotateMany = `WITH free AS MATERIALIZED (
		SELECT f.id AS unlocked FROM grants f WHERE f.id = ANY($1) ORDER BY f.id FOR NO KEY UPDATE SKIP LOCKED)
	UPDATE grants AS g SET generation = r.presented + 1, rotated_at = r.moment,
	idle_expires_at = LEAST(g.expires_at, r.idle), kid = r.signer
	FROM free, unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[],
		$8::bigint[], $9::bigint[], $10::bigint[])
		AS r (grant_id, presented, family, caller, revision, moment, signer, idle, alive_at, max_roles)
	WHERE free.unlocked = r.grant_id AND g.id = r.grant_id AND g.generation = r.presented
	AND g.family_hash = r.family AND g.client_id = r.caller AND g.revoked_at IS NULL
	AND g.expires_at >= r.alive_at AND g.idle_expires_at > r.moment
	AND EXISTS (SELECT 1 FROM users u WHERE u.id = g.user_id AND u.disabled_at IS NULL AND u.epoch = g.user_epoch
		AND LENGTH(u.roles) <= r.max_roles)
	AND EXISTS (SELECT 1 FROM clients c WHERE c.id = g.client_id AND c.disabled_at IS NULL
		AND c.epoch = g.client_epoch AND r.revision IN (0, c.revision))` + rotateReturning

// rotateArrays are the arguments of rotateMany: one array for each column.
type rotateArrays struct {
	ids, presented, revisions, moments, idle, alive, maxRoles []int64
	families, callers, signers                                []string
}

func (a *rotateArrays) add(r rotation) {
	a.ids = append(a.ids, int64(r.ID))
	a.presented = append(a.presented, r.Generation)
	a.families = append(a.families, r.FamilyHash)
	a.callers = append(a.callers, r.Caller.ID)
	a.revisions = append(a.revisions, r.Caller.Revision)
	a.moments = append(a.moments, At(r.now).UnixMilli())
	a.signers = append(a.signers, r.KID)
	a.idle = append(a.idle, At(r.now.Add(r.IdleTTL)).UnixMilli())
	a.alive = append(a.alive, expiresAfter(r.now).UnixMilli())
	a.maxRoles = append(a.maxRoles, r.maxRoles())
}

func (a *rotateArrays) args() []any {
	return []any{
		pq.Array(a.ids),
		pq.Array(a.presented),
		pq.Array(a.families),
		pq.Array(a.callers),
		pq.Array(a.revisions),
		pq.Array(a.moments),
		pq.Array(a.signers),
		pq.Array(a.idle),
		pq.Array(a.alive),
		pq.Array(a.maxRoles),
	}
}

// rotateUnlocked is rotateSet for a grant that is not locked. PostgreSQL keeps its plan, while it plans rotateMany each
// time.
const rotateUnlocked = rotateSet + ` AND g.generation = $8
	AND g.id = (SELECT f.id FROM grants f WHERE f.id = $5 FOR NO KEY UPDATE SKIP LOCKED)` + rotateReturning

// rotateAtOnce rotates the grants that callers present at the same moment, in one statement. If the statement fails
// because of one row, all are judged alone.
func (g Grants) rotateAtOnce(all []rotation) ([]rotated, error) {
	if len(all) == 1 {
		var s GrantState
		err := g.db.engine.ChangeReturning(context.Background(), "refresh", &s, rotateUnlocked,
			all[0].rotateArgs(all[0].now)...)
		if errors.Is(err, ErrNotFound) {
			return make([]rotated, 1), nil
		}
		return []rotated{{state: &s}}, err
	}
	var arrays rotateArrays
	place := map[GrantID]int{} // in all
	for i, r := range all {
		if _, twice := place[r.ID]; !twice {
			place[r.ID] = i
			arrays.add(r)
		}
	}
	var done []rotatedRow
	err := g.db.engine.ChangeReturningAll(context.Background(), "refresh", &done, rotateMany, arrays.args()...)
	outcomes := make([]rotated, len(all))
	if engine.RolledBack(err) && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrBusy) {
		return outcomes, nil
	}
	for i := range done {
		row := &done[i]
		err := row.Roles.Scan(row.RolesText)
		outcomes[place[row.ID]] = rotated{&row.GrantState, err}
	}
	return outcomes, err
}
