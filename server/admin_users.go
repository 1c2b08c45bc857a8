package server

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// discard is the log of work that reports by its results.
var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// newSub is an opaque subject identifier: 128 random bits after subPrefix.
func newSub() string {
	b := make([]byte, 16)
	rand.Read(b)
	return subPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// CreateUser makes a user. ErrInvalid if name, password or a role breaks a rule, ErrConflict if the name is taken.
func (a *Admin) CreateUser(ctx context.Context, name, password string, roles []string) (storage.User, error) {
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
	return a.db.Users().Create(ctx, a.by, storage.User{Sub: newSub(), Username: name, PasswordHash: hash,
		Roles:     unique(roles),
		CreatedAt: storage.At(a.now())})
}

func checkRoles(roles []string) error {
	for _, role := range roles {
		if !isScopeToken(role) || len(role) > maxClientID {
			return invalid("role %q: printable ASCII without space, \" and \\", role)
		}
	}
	return nil
}

// username is the canonical form of a name that a person typed.
func (a *Admin) username(name string) (string, error) {
	if !isText(name) {
		return "", invalid("username: it is not UTF-8, or holds NUL")
	}
	canonical, err := passwords.CanonicalUsername(name)
	if err != nil || strings.HasPrefix(canonical, subPrefix) {
		return "", invalid(
			"username %q: 1 to 255 bytes of letters, digits, marks and ASCII punctuation without spaces (RFC 8265), not "+
				"beginning with %s",
			name,
			subPrefix,
		)
	}
	return canonical, nil
}

// hashPassword checks a new password against the policy: long enough, nothing else (NIST SP 800-63B).
func (a *Admin) hashPassword(password string) (string, error) {
	if !utf8.ValidString(password) { // precis would put U+FFFD in place of each byte
		return "", invalid("password: it is not UTF-8")
	}
	if err := checkReplaced("password", password); err != nil {
		return "", err
	}
	canonical, err := passwords.Canonical(password)
	switch {
	case err != nil || strings.ContainsAny(password, "\x00\r\n"):
		return "", invalid(
			"password: it holds a character that RFC 8265 does not allow in passwords, such as a control character",
		)
	case utf8.RuneCountInString(canonical) < a.config.PasswordMinLength:
		return "", invalid("password: at least %d characters; a few words make a good one", a.config.PasswordMinLength)
	case len(password) > passwords.MaxPassword || len(canonical) > passwords.MaxPassword:
		return "", invalid("password: at most %d bytes", passwords.MaxPassword)
	}
	return passwords.New(a.config.hashPolicy(), canonical).String(), nil
}

// EachUser hands all users, by username, to do, page by page, until that returns an error.
func (a *Admin) EachUser(ctx context.Context, do func([]User) error) error {
	return a.db.Users().Pages(ctx, do)
}

// User reads one user. ErrNotFound.
func (a *Admin) User(ctx context.Context, name string) (storage.User, error) {
	name, err := a.username(name)
	if err != nil {
		return storage.User{}, err
	}
	return a.db.Users().ByUsername(ctx, name)
}

// SetPassword gives the user another password, ends all its grants and lifts its throttle. ErrNotFound, ErrInvalid.
func (a *Admin) SetPassword(ctx context.Context, name, password string) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	hash, err := a.hashPassword(password)
	if err != nil {
		return err
	}
	return named("user", name, a.db.Users().SetPassword(ctx, a.by, name, hash, accountBucket(name), a.now()))
}

// EnableUser lets a disabled user log in again and lifts its throttle. ErrNotFound.
func (a *Admin) EnableUser(ctx context.Context, name string) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	return named("user", name, a.db.Users().Enable(ctx, a.by, name, accountBucket(name), a.now()))
}

// DisableUser ends all grants of the user and lets no new one begin. ErrNotFound.
func (a *Admin) DisableUser(ctx context.Context, name string) error {
	return a.onUser(ctx, name, a.db.Users().Disable)
}

// DeleteUser removes the user and with it its grants. ErrNotFound.
func (a *Admin) DeleteUser(ctx context.Context, name string) error {
	return a.onUser(ctx, name, a.db.Users().Delete)
}

// RevokeUserGrants ends all grants of the user. ErrNotFound.
func (a *Admin) RevokeUserGrants(ctx context.Context, name string) error {
	return a.onUser(ctx, name, a.db.Users().RevokeGrants)
}

func (a *Admin) onUser(
	ctx context.Context,
	name string,
	change func(context.Context, storage.Actor, string, time.Time) error,
) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	return named("user", name, change(ctx, a.by, name, a.now()))
}

// named says of what there is none.
func named(what, name string, err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s %q: %w", what, name, ErrNotFound)
	}
	return err
}

// EachGrant hands the grants that have not expired, newest first, to the hour, to do, page by page, until that returns
// an error. user and client narrow the list unless "".
func (a *Admin) EachGrant(ctx context.Context, user, client string, do func([]Grant) error) error {
	if user != "" {
		var err error
		if user, err = a.username(user); err != nil {
			return err
		}
	}
	now := a.now()
	filter := storage.GrantFilter{Username: user, ClientID: client}
	return a.db.Grants().Pages(ctx, filter, now, func(page []Grant) error {
		for i := range page {
			tellEnding(&page[i], now)
		}
		return do(page)
	})
}

// tellEnding gives a reason to a grant that ended without a mark on its own row: with its user or its client.
func tellEnding(g *storage.GrantState, now time.Time) {
	if g.RevokedReason == nil && !g.Live(now) {
		reason := "ended with its user or client"
		g.RevokedReason = &reason
	}
}

// Grant reads one grant by its text id. ErrNotFound, ErrInvalid.
func (a *Admin) Grant(ctx context.Context, id string) (storage.GrantState, error) {
	grant, err := storage.ParseGrantID(id)
	if err != nil {
		return storage.GrantState{}, invalid("%v", err)
	}
	g, err := a.db.Grants().State(ctx, grant)
	if err == nil {
		tellEnding(&g, a.now())
	}
	return g, err
}

// RevokeGrant ends one grant. ErrNotFound, ErrInvalid.
func (a *Admin) RevokeGrant(ctx context.Context, id string) error {
	grant, err := storage.ParseGrantID(id)
	if err != nil {
		return invalid("%v", err)
	}
	return a.db.Grants().RevokeByID(ctx, a.by, grant, a.now())
}

// RevokeClientGrants ends all grants of the client. ErrNotFound.
func (a *Admin) RevokeClientGrants(ctx context.Context, id string) error {
	return named("client", id, a.db.Clients().RevokeGrants(ctx, a.by, id, a.now()))
}

// RevokeAllGrants ends every grant there is.
func (a *Admin) RevokeAllGrants(ctx context.Context) error {
	return a.db.Grants().RevokeAll(ctx, a.by, a.now())
}

// EachAudit hands the records of the trail, oldest first, to do, page by page, until that returns an error. since and
// kind narrow the list unless they are zero.
func (a *Admin) EachAudit(ctx context.Context, since time.Time, kind string, do func([]AuditRecord) error) error {
	return a.db.Audit().Pages(ctx, storage.AuditFilter{Since: since, Type: kind}, do)
}

// SchemaStatus tells the version of the schema.
func (a *Admin) SchemaStatus(ctx context.Context) (storage.SchemaStatus, error) {
	return a.db.SchemaStatus(ctx)
}

// SchemaOf tells the version of the schema without opening more than the database, and changes nothing.
func SchemaOf(ctx context.Context, c Config) (storage.SchemaStatus, error) {
	if problems := c.Problems(false); problems != nil {
		return storage.SchemaStatus{}, &ConfigError{problems}
	}
	source, err := storage.ParseSource(c.Database, c.AllowInsecureDatabase)
	if err != nil {
		return storage.SchemaStatus{}, err
	}
	return storage.StatusOf(ctx, storage.Options{Source: source})
}
