package storage

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// User is a resource owner.
type User struct {
	ID           int64  `db:"id" json:"-"`
	Sub          string `db:"sub" json:"sub"` // opaque, never used again, never a client id
	Username     string `db:"username" json:"username"`
	PasswordHash string `db:"password_hash" json:"-"` // PHC string; "" for a user without a password
	Roles        List   `db:"roles" json:"roles"`
	Epoch        int64  `db:"epoch" json:"-"` // moves on to end all grants of the user at once
	CreatedAt    Time   `db:"created_at" json:"created_at"`
	DisabledAt   *Time  `db:"disabled_at" json:"disabled_at"`
}

const userColumns = `id, sub, username, password_hash, roles, epoch, created_at, disabled_at`

// CreateUser inserts the user, with a new id. ErrConflict if the username is taken.
func (d *DB) CreateUser(ctx context.Context, by Actor, u User) (User, error) {
	u.ID = randomID()
	return u, d.inTx(ctx, "create user", func(t *tx) error {
		if _, err := t.Change(`INSERT INTO users (`+userColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			u.ID, u.Sub, u.Username, u.PasswordHash, u.Roles, u.Epoch, u.CreatedAt, u.DisabledAt); err != nil {
			return err
		}
		return t.audit(
			by,
			u.CreatedAt.Time,
			Event{"user.create", u.Sub, map[string]any{"username": u.Username, "roles": u.Roles}},
		)
	})
}

// User reads one user. ErrNotFound if there is none of that username.
func (d *DB) User(ctx context.Context, username string) (User, error) {
	var u User
	return u, d.engine.Get(ctx, "user", &u, `SELECT `+userColumns+` FROM users WHERE username = $1`, username)
}

// UserPages hands all users, by username, to do, page by page, until that returns an error.
func (d *DB) UserPages(ctx context.Context, do func([]User) error) error {
	return engine.InPages(func(last *User) ([]User, error) {
		after := ""
		if last != nil {
			after = last.Username
		}
		return engine.ReadSlowly[User](ctx, d.engine, engine.PageTimeout, "users", `SELECT `+userColumns+` FROM users
			WHERE username > $1 ORDER BY username LIMIT $2`, after, engine.PageRows)
	}, do)
}

// LongestRoles is the user with the longest roles of at most so many bytes, as JSON text, of those who are not
// disabled, and how many bytes they are; "" if there is none. It reads the whole table: ErrTooSlow if that takes longer
// than within.
func (d *DB) LongestRoles(
	ctx context.Context, most int, within time.Duration,
) (username string, bytes int64, err error) {
	type longest struct {
		Username string `db:"username"`
		Bytes    int64  `db:"bytes"`
	}
	rows, err := engine.ReadSlowly[longest](ctx, d.engine, within, "users",
		`SELECT username, LENGTH(roles) AS bytes FROM users
		WHERE disabled_at IS NULL AND LENGTH(roles) <= $1 ORDER BY LENGTH(roles) DESC, username LIMIT 1`, most)
	if err != nil || len(rows) == 0 {
		return "", 0, err
	}
	return rows[0].Username, rows[0].Bytes, nil
}

// UsersWithLongRoles counts the users, of those who are not disabled, whose roles have more bytes than most, as JSON
// text. It reads the whole table: ErrTooSlow if that takes longer than within.
func (d *DB) UsersWithLongRoles(ctx context.Context, most int, within time.Duration) (int64, error) {
	n, err := engine.ReadSlowly[int64](ctx, d.engine, within, "users", `SELECT COUNT(*) FROM users
		WHERE disabled_at IS NULL AND LENGTH(roles) > $1`, most)
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// UsersWithout counts the users who have a password hash that does not begin so. It reads the whole table: ErrTooSlow
// if that takes longer than within.
func (d *DB) UsersWithout(ctx context.Context, prefix string, within time.Duration) (int64, error) {
	n, err := engine.ReadSlowly[int64](ctx, d.engine, within, "users", `SELECT COUNT(*) FROM users
		WHERE password_hash <> '' AND substr(password_hash, 1, $1) <> $2`, len(prefix), prefix)
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// DisableUser ends all grants of the user and lets no new one begin.
func (d *DB) DisableUser(ctx context.Context, by Actor, username string, now time.Time) error {
	return d.changeUser(ctx, by, username, now, "user.disable", func(t *tx) error {
		return t.ChangeOne(
			`UPDATE users SET disabled_at = COALESCE(disabled_at, $1), epoch = epoch + 1 WHERE username = $2`,
			At(now),
			username,
		)
	})
}

// EnableUser takes a DisableUser back and forgets the failed logins of the account. Grants that it ended stay ended.
func (d *DB) EnableUser(ctx context.Context, by Actor, username, account string, now time.Time) error {
	return d.changeUser(ctx, by, username, now, "user.enable", func(t *tx) error {
		if err := t.unlock(account); err != nil {
			return err
		}
		return t.ChangeOne(`UPDATE users SET disabled_at = NULL WHERE username = $1`, username)
	})
}

// DeleteUser removes the user. Its grants are dead without it; its sub is never used again.
func (d *DB) DeleteUser(ctx context.Context, by Actor, username string, now time.Time) error {
	return d.changeUser(ctx, by, username, now, "user.delete", func(t *tx) error {
		if _, err := t.Change(`DELETE FROM familiar_addresses WHERE user_id IN (SELECT id FROM users
			WHERE username = $1)`, username); err != nil {
			return err
		}
		return t.ChangeOne(`DELETE FROM users WHERE username = $1`, username)
	})
}

// UnlockUser forgets the failed logins of the account. ErrNotFound if there is no such user.
func (d *DB) UnlockUser(ctx context.Context, by Actor, username, account string, now time.Time) error {
	return d.changeUser(ctx, by, username, now, "user.unlock", func(t *tx) error { return t.unlock(account) })
}

// SetPassword replaces the hash, ends all grants of the user and forgets the failed logins of the account.
func (d *DB) SetPassword(ctx context.Context, by Actor, username, hash, account string, now time.Time) error {
	return d.changeUser(ctx, by, username, now, "user.passwd", func(t *tx) error {
		if err := t.unlock(account); err != nil {
			return err
		}
		return t.ChangeOne(`UPDATE users SET password_hash = $1, epoch = epoch + 1 WHERE username = $2`, hash, username)
	})
}

// Rehash replaces a hash by one of the same password under a better policy, unless the password has been changed since.
func (d *DB) Rehash(ctx context.Context, userID int64, old, hash string) error {
	_, err := d.engine.Change(
		ctx,
		"rehash",
		`UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3`,
		hash,
		userID,
		old,
	)
	return err
}

// changeUser makes one change of a user that is there, with its audit record.
func (d *DB) changeUser(
	ctx context.Context,
	by Actor,
	username string,
	now time.Time,
	event string,
	change func(*tx) error,
) error {
	return d.inTx(ctx, event, func(t *tx) error {
		var sub string
		if err := t.Get(&sub, `SELECT sub FROM users WHERE username = $1`, username); err != nil {
			return err
		}
		if err := change(t); err != nil {
			return err
		}
		return t.audit(by, now, Event{event, sub, map[string]any{"username": username}})
	})
}

// importBatch is how many users one statement inserts.
const importBatch = 512

// importTimeout bounds all of an import.
const importTimeout = time.Hour

// ImportUsers inserts users, each with a new id, all of them or none. It returns the usernames that are taken: if there
// are any, nothing is inserted (ErrConflict). With dry nothing is inserted either way. told hears, now and then, how
// many have been looked at.
func (d *DB) ImportUsers(
	ctx context.Context,
	by Actor,
	users []User,
	dry bool,
	told func(n int),
) (taken []string, err error) {
	err = d.inLongTx(ctx, "import users", importTimeout, func(t *tx) error {
		taken = nil
		for from := 0; from < len(users); {
			batch := users[from : from+batchSize(min(len(users)-from, importBatch))]
			missed, err := t.importUsers(batch)
			if err != nil {
				return err
			}
			taken, from = append(taken, missed...), from+len(batch)
			told(from)
		}
		switch {
		case len(taken) > 0:
			return ErrConflict
		case dry:
			return errDry
		}
		return t.auditImport(by, users) // at the end, since everybody else who changes something waits from here on
	})
	if errors.Is(err, errDry) {
		err = nil
	}
	return taken, err
}

// errDry takes back a transaction that was to show what would happen.
var errDry = errors.New("dry")

// importUsers inserts the users whose username is not taken, and returns the usernames that are.
func (t *tx) importUsers(users []User) (taken []string, err error) {
	const columns = 8 // of userColumns
	var places, names []string
	var values []any
	for i, u := range users {
		places = append(places, engine.Placeholders(i*columns, columns))
		values = append(values, randomID(), u.Sub, u.Username, u.PasswordHash, u.Roles, u.Epoch, u.CreatedAt, u.DisabledAt)
	}
	if err := t.All(&names, `INSERT INTO users (`+userColumns+`) VALUES `+strings.Join(places, ", ")+`
		ON CONFLICT (username) DO NOTHING
		RETURNING username`, values...); err != nil {
		return nil, err
	}
	inserted := map[string]bool{}
	for _, name := range names {
		inserted[name] = true
	}
	for _, u := range users {
		if !inserted[u.Username] {
			taken = append(taken, u.Username)
		}
	}
	return taken, nil
}

// auditImport writes a record for each user.
func (t *tx) auditImport(by Actor, users []User) error {
	for batch := range slices.Chunk(users, importBatch) {
		var entries []entry
		for _, u := range batch {
			entries = append(
				entries,
				entry{by, u.CreatedAt.Time, Event{"user.import", u.Sub, map[string]any{"username": u.Username, "roles": u.Roles}}},
			)
		}
		if err := t.auditAll(entries); err != nil {
			return err
		}
	}
	return nil
}
