package admin

import (
	"context"
	"errors"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// PageSize is the number of rows of a page of the admin API.
const PageSize = 100

// Page is a part of a list. Next is where the next page begins, for the filter; the zero value ends the list. A page
// may have few rows, or none, although there are more.
type Page[Row, Key any] struct {
	Rows []Row
	Next Key
}

// ErrUnavailable reports that the database does not answer.
var ErrUnavailable = storage.ErrUnavailable

// Altered reports whether an error means that rows were changed outside keyturn. Its text says what to do.
func Altered(err error) bool {
	var altered *keys.AlteredError
	return errors.As(err, &altered) || errors.Is(err, storage.ErrAltered)
}

// cutAt makes a page of up to PageSize rows from one more.
func cutAt[Row, Key any](rows []Row, key func(Row) Key) Page[Row, Key] {
	p := Page[Row, Key]{Rows: rows}
	if len(rows) > PageSize {
		p.Rows = rows[:PageSize]
		p.Next = key(p.Rows[PageSize-1])
	}
	return p
}

// Page returns the first clients after an id.
func (a Clients) Page(ctx context.Context, after string) (Page[Client, string], error) {
	rows, err := a.db.Clients().After(ctx, after, PageSize+1)
	return cutAt(rows, func(c Client) string { return c.ID }), err
}

// Page returns the first verifiers after a name.
func (a Verifiers) Page(ctx context.Context, after string) (Page[Verifier, string], error) {
	stored, err := a.db.Verifiers().After(ctx, after, PageSize+1)
	rows := make([]Verifier, len(stored))
	for i, v := range stored {
		rows[i] = a.withURI(v)
	}
	return cutAt(rows, func(v Verifier) string { return v.Name }), err
}

// Page returns the first users of a filter.
func (a Users) Page(ctx context.Context, f UserFilter) (Page[User, string], error) {
	for _, name := range []*string{&f.Prefix, &f.After} {
		if canonical, err := passwords.CanonicalUsername(*name); err == nil {
			*name = canonical
		}
	}
	rows, next, err := a.db.Users().Page(ctx, f, PageSize)
	return Page[User, string]{rows, next}, err
}

// Page returns the first grants of a filter. It may return ErrNotFound for the user or the client of the filter.
func (a Grants) Page(ctx context.Context, f GrantFilter) (p Page[Grant, storage.GrantID], err error) {
	if f, err = a.named(ctx, f); err != nil {
		return p, err
	}
	p.Rows, p.Next, err = a.db.Grants().Page(ctx, f, a.now(), PageSize)
	return p, err
}

// Page returns the first records of a filter. A target may also be a username.
func (a Audit) Page(ctx context.Context, f AuditFilter) (p Page[AuditRecord, int64], err error) {
	if user, err := Users(a).Find(ctx, f.Target); f.Target != "" && err == nil {
		f.Target = user.Sub
	}
	p.Rows, p.Next, err = a.db.Audit().Page(ctx, f, PageSize)
	return p, err
}

// LastChange returns the newest record about a client, a user or the keys. noun is client, user or key; target is ""
// for the keys. It may return ErrNotFound.
func (a Audit) LastChange(ctx context.Context, noun, target string) (AuditRecord, error) {
	if noun == "user" {
		user, err := Users(a).Find(ctx, target)
		if err != nil {
			return AuditRecord{}, err
		}
		target = user.Sub
	}
	return a.db.Audit().LastOf(ctx, noun, target)
}

// UserDetails is a user with the throttle of the account.
type UserDetails struct {
	User
	Throttle []ThrottleState `json:"throttle"`
}

// Details finds a user. It may return ErrNotFound.
func (a Users) Details(ctx context.Context, name string) (d UserDetails, err error) {
	if d.User, err = a.Find(ctx, name); err != nil {
		return d, err
	}
	d.Throttle, err = a.Throttle(ctx, name)
	return d, err
}

// PlannedRevocation is what a revocation would do.
type PlannedRevocation struct {
	Revocation
	Verifiers []Aftermath `json:"verifiers"` // registered verifiers that would need somebody to act; null: unknown
}

// StillTrusting returns what is to be expected of registered verifiers after the revocation of a key, and which of them
// trust any key that was revoked.
func (a Keys) StillTrusting(ctx context.Context, kid string) ([]Aftermath, error) {
	done, err := a.ring.LifeCycle().PlanRevocation(ctx, keys.Leak{KID: kid})
	if err != nil {
		return nil, err
	}
	done.Revoked = a.In(storage.KeyRevoked)
	return a.Aftermaths(ctx, done)
}

// PlanRevocation returns what Revoke would do to one key, and changes nothing. A key that it would make has no kid.
func (a Keys) PlanRevocation(ctx context.Context, kid string) (p PlannedRevocation, err error) {
	if p.Revocation, err = a.ring.LifeCycle().PlanRevocation(ctx, keys.Leak{KID: kid}); err != nil {
		return p, err
	}
	p.Verifiers, err = a.Aftermaths(ctx, p.Revocation)
	return p, err
}

// ParseDuration reads a duration in the form of the settings, such as 24h or 7d. It may return ErrInvalid.
func ParseDuration(text string) (time.Duration, error) {
	span, err := config.ParseDuration(text)
	if err != nil {
		err = invalid("%v", err)
	}
	return span, err
}
