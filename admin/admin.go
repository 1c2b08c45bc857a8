// Package admin has the operations of administrators, for the command line, an API or a page: clients, users, grants,
// the audit trail, signing keys, import, copy, backup and restore. [Doctor] examines everything and changes nothing.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// VerdictReady is the verdict on a verifier that has the next key.
const VerdictReady = keys.VerdictReady

// Errors that callers distinguish.
var (
	ErrNotFound = storage.ErrNotFound
	ErrConflict = storage.ErrConflict
	// ErrChanged reports that something is not as the actor saw it (Options.Saw). It wraps ErrConflict.
	ErrChanged = storage.ErrChanged
	// ErrInvalid reports input that breaks a rule. The error names the rule.
	ErrInvalid = errors.New("invalid")
)

// Admin acts on the database directly, whether or not a server runs. The audit trail records every change with its
// actor.
type Admin struct{ *core }

// The operations of an Admin, by noun.
type (
	// Clients acts on registered clients and resource servers.
	Clients struct{ *core }
	// Users acts on the people who log in.
	Users struct{ *core }
	// Grants acts on logins.
	Grants struct{ *core }
	// Keys acts on signing keys.
	Keys struct{ *core }
	// Audit reads the audit trail.
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

// core is the state that all nouns share.
type core struct {
	config config.Config
	place  keys.Place
	store  keys.Store
	db     *storage.DB
	ring   *keys.Ring
	by     storage.Actor
	now    func() time.Time
	say    func(format string, args ...any) // may be nil
	count  time.Duration                    // maximum duration of a count
}

// Options name the actor and the reason, and how to open the database.
type Options struct {
	Actor  string
	Reason string
	// how and from where somebody comes to the admin API; "" on the command line
	Way, Address string
	Saw          int64 // what the actor decided on, a revision or the version of the key set; 0: whatever it is
	Create       bool  // create what does not exist: an SQLite database, the first tables
	// Migrate updates an older schema. Only the commands that say so may do it.
	Migrate bool
	Say     func(format string, args ...any) // prints a message for a person; may be nil
	Moved   bool                             // also open a database that was copied to another one
	Given   map[string]bool                  // settings of the command; the others are those of the servers
	Now     func() time.Time                 // nil: time.Now
	Count   time.Duration                    // maximum duration of a count; 0: three seconds
}

// Open opens database and keys of a place. c and p must be valid: see [config.Config.Problems], [keys.NewPlace].
func Open(ctx context.Context, c config.Config, p keys.Place, o Options) (*Admin, error) {
	if !api.IsText(o.Actor) || !api.IsText(o.Reason) {
		return nil, invalid("reason and actor: want valid UTF-8 without NUL")
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

// New returns an Admin on an open store. The caller closes the store.
func New(store keys.Store, c config.Config, p keys.Place, o Options) *Admin {
	all := &core{
		config: c,
		place:  p,
		store:  store,
		db:     store.DB,
		ring:   store.Ring,
		by:     storage.Actor{Name: o.Actor, Reason: o.Reason, Saw: o.Saw, Way: o.Way, Address: o.Address},
		now:    o.Now,
		say:    o.Say,
		count:  cmp.Or(o.Count, countTimeout),
	}
	if all.now == nil {
		all.now = time.Now
	}
	return &Admin{all}
}

// commandPatience is how long a command waits for a connection while servers use all of them.
const commandPatience = 20 * time.Second

// openForCommand opens database and keys. Busy servers must not stop a command in an incident, so it tries again.
func openForCommand(ctx context.Context, c config.Config, p keys.Place, o Options) (keys.Store, error) {
	options := keys.StoreOptions{
		Create:  o.Create,
		Migrate: o.Migrate,
		Keys:    keys.Options{Log: slog.New(slog.DiscardHandler), Tolerant: true},
	}
	for begun := time.Now(); ; {
		store, err := keys.OpenStore(ctx, p, keys.Config(c.Keys()), options)
		if !errors.Is(err, storage.ErrBusy) ||
			time.Since(begun) > commandPatience ||
			ctx.Err() != nil {
			return store, err
		}
		if o.Say != nil {
			o.Say("keyturn: PostgreSQL has no free connection: trying again")
		}
	}
}

// countTimeout bounds a count: a person waits for it.
const countTimeout = 3 * time.Second

// ErrTooSlow reports that a count or a list took too long.
var ErrTooSlow = storage.ErrTooSlow

// Because sets the reason of the following changes. It returns ErrInvalid for a reason that is not text.
func (a *Admin) Because(reason string) error {
	if !api.IsText(reason) {
		return invalid("reason: want valid UTF-8 without NUL")
	}
	a.by.Reason = reason
	return nil
}

// forced returns the actor of a change that may have overridden a safety check.
func (a *core) forced(forced bool) storage.Actor {
	by := a.by
	by.Forced = forced
	return by
}

// Missing lists what Open with Create would create at a place: the database, the master key.
func Missing(ctx context.Context, p keys.Place) (missing []string, err error) {
	file := p.Database.File()
	if file == "" {
		s, err := SchemaOf(ctx, p.Database)
		if err == nil && s.Version == 0 {
			missing = append(missing, "schema in the database "+p.Database.String())
		}
		return missing, err
	}
	if info, err := os.Stat(file); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		missing = append(missing, "database "+file)
	}
	if _, err := os.Stat(p.MasterKeyFile); errors.Is(err, os.ErrNotExist) {
		missing = append(missing, "master key "+p.MasterKeyFile)
	}
	return missing, nil
}

// Now returns the time of the clock that Admin uses.
func (a *Admin) Now() time.Time { return a.now() }

// Close closes the connections to the database.
func (a *Admin) Close() error { return a.store.Close() }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Results of Admin.
type (
	Client      = storage.Client
	SigningKey  = storage.SigningKey
	Gate        = keys.Gate
	Leak        = keys.Leak
	KeyLife     = keys.Life
	KeyMoment   = keys.Moment
	KeyIncident = keys.Incident
	KeyState    = storage.KeyState
	KeyStatus   = keys.Status
	Rotation    = keys.Rotation
	Revocation  = keys.Revocation
	Rewrapped   = keys.Rewrapped
	User        = storage.User
	AuditRecord = storage.AuditRecord
	Grant       = storage.ListedGrant
	Time        = storage.Time

	GrantID         = storage.GrantID
	PlannedRotation = keys.PlannedRotation
	Aftermath       = keys.Aftermath
	VerifierReading = keys.VerifierReading
	SchemaStatus    = storage.SchemaStatus
)
