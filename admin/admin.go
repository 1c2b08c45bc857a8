// Package admin is what people may do with keyturn, whether they come by the command line, an API or a page: clients,
// users, grants, the audit trail, signing keys, import, copy, backup and restore. [Doctor] examines everything and
// changes nothing.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Errors of Admin that a caller tells apart.
var (
	ErrNotFound = storage.ErrNotFound
	ErrConflict = storage.ErrConflict
	// ErrInvalid says that what was asked for breaks a rule, which the error names.
	ErrInvalid = errors.New("invalid")
)

// Admin acts on the database directly, whether a server runs or not. Every change is written to the audit trail under the
// name of the actor.
type Admin struct{ *core }

// What an Admin acts on, by noun.
type (
	// Clients are the clients and resource servers that are registered.
	Clients struct{ *core }
	// Users are the people who log in.
	Users struct{ *core }
	// Grants are the logins.
	Grants struct{ *core }
	// Keys are the signing keys.
	Keys struct{ *core }
	// Audit is the audit trail.
	Audit struct{ *core }
)

// Clients acts on clients.
func (a *Admin) Clients() Clients { return Clients(*a) }

// Users acts on users.
func (a *Admin) Users() Users { return Users(*a) }

// Grants acts on grants.
func (a *Admin) Grants() Grants { return Grants(*a) }

// Keys acts on signing keys.
func (a *Admin) Keys() Keys { return Keys(*a) }

// Audit reads the audit trail.
func (a *Admin) Audit() Audit { return Audit(*a) }

// core is what all nouns share.
type core struct {
	config config.Config
	place  keys.Place
	store  keys.Store
	db     *storage.DB
	ring   *keys.Ring
	by     storage.Actor
	now    func() time.Time
	say    func(format string, args ...any) // nil: nobody listens
	count  time.Duration                    // how long a count may take
}

// Options say who acts and why.
type Options struct {
	Actor  string
	Reason string
	Create bool                             // make an SQLite database that is not there yet
	Say    func(format string, args ...any) // prints a message for a person; nil: nobody
	Moved  bool                             // also open a database that was copied to another
	Given  map[string]bool                  // the settings that the command was given: servers decide about the others
	Now    func() time.Time                 // nil: time.Now
	Count  time.Duration                    // how long a count may take; 0: three seconds
}

// Open opens database and keys of a place. c and p must keep the rules: see [config.Config.Problems], [keys.NewPlace].
func Open(ctx context.Context, c config.Config, p keys.Place, o Options) (*Admin, error) {
	if !api.IsText(o.Actor) || !api.IsText(o.Reason) {
		return nil, invalid("reason and actor: valid UTF-8 without NUL")
	}
	store, err := openForCommand(ctx, c, p, o)
	if err != nil {
		return nil, err
	}
	if !o.Moved {
		if err := store.CheckMoved(ctx); err != nil {
			store.Close()
			return nil, err
		}
	}
	a := New(store, c, p, o)
	if err := a.followServers(ctx, o.Given); err != nil {
		store.Close()
		return nil, err
	}
	return a, nil
}

// New is an Admin on a store that is open. Whoever opened the store closes it.
func New(store keys.Store, c config.Config, p keys.Place, o Options) *Admin {
	all := &core{
		config: c,
		place:  p,
		store:  store,
		db:     store.DB,
		ring:   store.Ring,
		by:     storage.Actor{Name: o.Actor, Reason: o.Reason},
		now:    o.Now,
		say:    o.Say,
		count:  cmp.Or(o.Count, countTimeout),
	}
	if all.now == nil {
		all.now = time.Now
	}
	return &Admin{all}
}

// commandPatience is how long a command waits for a connection where servers use all that PostgreSQL gives.
const commandPatience = 20 * time.Second

// openForCommand opens database and keys. Somebody who acts in an incident does not go away because servers are busy.
func openForCommand(ctx context.Context, c config.Config, p keys.Place, o Options) (keys.Store, error) {
	options := keys.StoreOptions{
		Create:  o.Create,
		Migrate: c.Migrate,
		Keys:    keys.Options{Log: slog.New(slog.DiscardHandler), Tolerant: true},
	}
	for begun := time.Now(); ; {
		store, err := keys.OpenStore(ctx, p, keys.Config(c.Keys()), options)
		if !errors.Is(err, storage.ErrBusy) || time.Since(begun) > commandPatience || ctx.Err() != nil {
			return store, err
		}
		if o.Say != nil {
			o.Say("keyturn: PostgreSQL gives no further connection now: trying again")
		}
	}
}

// countTimeout bounds what is counted for people: somebody waits for it who may be in a hurry.
const countTimeout = 3 * time.Second

// ErrTooSlow says that something was not counted, or listed, because that took too long.
var ErrTooSlow = storage.ErrTooSlow

// Now is the time by which Admin judges.
func (a *Admin) Now() time.Time { return a.now() }

// Close ends the connections to the database.
func (a *Admin) Close() error { return a.store.Close() }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// What Admin shows, under the names that its callers know.
type (
	Client       = storage.Client
	SigningKey   = storage.SigningKey
	KeyUse       = storage.KeyUse
	Leak         = keys.Leak
	KeyLife      = keys.Life
	KeyMoment    = keys.Moment
	KeyState     = storage.KeyState
	KeyStatus    = keys.Status
	Rotation     = keys.Rotation
	Revocation   = keys.Revocation
	Rewrapped    = keys.Rewrapped
	User         = storage.User
	AuditRecord  = storage.AuditRecord
	Grant        = storage.GrantState
	Time         = storage.Time
	SchemaStatus = storage.SchemaStatus
)
