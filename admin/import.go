package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// ImportedUser is a user of another system.
type ImportedUser struct {
	Row      int    // position in the file, from 1
	Username string // in the spelling of the file
	// a password hash that passwords.ParseImported accepts; "": the user cannot log in until it is given a password
	Hash     string
	Roles    []string
	Disabled bool
	Problem  string // why the user cannot be imported, if the reader found a reason
}

// RefusedUser is a user that is not imported, with the reason.
type RefusedUser struct {
	Row      int    `json:"row"`
	Username string `json:"username"`
	Reason   string `json:"reason"`
}

// ImportOptions control an import.
type ImportOptions struct {
	SkipBad bool            // skip refused users and import the others, in batches
	DryRun  bool            // import nobody
	Told    func(n, of int) // called with the number of written users; may be nil
}

// Import is the result of an import, or of a dry run.
type Import struct {
	Imported        int           `json:"imported"`
	Disabled        int           `json:"disabled"`         // of those: disabled in the other system
	WithoutPassword int           `json:"without_password"` // of those: they cannot log in until they are given one
	Refused         []RefusedUser `json:"refused"`
}

// importBatch is the number of users in one transaction of an import that skips refused users. Servers write in
// between.
const importBatch = 1024

// Import creates users with the password hashes of another system. The first login of a user replaces its hash by
// argon2id. Unless o.SkipBad, one refused user prevents the whole import. A refused user is not an error.
func (a Users) Import(ctx context.Context, from []ImportedUser, o ImportOptions) (Import, error) {
	limit, err := a.roleLimit(ctx)
	if err != nil {
		return Import{Refused: []RefusedUser{}}, err
	}
	i := importer{users: a, told: o.Told, rows: map[string]ImportedUser{}, limit: limit}
	users := i.check(from)
	batch, dry := max(len(users), 1), o.DryRun || len(i.refused) > 0 && !o.SkipBad
	if o.SkipBad {
		batch = importBatch
	}
	var written []storage.User
	for chunk := range slices.Chunk(users, batch) {
		begun := i.begun
		taken, err := i.write(ctx, chunk, dry)
		if errors.Is(err, ErrConflict) {
			chunk = slices.DeleteFunc(chunk, func(u storage.User) bool { return slices.Contains(taken, u.Username) })
			if o.SkipBad {
				_, err = i.write(ctx, chunk, dry)
			}
		}
		i.begun = begun + batch
		if err != nil && !errors.Is(err, ErrConflict) {
			return i.result(written), fmt.Errorf("after %d users: %w", len(written), err)
		}
		written = append(written, chunk...)
	}
	if len(i.refused) > 0 && !o.SkipBad {
		written = nil
	}
	return i.result(written), nil
}

// importer is one run of an import.
type importer struct {
	users   Users
	told    func(n, of int)
	limit   roleLimit
	rows    map[string]ImportedUser // accepted users, by canonical username
	refused []RefusedUser
	begun   int
}

func (i *importer) refuse(u ImportedUser, reason string) {
	i.refused = append(i.refused, RefusedUser{u.Row, u.Username, reason})
}

// check returns the users that are valid. Their usernames may still be taken.
func (i *importer) check(from []ImportedUser) (users []storage.User) {
	now := storage.At(i.users.now())
	for _, u := range from {
		name, err := i.users.username(u.Username)
		err = errors.Join(err, checkRoles(u.Roles), i.limit.check(unique(u.Roles)), checkHash(u.Hash))
		if u.Problem != "" {
			err = errors.New(u.Problem)
		}
		if before, twice := i.rows[name]; err == nil && twice {
			err = fmt.Errorf("row %d has the same username: %q and %q are equal in canonical form",
				before.Row, before.Username, u.Username)
		}
		if err != nil {
			i.refuse(u, strings.NewReplacer("\n", "; ", ErrInvalid.Error()+": ", "").Replace(err.Error()))
			continue
		}
		i.rows[name] = u
		made := storage.User{
			Sub:          api.NewSub(),
			Username:     name,
			PasswordHash: asImported(u.Hash),
			Roles:        unique(u.Roles),
			CreatedAt:    now,
		}
		if u.Disabled {
			made.DisabledAt = &now
		}
		users = append(users, made)
	}
	return users
}

// checkHash refuses hashes that no login could be checked against, or only at too high a cost.
func checkHash(text string) error {
	if text == "" {
		return nil
	}
	if !api.IsText(text) {
		return errors.New("password hash: it is not UTF-8, or contains NUL")
	}
	_, err := passwords.ParseImported(text)
	return err
}

// asImported returns the stored form of a hash until its user logs in. An argon2id hash gets the prefix of Django,
// because the other system did not hash the canonical form of the password.
func asImported(hash string) string {
	if _, err := passwords.ParseArgon2id(hash); err == nil {
		return "argon2" + hash
	}
	return hash
}

// write writes users, or tries to. If usernames are taken, it returns them with ErrConflict.
func (i *importer) write(ctx context.Context, users []storage.User, dry bool) (taken []string, err error) {
	taken, err = i.users.db.Users().Import(ctx, i.users.by, users, dry, func(n int) {
		if i.told != nil {
			i.told(min(i.begun+n, len(i.rows)), len(i.rows))
		}
	})
	for _, name := range taken {
		i.refuse(i.rows[name], "the username is taken")
	}
	return taken, err
}

// result counts the written users, and sorts the refused ones by row.
func (i *importer) result(written []storage.User) Import {
	slices.SortStableFunc(i.refused, func(a, b RefusedUser) int { return cmp.Compare(a.Row, b.Row) })
	r := Import{Imported: len(written), Refused: append([]RefusedUser{}, i.refused...)}
	for _, u := range written {
		if u.DisabledAt != nil {
			r.Disabled++
		}
		if u.PasswordHash == "" {
			r.WithoutPassword++
		}
	}
	return r
}
