package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// Create creates a user. It returns ErrInvalid if name, password or a role breaks a rule, ErrConflict if the name is
// taken.
func (a Users) Create(ctx context.Context, name, password string, roles []string) (storage.User, error) {
	name, err := a.username(name)
	if err != nil {
		return storage.User{}, err
	}
	if err := checkRoles(roles); err != nil {
		return storage.User{}, err
	}
	limit, err := a.roleLimit(ctx)
	if err != nil {
		return storage.User{}, err
	}
	if err := limit.check(unique(roles)); err != nil {
		return storage.User{}, err
	}
	hash, err := a.hashPassword(password)
	if err != nil {
		return storage.User{}, err
	}
	return a.db.Users().Create(ctx, a.by, storage.User{
		Sub:          api.NewSub(),
		Username:     name,
		PasswordHash: hash,
		Roles:        unique(roles),
		CreatedAt:    storage.At(a.now()),
	})
}

func checkRoles(roles []string) error {
	for _, role := range roles {
		if !api.IsScopeToken(role) || len(role) > api.MaxClientID {
			return invalid("role %q: want printable ASCII without space, \" and \\", role)
		}
	}
	return nil
}

// username returns the canonical form of a name.
func (a *core) username(name string) (string, error) {
	if !api.IsText(name) {
		return "", invalid("username: it is not UTF-8, or contains NUL")
	}
	canonical, err := passwords.CanonicalUsername(name)
	if err != nil || strings.HasPrefix(canonical, api.SubPrefix) {
		return "", invalid(
			"username %q: want 1 to 255 bytes of letters, digits, marks and ASCII punctuation without spaces "+
				"(RFC 8265), without the prefix %s",
			name,
			api.SubPrefix,
		)
	}
	return canonical, nil
}

// PasswordPolicy describes the rules for a new password.
func (a Users) PasswordPolicy() string {
	return fmt.Sprintf("A password has at least %d characters. A few words make a good one.",
		a.config.PasswordMinLength)
}

// CheckPassword returns ErrInvalid for a password that breaks a rule.
func (a Users) CheckPassword(password string) error {
	_, err := a.canonicalPassword(password)
	return err
}

// hashPassword checks a new password and hashes it.
func (a *core) hashPassword(password string) (string, error) {
	canonical, err := a.canonicalPassword(password)
	if err != nil {
		return "", err
	}
	return passwords.New(a.hashPolicy(), canonical).String(), nil
}

// canonicalPassword returns the canonical form of a new password. Its only rule is its length (NIST SP 800-63B).
func (a *core) canonicalPassword(password string) (string, error) {
	if !utf8.ValidString(password) { // precis would replace each byte by U+FFFD
		return "", invalid("password: it is not UTF-8")
	}
	if err := checkReplaced("password", password); err != nil {
		return "", err
	}
	canonical, err := passwords.Canonical(password)
	switch {
	case err != nil || strings.ContainsAny(password, "\x00\r\n"):
		return "", invalid(
			"password: it contains a character that RFC 8265 does not allow in passwords, such as a control character",
		)
	case utf8.RuneCountInString(canonical) < a.config.PasswordMinLength:
		return "", invalid("password: want at least %d characters; a few words make a good password",
			a.config.PasswordMinLength)
	case len(password) > passwords.MaxPassword || len(canonical) > passwords.MaxPassword:
		return "", invalid("password: want at most %d bytes", passwords.MaxPassword)
	}
	return canonical, nil
}

// UserFilter narrows List. The zero value selects all users.
type UserFilter = storage.UserSelection

// List calls do with the users of a filter, ordered by username, page by page, until do returns an error. It returns
// ErrNotFound if nobody has the role of the filter.
func (a Users) List(ctx context.Context, f UserFilter, do func([]User) error) error {
	found := false
	for _, name := range []*string{&f.Prefix, &f.After} {
		if canonical, err := passwords.CanonicalUsername(*name); err == nil {
			*name = canonical
		}
	}
	err := a.db.Users().Pages(ctx, f, func(page []User) error {
		found = true
		return do(page)
	})
	if err != nil || found || f.Role == "" {
		return err
	}
	roles, err := a.db.Users().SomeRoles(ctx)
	if err != nil || slices.Contains(roles, f.Role) {
		return err
	}
	return &MissingError{"role", f.Role, Nearest(f.Role, roles)}
}

// Find returns one user. ErrNotFound suggests a similar name.
func (a Users) Find(ctx context.Context, name string) (storage.User, error) {
	name, err := a.username(name)
	if err != nil {
		return storage.User{}, err
	}
	user, err := a.db.Users().ByUsername(ctx, name)
	return user, a.missing(ctx, "user", name, err)
}

// SetRoles replaces the roles of a user. No login ends: the next access token of each has the new roles. Unchanged
// roles are no change. It may return ErrNotFound or ErrInvalid.
func (a Users) SetRoles(ctx context.Context, name string, roles []string) (storage.User, error) {
	user, err := a.Find(ctx, name)
	if err != nil {
		return user, err
	}
	if err := checkRoles(roles); err != nil {
		return user, err
	}
	next := unique(roles)
	if slices.Equal(next, user.Roles) {
		return user, nil
	}
	limit, err := a.roleLimit(ctx)
	if err != nil {
		return user, err
	}
	if err := limit.check(next); err != nil && next.Size() > user.Roles.Size() {
		return user, err
	}
	if err := a.db.Users().SetRoles(ctx, a.by, user, next, a.now()); err != nil {
		return user, err
	}
	user.Roles = next
	return user, nil
}

// SetPassword gives the user a new password, ends all its grants and lifts its throttle. It may return ErrNotFound or
// ErrInvalid.
func (a Users) SetPassword(ctx context.Context, name, password string) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	hash, err := a.hashPassword(password)
	if err != nil {
		return err
	}
	err = a.db.Users().SetPassword(ctx, a.by, name, hash, storage.AccountBucket(name), a.now())
	return a.missing(ctx, "user", name, err)
}

// Enable lets a disabled user log in again and lifts its throttle. It may return ErrNotFound.
func (a Users) Enable(ctx context.Context, name string) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	return a.missing(ctx, "user", name, a.db.Users().Enable(ctx, a.by, name, storage.AccountBucket(name), a.now()))
}

// Disable ends all grants of the user and refuses new logins. It may return ErrNotFound.
func (a Users) Disable(ctx context.Context, name string) error {
	return a.onUser(ctx, name, a.db.Users().Disable)
}

// Delete deletes the user and its grants. It may return ErrNotFound.
func (a Users) Delete(ctx context.Context, name string) error {
	return a.onUser(ctx, name, a.db.Users().Delete)
}

// RevokeOfUser ends all grants of the user. It may return ErrNotFound.
func (a Grants) RevokeOfUser(ctx context.Context, name string) error {
	return a.onUser(ctx, name, a.db.Users().RevokeGrants)
}

func (a *core) onUser(
	ctx context.Context,
	name string,
	change func(context.Context, storage.Actor, string, time.Time) error,
) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	return a.missing(ctx, "user", name, change(ctx, a.by, name, a.now()))
}

func (a *core) hashPolicy() passwords.Policy {
	return passwords.NewPolicy(int64(a.config.PasswordHashMemory))
}
