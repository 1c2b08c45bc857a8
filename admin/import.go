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

// ImportedUser is a user as another system has it.
type ImportedUser struct {
	Row      int    // where it stands, from 1
	Username string // as it is written there
	// of the password, in one of the forms of oldhash.go; "": the user cannot log in until it is given a password
	Hash     string
	Roles    []string
	Disabled bool
	Problem  string // why the user cannot be imported, if that was seen when it was read
}

// RefusedUser is a user that is not imported, and why.
type RefusedUser struct {
	Row      int    `json:"row"`
	Username string `json:"username"`
	Reason   string `json:"reason"`
}

// ImportOptions say how an import is done.
type ImportOptions struct {
	SkipBad bool            // import the others where some are refused, a thousand at a time
	DryRun  bool            // import nobody
	Told    func(n, of int) // hears how many have been written; nil: nobody
}

// Import is what came of an import, or, if it was dry, what would.
type Import struct {
	Imported        int           `json:"imported"`
	Disabled        int           `json:"disabled"`         // of those: they were so before
	WithoutPassword int           `json:"without_password"` // of those: they cannot log in until they are given one
	Refused         []RefusedUser `json:"refused"`
}

// importBatch is how many users one transaction takes of an import that need not be whole: servers go on writing in
// between.
const importBatch = 1024

// Import makes users with the password hashes that they have elsewhere; each is replaced by one of ours when its
// user first logs in. All are imported or, if there is one to refuse, none, unless o.SkipBad. Who has been refused is
// no error.
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

// importer is an import under way.
type importer struct {
	users   Users
	told    func(n, of int)
	limit   roleLimit
	rows    map[string]ImportedUser // by canonical username, of those that are not refused
	refused []RefusedUser
	begun   int
}

func (i *importer) refuse(u ImportedUser, reason string) {
	i.refused = append(i.refused, RefusedUser{u.Row, u.Username, reason})
}

// check makes the users that nothing speaks against but, perhaps, that their usernames are taken.
func (i *importer) check(from []ImportedUser) (users []storage.User) {
	now := storage.At(i.users.now())
	for _, u := range from {
		name, err := i.users.username(u.Username)
		err = errors.Join(err, checkRoles(u.Roles), i.limit.check(unique(u.Roles)), checkHash(u.Hash))
		if u.Problem != "" {
			err = errors.New(u.Problem)
		}
		if before, twice := i.rows[name]; err == nil && twice {
			err = fmt.Errorf("row %d has the same username: %q and %q are one here", before.Row, before.Username, u.Username)
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

// checkHash refuses what no login could be judged by, or at too high a price.
func checkHash(text string) error {
	if text == "" {
		return nil
	}
	if !api.IsText(text) {
		return errors.New("password hash: it is not UTF-8, or holds NUL")
	}
	_, err := passwords.ParseImported(text)
	return err
}

// asImported is a hash as it is stored until its user logs in. One in the form of ours is written as Django does: it
// was not made of the canonical form of a password.
func asImported(hash string) string {
	if _, err := passwords.ParseArgon2id(hash); err == nil {
		return "argon2" + hash
	}
	return hash
}

// write writes users, or tries to. ErrConflict, with those whose usernames are taken, if there are any.
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

// result counts those who were written, and puts those who were not in order.
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
