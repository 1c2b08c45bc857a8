package storage

import (
	"context"
	"time"
)

// Reasons for which all logins of a user or client end.
const (
	EndedUserDisabled   = "user disabled"
	EndedUserDeleted    = "user deleted"
	EndedPassword       = "password changed"
	EndedUser           = "all logins of the user ended by administrator"
	EndedClientDisabled = "client disabled"
	EndedClientDeleted  = "client deleted"
	EndedClient         = "all logins of the client ended by administrator"
	EndedAll            = "all logins ended by administrator"
	EndedRestore        = "database restored"
)

// Endings is the table of the moments at which all logins of a user or client ended together. The epoch of a grant
// decides whether it is live. This table only tells people when and why it ended.
type Endings struct{ db *DB }

// Endings returns the table of endings.
func (d *DB) Endings() Endings { return Endings{d} }

const insertEnding = `INSERT INTO endings (owner, epoch, ended_at, reason) `

// endUser records that all logins of a user have ended, and marks their places in the status lists. Call it after the
// epoch was incremented, or, with gone, before the user is deleted.
func (t *tx) endUser(username, reason string, gone bool, now time.Time) error {
	_, err := t.Change(insertEnding+`SELECT 'user:' || id, epoch - CAST($1 AS BIGINT), CAST($2 AS BIGINT),
		CAST($3 AS TEXT) FROM users WHERE username = $4 ON CONFLICT (owner, epoch) DO NOTHING`,
		epochsAgo(gone), At(now), reason, username)
	if err != nil {
		return err
	}
	return t.markUser(username, now)
}

// endClient is endUser for a client; "" for every client.
func (t *tx) endClient(id, reason string, gone bool, now time.Time) error {
	_, err := t.Change(insertEnding+`SELECT 'client:' || id, epoch - CAST($1 AS BIGINT), CAST($2 AS BIGINT),
		CAST($3 AS TEXT) FROM clients WHERE id = $4 OR $4 = '' ON CONFLICT (owner, epoch) DO NOTHING`,
		epochsAgo(gone), At(now), reason, id)
	return err
}

// epochsAgo returns how many epochs ago the ended logins began.
func epochsAgo(gone bool) int {
	if gone {
		return 0
	}
	return 1
}

// Clean deletes up to limit endings from before the given time. It returns how many.
func (e Endings) Clean(ctx context.Context, before time.Time, limit int) (int64, error) {
	return e.db.engine.Change(ctx, "clean endings", `DELETE FROM endings WHERE (owner, epoch) IN
		(SELECT owner, epoch FROM endings WHERE ended_at < $1 ORDER BY ended_at LIMIT $2)`, At(before), limit)
}
