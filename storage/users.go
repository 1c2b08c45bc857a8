package storage

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// User is a resource owner.
type User struct {
	ID           int64  `db:"id" json:"-"`
	Sub          string `db:"sub" json:"sub"` // opaque, never used again, never a client id
	Username     string `db:"username" json:"username"`
	PasswordHash string `db:"password_hash" json:"-"` // PHC string; "" for a user without a password
	Roles        List   `db:"roles" json:"roles"`
	Epoch        int64  `db:"epoch" json:"-"`    // incremented to end all grants of the user
	Revision     int64  `db:"revision" json:"-"` // incremented by every change that an administrator makes
	CreatedAt    Time   `db:"created_at" json:"created_at"`
	DisabledAt   *Time  `db:"disabled_at" json:"disabled_at"`
}

const userColumns = `id, sub, username, password_hash, roles, epoch, revision, created_at, disabled_at`

// Users is the table of users.
type Users struct{ db *DB }

// Users returns the table of users.
func (d *DB) Users() Users { return Users{d} }

// firstRevision is the revision of a new user.
const firstRevision = 1

// Create inserts the user with a new id. ErrConflict if the username is taken.
func (u Users) Create(ctx context.Context, by Actor, user User) (User, error) {
	user.ID, user.Revision = randomID(), firstRevision
	return user, u.db.inTx(ctx, "create user", func(t *tx) error {
		if err := t.insertUser(user); err != nil {
			return err
		}
		return t.audit(
			by,
			user.CreatedAt.Time,
			Event{"user.create", user.Sub, map[string]any{"username": user.Username, "roles": user.Roles}},
		)
	})
}

func (t *tx) insertUser(user User) error {
	_, err := t.Change(`INSERT INTO users (`+userColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		user.ID,
		user.Sub,
		user.Username,
		user.PasswordHash,
		user.Roles,
		user.Epoch,
		firstRevision,
		user.CreatedAt,
		user.DisabledAt)
	return err
}

// ByUsername reads one user. ErrNotFound.
func (u Users) ByUsername(ctx context.Context, username string) (User, error) {
	var user User
	return user, u.db.engine.Get(ctx, "user", &user, `SELECT `+userColumns+` FROM users WHERE username = $1`, username)
}

// UserSelection narrows Pages. The zero value selects all users.
type UserSelection struct {
	After    string // username, which comes before the first
	Prefix   string // of the username
	Role     string
	Disabled bool
}

// Pages hands the users of a selection, ordered by username and page by page, to do, until that returns an error.
func (u Users) Pages(ctx context.Context, f UserSelection, do func([]User) error) error {
	for {
		page, next, err := u.Page(ctx, f, engine.PageRows)
		if err != nil {
			return err
		}
		if len(page) > 0 {
			if err := do(page); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		f.After = next
	}
}

// Page reads the first users of a selection, at most limit. next is the username to go on after; "" if there are no
// more. A page may have fewer rows than limit, or none, although there are more: it examines a bounded number of users.
func (u Users) Page(ctx context.Context, f UserSelection, limit int) (page []User, next string, err error) {
	role, span := "", limit+1
	if f.Role != "" { // a role has no character that JSON escapes, except < > and &, which the column has escaped
		text, err := json.Marshal(f.Role)
		if err != nil {
			return nil, "", err
		}
		role = string(text)
	}
	if f.Prefix != "" || f.Role != "" || f.Disabled {
		span = engine.SparseRows
	}
	type found struct {
		Last string `db:"last"`
		N    int    `db:"n"`
	}
	// A username that begins with a text does not come before that text, in any collation.
	ends, err := engine.ReadSlowly[found](ctx, u.db.engine, engine.PageTimeout, "users",
		`SELECT COALESCE(MAX(username), '') AS last, COUNT(*) AS n FROM (SELECT username FROM users
		WHERE username > $1 AND username >= $2 ORDER BY username LIMIT $3) span`, f.After, f.Prefix, span)
	if err != nil || ends[0].N == 0 {
		return nil, "", err
	}
	page, err = engine.ReadSlowly[User](ctx, u.db.engine, engine.PageTimeout, "users",
		`SELECT `+userColumns+` FROM users
		WHERE username > $1 AND username >= $2 AND username <= $3 AND ($2 = '' OR substr(username, 1, $4) = $2)
		AND ($5 = '' OR REPLACE(roles, $5, '') <> roles) AND (NOT CAST($6 AS BOOLEAN) OR disabled_at IS NOT NULL)
		ORDER BY username LIMIT $7`,
		f.After, f.Prefix, ends[0].Last, utf8.RuneCountInString(f.Prefix), role, f.Disabled, limit+1)
	switch {
	case err != nil:
		return nil, "", err
	case len(page) > limit:
		return page[:limit], page[limit-1].Username, nil
	case ends[0].N == span && !u.beyond(ends[0].Last, f.Prefix):
		next = ends[0].Last
	}
	return page, next, nil
}

// beyond reports whether no username after this one begins with a prefix. SQLite orders by bytes. PostgreSQL may order
// by a language, where only the order of plain letters is certain.
func (u Users) beyond(username, prefix string) bool {
	if prefix == "" || username == "" || strings.HasPrefix(username, prefix) {
		return false
	}
	if u.db.Kind() == SQLite {
		return username > prefix
	}
	letter := func(c byte) bool { return 'a' <= c && c <= 'z' }
	return letter(username[0]) && letter(prefix[0]) && username[0] > prefix[0]
}

// Near lists usernames around a name, for suggestions.
func (u Users) Near(ctx context.Context, name string) ([]string, error) {
	return near(ctx, u.db, "users", "username", name)
}

// someRoles bounds the different role lists that SomeRoles reads.
const someRoles = 1000

// SomeRoles lists roles that users have, for suggestions.
func (u Users) SomeRoles(ctx context.Context) (roles []string, err error) {
	lists, err := engine.ReadSlowly[List](ctx, u.db.engine, engine.PageTimeout, "roles",
		`SELECT DISTINCT roles FROM users LIMIT $1`, someRoles)
	for _, list := range lists {
		for _, role := range list {
			if !slices.Contains(roles, role) {
				roles = append(roles, role)
			}
		}
	}
	return roles, err
}

// SetRoles replaces the roles of a user. ErrConflict or ErrChanged if they have changed since the user was read.
func (u Users) SetRoles(ctx context.Context, by Actor, user User, roles List, now time.Time) error {
	details := map[string]any{"username": user.Username, "roles": roles, "before": map[string]any{"roles": user.Roles}}
	return u.db.inTx(ctx, "user.update", func(t *tx) error {
		if by.Saw != 0 && user.Revision != by.Saw {
			return ErrChanged
		}
		if err := t.ChangeAsRead(`UPDATE users SET roles = $1, revision = revision + 1 WHERE id = $2 AND roles = $3
			AND CAST($4 AS BIGINT) IN (0, revision)`, roles, user.ID, user.Roles, by.Saw); err != nil {
			return err
		}
		return t.audit(by, now, Event{"user.update", user.Sub, details})
	})
}

// LongestRoles returns the enabled user with the longest roles of up to most bytes, as JSON text, and their length;
// "" if there is none. It reads the whole table: ErrTooSlow if that takes longer than within.
func (u Users) LongestRoles(
	ctx context.Context, most int, within time.Duration,
) (username string, bytes int64, err error) {
	type longest struct {
		Username string `db:"username"`
		Bytes    int64  `db:"bytes"`
	}
	rows, err := engine.ReadSlowly[longest](ctx, u.db.engine, within, "users",
		`SELECT username, LENGTH(roles) AS bytes FROM users
		WHERE disabled_at IS NULL AND LENGTH(roles) <= $1 ORDER BY LENGTH(roles) DESC, username LIMIT 1`, most)
	if err != nil || len(rows) == 0 {
		return "", 0, err
	}
	return rows[0].Username, rows[0].Bytes, nil
}

// UserFilter narrows Count. The zero value selects all users.
type UserFilter struct {
	RolesOver     int    // enabled users whose roles have more bytes than this, as JSON text; 0: any
	OtherHashThan string // users with a password hash of another prefix; "": any
}

// Count counts users. It reads the whole table: ErrTooSlow if that takes longer than within.
func (u Users) Count(ctx context.Context, f UserFilter, within time.Duration) (int64, error) {
	n, err := engine.ReadSlowly[int64](ctx, u.db.engine, within, "users", `SELECT COUNT(*) FROM users
		WHERE (CAST($1 AS BIGINT) = 0 OR disabled_at IS NULL AND LENGTH(roles) > CAST($1 AS BIGINT))
		AND ($2 = '' OR password_hash <> '' AND substr(password_hash, 1, $3) <> $2)`,
		f.RolesOver, f.OtherHashThan, len(f.OtherHashThan))
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// Disable ends all grants of the user and blocks logins.
func (u Users) Disable(ctx context.Context, by Actor, username string, now time.Time) error {
	return u.change(ctx, by, username, now, "user.disable", func(t *tx) error {
		if err := t.ChangeOne(
			`UPDATE users SET disabled_at = COALESCE(disabled_at, $1), epoch = epoch + 1 WHERE username = $2`,
			At(now),
			username,
		); err != nil {
			return err
		}
		return t.endUser(username, EndedUserDisabled, false, now)
	})
}

// Enable undoes Disable and forgets the failed logins of the account. The grants stay ended.
func (u Users) Enable(ctx context.Context, by Actor, username, account string, now time.Time) error {
	return u.change(ctx, by, username, now, "user.enable", func(t *tx) error {
		if err := t.unlock(account); err != nil {
			return err
		}
		return t.ChangeOne(`UPDATE users SET disabled_at = NULL WHERE username = $1`, username)
	})
}

// Delete removes the user, which also ends its grants. Its sub is never used again.
func (u Users) Delete(ctx context.Context, by Actor, username string, now time.Time) error {
	return u.change(ctx, by, username, now, "user.delete", func(t *tx) error {
		if err := t.endUser(username, EndedUserDeleted, true, now); err != nil {
			return err
		}
		if _, err := t.Change(`DELETE FROM familiar_addresses WHERE user_id IN (SELECT id FROM users
			WHERE username = $1)`, username); err != nil {
			return err
		}
		return t.ChangeOne(`DELETE FROM users WHERE username = $1`, username)
	})
}

// Unlock forgets the failed logins of the account. ErrNotFound.
func (u Users) Unlock(ctx context.Context, by Actor, username, account string, now time.Time) error {
	return u.change(ctx, by, username, now, "user.unlock", func(t *tx) error { return t.unlock(account) })
}

// SetPassword replaces the hash, ends all grants of the user and forgets the failed logins of the account.
func (u Users) SetPassword(ctx context.Context, by Actor, username, hash, account string, now time.Time) error {
	return u.change(ctx, by, username, now, "user.passwd", func(t *tx) error {
		if err := t.unlock(account); err != nil {
			return err
		}
		if err := t.ChangeOne(`UPDATE users SET password_hash = $1, epoch = epoch + 1 WHERE username = $2`,
			hash, username); err != nil {
			return err
		}
		return t.endUser(username, EndedPassword, false, now)
	})
}

// Rehash replaces a hash by one of the same password under a newer policy, unless the password has changed since.
func (u Users) Rehash(ctx context.Context, userID int64, old, hash string) error {
	_, err := u.db.engine.Change(
		ctx,
		"rehash",
		`UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3`,
		hash,
		userID,
		old,
	)
	return err
}

// RevokeGrants ends all grants of a user by incrementing its epoch. ErrNotFound.
func (u Users) RevokeGrants(ctx context.Context, by Actor, username string, now time.Time) error {
	return u.change(ctx, by, username, now, "user.revoke-grants", func(t *tx) error {
		if err := t.ChangeOne(`UPDATE users SET epoch = epoch + 1 WHERE username = $1`, username); err != nil {
			return err
		}
		return t.endUser(username, EndedUser, false, now)
	})
}

// change changes an existing user, with an audit record.
func (u Users) change(
	ctx context.Context,
	by Actor,
	username string,
	now time.Time,
	event string,
	change func(*tx) error,
) error {
	return u.db.inTx(ctx, event, func(t *tx) error {
		var user User
		if err := t.Get(&user, `UPDATE users SET revision = revision + 1 WHERE username = $1 RETURNING sub, revision`,
			username); err != nil {
			return err
		}
		if by.Saw != 0 && user.Revision != by.Saw+1 {
			return ErrChanged
		}
		if err := change(t); err != nil {
			return err
		}
		return t.audit(by, now, Event{event, user.Sub, map[string]any{"username": username}})
	})
}

// importBatch is how many users one statement inserts.
const importBatch = 512

// importTimeout bounds a whole import.
const importTimeout = time.Hour

// Import inserts all users, each with a new id, or none. It returns the usernames that are taken: if there are any, it
// inserts nothing (ErrConflict). With dry, it never inserts. It calls told now and then with the number of users
// processed.
func (u Users) Import(
	ctx context.Context,
	by Actor,
	users []User,
	dry bool,
	told func(n int),
) (taken []string, err error) {
	err = u.db.inLongTx(ctx, "import users", importTimeout, func(t *tx) error {
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
		return t.auditImport(by, users) // last, because all other changes wait from here on
	})
	if errors.Is(err, errDry) {
		err = nil
	}
	return taken, err
}

// errDry rolls back a dry run.
var errDry = errors.New("dry")

// importUsers inserts the users whose usernames are free, and returns the usernames that are taken.
func (t *tx) importUsers(users []User) (taken []string, err error) {
	const columns = 9 // of userColumns
	var places, names []string
	var values []any
	for i, u := range users {
		places = append(places, engine.Placeholders(i*columns, columns))
		values = append(values,
			randomID(),
			u.Sub,
			u.Username,
			u.PasswordHash,
			u.Roles,
			u.Epoch,
			firstRevision,
			u.CreatedAt,
			u.DisabledAt)
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
			details := map[string]any{"username": u.Username, "roles": u.Roles}
			entries = append(entries, entry{by, u.CreatedAt.Time, Event{"user.import", u.Sub, details}})
		}
		if err := t.auditAll(entries); err != nil {
			return err
		}
	}
	return nil
}
