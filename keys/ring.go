package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/queue"
	"github.com/keyturn/keyturn/storage"
)

const (
	// PollInterval is how often a replica reads the rows. It bounds the delay after which a replica knows of a rotation
	// or a revocation.
	PollInterval = time.Second
	// StaleAfter is the greatest age of a view by which a replica signs and verifies. An older view may still trust a
	// key that was revoked.
	StaleAfter = 10 * time.Second
	// missedBeat is the age of the last heartbeat at which no server can be running.
	missedBeat = HeartbeatInterval + 10*time.Second
	// pauseGap is the age of a view that shows an outage: the process was stopped, or the database was away.
	pauseGap = 3 * PollInterval
)

// ErrStale means that the rows could not be read for longer than StaleAfter, or that no key may sign.
var ErrStale = errors.New("no usable signing key")

// Ring holds the keys of one replica in memory: it signs, verifies and serves the JWKS. It is safe for concurrent use.
type Ring struct {
	db        *storage.DB
	settings  atomic.Pointer[Config]
	options   Options
	masters   masters
	view      atomic.Pointer[view]
	reserved  sync.Map // kid -> time.Time: this replica may sign until then without writing to the row
	outages   outages
	admission *queue.Queue
	cpus      *processors
	lifeCycle LifeCycle
	polling   sync.Mutex // one poll at a time
	away      bool       // the last poll failed; polling guards it
}

// Options are what a Ring depends on. The zero value is useful.
type Options struct {
	Now    func() time.Time // nil: time.Now
	Module CryptoModule     // nil: the one that Config.Signer names
	Log    *slog.Logger     // nil: slog.Default
	// ReadMaster reads the master key again. The Ring calls it when it meets a value sealed under another master key.
	// nil: the master key does not change.
	ReadMaster func() (*Master, error)
	// Wall is the clock of the machine, which is compared with the clock of the database. nil: Now.
	Wall func() time.Time
	// DatabaseNow returns the time of the database. nil: the database is asked.
	DatabaseNow func(context.Context) (time.Time, error)
	// Elapsed counts the time that passes, whatever happens to Now. nil: clock.Elapsed.
	Elapsed func() time.Duration
	// Sure returns a *clock.UnsureError if this replica is not sure of the time. nil: Wall is compared with
	// DatabaseNow.
	Sure func(context.Context) error
	// CPUs is the number of signatures that are computed at once. 0: GOMAXPROCS.
	CPUs int
	// Tolerant opens a Ring also if the rows were altered, so that a person can inspect and repair it. Such a Ring
	// neither signs nor verifies.
	Tolerant bool
	// LookTimeout bounds the search for a grant that needs an old key of refresh tokens. 0: ten seconds.
	LookTimeout time.Duration
}

// filled returns the options with the defaults for what is missing.
func (o Options) filled(db *storage.DB) Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.DatabaseNow == nil {
		o.DatabaseNow = db.Clock
	}
	if o.Wall == nil {
		o.Wall = o.Now
	}
	if o.Elapsed == nil {
		o.Elapsed = clock.Elapsed()
	}
	if o.CPUs == 0 {
		o.CPUs = runtime.GOMAXPROCS(0)
	}
	if o.LookTimeout == 0 {
		o.LookTimeout = lookTimeout
	}
	return o
}

// Open checks that the master key belongs to the database, creates missing symmetric keys and reads the signing keys.
// It creates no signing key: [LifeCycle.Maintain] does.
func Open(ctx context.Context, db *storage.DB, m *Master, c Config, o Options) (*Ring, error) {
	o = o.filled(db)
	if o.Module == nil {
		var err error
		if o.Module, err = NewCryptoModule(c.Signer, o.Log); err != nil {
			return nil, err
		}
	}
	r := &Ring{
		db:        db,
		options:   o,
		masters:   masters{read: o.ReadMaster, log: o.Log, forgotten: map[string]bool{}},
		admission: queue.New(admittedPerCPU*o.CPUs, signPace),
		cpus:      newProcessors(o.CPUs, o.Elapsed),
	}
	r.lifeCycle.ring = r
	r.settings.Store(&c)
	r.masters.all.Store(m)
	if err := claimDatabase(ctx, db, m); err != nil {
		return nil, err
	}
	if err := beginSecrets(ctx, db, m, o.Now()); err != nil {
		return nil, err
	}
	if err := r.Poll(ctx); err != nil {
		return nil, err
	}
	last, err := db.Meta().Timestamp(ctx, storage.TimestampHeartbeat)
	if now := o.Now(); err == nil && !last.IsZero() && now.Sub(last) > missedBeat {
		r.NoteOutage(last, now) // no server has run since
	}
	return r, err
}

func (r *Ring) config() Config { return *r.settings.Load() }

// Configure replaces the schedule.
func (r *Ring) Configure(c Config) { r.settings.Store(&c) }

// Module returns the module that signs.
func (r *Ring) Module() CryptoModule { return r.options.Module }

// LifeCycle returns the life cycle of the keys, which changes them.
func (r *Ring) LifeCycle() *LifeCycle { return &r.lifeCycle }

// Anchor returns the anchor in the file at path.
func (r *Ring) Anchor(path string) Anchor { return Anchor{r, path} }

// ScheduleRecord returns the record of the settings by which servers run.
func (r *Ring) ScheduleRecord() ScheduleRecord { return ScheduleRecord{r} }

// Run polls the rows each second, and when another replica announces a change, and takes the steps that are due. It
// ends with the context. A step may take long: polling does not wait for it.
func (r *Ring) Run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { r.every(ctx, r.db.SigningKeys().Changes(ctx), "poll", r.Poll) })
	both.Go(func() { r.every(ctx, nil, "upkeep", r.lifeCycle.Maintain) })
	both.Wait()
}

// every calls do each PollInterval, and at each value of changes.
func (r *Ring) every(ctx context.Context, changes <-chan struct{}, what string, do func(context.Context) error) {
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changes:
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			r.options.Log.Error("signing keys: "+what+" failed", "error", err)
		}
	}
}

// Poll reads the rows into a new view. If a value is sealed under an unknown master key, it reads the master key again.
// Rows that were altered outside keyturn make no view (*AlteredError): the old view stays.
func (r *Ring) Poll(ctx context.Context) error {
	r.polling.Lock()
	defer r.polling.Unlock()
	readAt, polled := r.options.Now(), r.options.Elapsed()
	set, secrets, err := r.read(ctx)
	if err != nil {
		r.away = true
		return err
	}
	v, err := r.newView(set, secrets, readAt)
	if errors.Is(err, ErrWrongMaster) && r.masters.reread() {
		v, err = r.newView(set, secrets, readAt)
	}
	if err != nil && !(r.options.Tolerant && v.tolerate(r.masters.load(), err)) {
		return errors.Join(err, r.heedRevocations(set))
	}
	r.db.Audit().UseKey(v.secrets.byPurpose[purposeAudit][0].key)
	if old := r.view.Load(); old != nil && r.away {
		r.NoteOutage(old.readAt, r.options.Now())
	} else if old != nil {
		r.notePause(old)
	}
	r.away, v.polled = false, polled
	r.view.Store(v)
	r.masters.forget(v)
	return nil
}

func (r *Ring) read(ctx context.Context) (storage.KeySet, []storage.SecretKey, error) {
	if err := r.db.CheckRole(ctx); err != nil {
		return storage.KeySet{}, nil, err
	}
	set, err := r.db.SigningKeys().All(ctx)
	if err != nil {
		return set, nil, err
	}
	secrets, err := r.db.SecretKeys().All(ctx)
	return set, secrets, err
}

// heedRevocations removes revoked keys from the view although the set was altered and makes no new view.
func (r *Ring) heedRevocations(set storage.KeySet) error {
	v := r.view.Load()
	if v == nil {
		return nil
	}
	less, err := v.withoutRevoked(r.masters.load(), set)
	if err == nil {
		r.view.Store(less)
	}
	return err
}

// ClockOff returns how far the clock of this machine is ahead of the clock of the database.
func (r *Ring) ClockOff(ctx context.Context) (time.Duration, error) {
	theirs, err := r.options.DatabaseNow(ctx)
	return r.options.Wall().Sub(theirs), err
}

// checkClock returns a *clock.UnsureError if this replica is not sure of the time.
func (r *Ring) checkClock(ctx context.Context) error {
	if r.options.Sure != nil {
		return r.options.Sure(ctx)
	}
	off, err := r.ClockOff(ctx)
	if err != nil {
		return err
	}
	return clock.CheckOff(off)
}

// fresh returns the view. It fails if the view is too old (ErrStale) or shows altered rows.
func (r *Ring) fresh() (*view, error) {
	v := r.view.Load()
	if age := r.options.Now().Sub(v.readAt); age > StaleAfter || age < -StaleAfter {
		return nil, fmt.Errorf("%w: the keys were read %v ago", ErrStale, age)
	}
	if v.altered != nil {
		return nil, v.altered
	}
	return v, nil
}

// intact reads the rows again and returns the view. It fails if they were altered.
func (r *Ring) intact(ctx context.Context) (*view, error) {
	if err := r.Poll(ctx); err != nil {
		return nil, err
	}
	v := r.view.Load()
	if v.altered != nil {
		return nil, v.altered
	}
	return v, nil
}

// Intact returns an *AlteredError if the Ring is tolerant and its rows were altered outside keyturn.
func (r *Ring) Intact() error { return r.view.Load().altered }

// Healthy returns nil if this replica can sign now.
func (r *Ring) Healthy() error {
	v, err := r.fresh()
	if err != nil {
		return err
	}
	if v.signers == nil {
		return fmt.Errorf("%w: there is no current key", ErrStale)
	}
	return nil
}

// Outages returns the last times at which this replica did not run or could not use the database, in order.
func (r *Ring) Outages() []storage.Span {
	r.notePause(r.view.Load())
	return r.outages.all()
}

// notePause notes an outage if the view is older than a few polls. Then the process was stopped, and requests in that
// time had no answer.
func (r *Ring) notePause(v *view) {
	if gap := r.options.Elapsed() - v.polled; gap > pauseGap {
		now := r.options.Now()
		r.NoteOutage(now.Add(-gap), now)
	}
}

// NoteOutage notes that the database was not usable between two moments.
func (r *Ring) NoteOutage(from, to time.Time) { r.outages.note(storage.Span{From: from, To: to}) }

// RotatesAt returns when the next key begins to sign, at the latest if the rotation waits for verifiers. It is zero if
// the rows do not say so.
func (r *Ring) RotatesAt() time.Time {
	v := r.view.Load()
	if v.altered != nil {
		return time.Time{}
	}
	return rotatesBy(v.rows, r.config(), r.options.Now())
}

// Lives returns the past and the planned future of all keys of the view, oldest first. It is empty if the rows were
// altered.
func (r *Ring) Lives() []Life {
	v := r.view.Load()
	if v.altered != nil {
		return []Life{}
	}
	return Lives(v.rows, r.config(), r.options.Now())
}

// Rows returns the rows of the view, newest first.
func (r *Ring) Rows() []storage.SigningKey { return r.view.Load().rows }

// Version returns the version of the key set of the view. Every change of the keys increments it.
func (r *Ring) Version() int64 { return r.view.Load().version }

// Secrets returns the symmetric keys of the view, whatever its age.
func (r *Ring) Secrets() *Secrets { return r.view.Load().secrets }

// FreshSecrets returns the symmetric keys. It returns ErrStale if there may be a newer key that this replica does not
// know.
func (r *Ring) FreshSecrets() (*Secrets, error) {
	v, err := r.fresh()
	if err != nil {
		return nil, err
	}
	return v.secrets, nil
}
