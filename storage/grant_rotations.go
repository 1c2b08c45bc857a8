package storage

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/lib/pq"
)

// rotation is a refresh with the newest token, as rotateFresh sees it.
type rotation struct {
	Refresh
	now time.Time
}

// rotated is the outcome of a rotation.
type rotated struct {
	state *GrantState // after the rotation; nil: nothing has changed
	apart bool        // nothing has changed, since the grant must be judged apart from others
}

// rotateMany rotates several grants of PostgreSQL. It judges each row as rotateFresh does, and skips those that are
// locked: one grant must not delay the others. It takes the locks in the order of the ids, so that two replicas do not
// wait for each other.
const rotateMany = `UPDATE grants AS g SET generation = r.presented + 1, rotated_at = r.moment,
	idle_expires_at = LEAST(g.expires_at, r.idle), kid = r.signer
	FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[],
		$8::bigint[], $9::bigint[], $10::bigint[])
		AS r (grant_id, presented, family, caller, revision, moment, signer, idle, alive_at, max_roles),
	(SELECT f.id AS unlocked FROM grants f WHERE f.id = ANY($1) ORDER BY f.id FOR NO KEY UPDATE SKIP LOCKED) AS free
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

// rotateAtOnce rotates the grants that callers present at the same moment, in one statement. A failure that one of the
// rows may have caused is none of the others: then all are judged apart.
func (g Grants) rotateAtOnce(all []rotation) ([]rotated, error) {
	if len(all) == 1 {
		state, err := g.rotateOne(context.Background(), all[0])
		if errors.Is(err, ErrNotFound) {
			return []rotated{{}}, nil
		}
		return []rotated{{state: &state}}, err
	}
	var arrays rotateArrays
	place := map[GrantID]int{} // in all
	for _, i := range inOrder(len(all), func(i int) GrantID { return all[i].ID }) {
		if _, twice := place[all[i].ID]; !twice {
			place[all[i].ID] = i
			arrays.add(all[i])
		}
	}
	var done []GrantState
	err := g.db.engine.ChangeReturningAll(context.Background(), "refresh", &done, rotateMany, arrays.args()...)
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy) {
		return nil, err
	}
	outcomes := slices.Repeat([]rotated{{apart: true}}, len(all))
	for i := range done {
		outcomes[place[done[i].ID]] = rotated{state: &done[i]}
	}
	return outcomes, nil
}
