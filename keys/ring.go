package keys

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/queue"
	"github.com/keyturn/keyturn/storage"
)

const (
	// PollInterval is how often a replica reads the rows: the bound within which it knows of a rotation or a revocation.
	PollInterval = time.Second
	// StaleAfter is how old the view of a replica may be before it refuses to sign or to call a token active, rather than
	// trust a key that may have been revoked.
	StaleAfter = 10 * time.Second
	// missedBeat is how old a heartbeat is of which the next has not come: no server runs.
	missedBeat = HeartbeatInterval + 10*time.Second
	// pauseGap is how old the view of a replica may be before it has been stopped meanwhile, or its database was away.
	pauseGap = 3 * PollInterval
	// signAhead is how far beyond a token's expiry the row of its key is moved on, so that not every token writes to it.
	signAhead = time.Minute
)

var (
	// ErrStale says that the rows could not be read for longer than StaleAfter, or that no key may sign.
	ErrStale = errors.New("no signing key of which this replica is sure")
	// ErrBusy says that too many tokens are to be signed at once for another to be signed in time. It comes with a
	// *queue.BusyError.
	ErrBusy = errors.New("too many tokens to sign")
	// ErrToken says that a text is no token that a key of this ring signed. It never says more.
	ErrToken = errors.New("not a token of this server")
	// ErrRevoked says that a text names a key that has been revoked. Whether that key signed it is not asked any more.
	ErrRevoked = errors.New("the key has been revoked")
)

// Ring is the keys of one replica. It is safe for concurrent use.
type Ring struct {
	db         *storage.DB
	settings   atomic.Pointer[Config]
	options    Options
	master     atomic.Pointer[Master]
	view       atomic.Pointer[view]
	reserved   sync.Map // kid -> time.Time: until when this replica may sign without asking
	outages    outages
	admission  *queue.Queue
	cpus       chan struct{}
	polling    sync.Mutex      // one poll at a time
	sealer     string          // id of the master key that seals; under polling, as are the next three
	superseded []string        // ids of those that sealed before
	forgotten  map[string]bool // ids of those that are not believed any more
	away       bool            // the last poll failed
	looked     time.Time       // when Maintain last asked whether an old refresh key is in use; Maintain alone uses it
}

// Options are the ring's sources of time, keys and words. The zero value is useful.
type Options struct {
	Now      func() time.Time                        // nil: time.Now
	Generate func(bits int) (*rsa.PrivateKey, error) // nil: rsa.GenerateKey
	Log      *slog.Logger                            // nil: slog.Default
	// ReadMaster reads the master key again, when something turns up that was sealed under another. nil: it does not
	// change.
	ReadMaster func() (*Master, error)
	// Wall is the clock of the machine, which is compared with that of the database. nil: Now.
	Wall func() time.Time
	// DatabaseNow is the time of the database. nil: its clock is asked.
	DatabaseNow func(context.Context) (time.Time, error)
	// Elapsed is the time that passes, whatever happens to Now. nil: clock.Elapsed.
	Elapsed func() time.Duration
	// Sure tells whether this replica is sure of the time (*clock.UnsureError). nil: Wall is compared with DatabaseNow.
	Sure func(context.Context) error
	// CPUs is how many signatures are computed at once. 0: as many as Go runs on.
	CPUs int
	// Tolerant opens a ring whose rows were altered, so that a person can see it and act. It neither signs nor verifies.
	Tolerant bool
	// LookTimeout bounds the search for a login that needs an old key of refresh tokens. 0: ten seconds.
	LookTimeout time.Duration
}

// config is the settings of now.
func (r *Ring) config() Config { return *r.settings.Load() }

// Open claims the database for the master key, makes the symmetric keys that are missing and reads the signing keys. It
// makes no signing key: Maintain does.
func Open(ctx context.Context, db *storage.DB, m *Master, c Config, o Options) (*Ring, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Generate == nil {
		o.Generate = func(bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }
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
	r := &Ring{
		db:        db,
		options:   o,
		forgotten: map[string]bool{},
		admission: queue.New(admittedPerCPU*o.CPUs, signPace),
		cpus:      make(chan struct{}, o.CPUs),
	}
	r.settings.Store(&c)
	r.master.Store(m)
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
		r.Away(last, now) // nobody has served since
	}
	return r, err
}

// Run polls the rows every second, and when another replica tells of a change, and takes the steps that are due, until
// the context ends. The steps may take their time, a new key above all; polling does not wait for them.
func (r *Ring) Run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { r.every(ctx, r.db.SigningKeys().Changes(ctx), "poll", r.Poll) })
	both.Go(func() { r.every(ctx, nil, "upkeep", r.Maintain) })
	both.Wait()
}

// every does something each PollInterval, and when a value comes.
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

// Poll reads the rows into a new view. What was sealed under a master key that this replica does not have makes it read
// the master key again. Rows that were altered outside keyturn (*AlteredError) make no view: nothing takes the place of
// what is missing.
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
	if errors.Is(err, ErrWrongMaster) && r.rereadMaster() {
		v, err = r.newView(set, secrets, readAt)
	}
	if err != nil && !(r.options.Tolerant && v.tolerate(r.master.Load(), err)) {
		return errors.Join(err, r.heedRevocations(set))
	}
	r.db.Audit().UseKey(v.secrets.byPurpose[purposeAudit][0].key)
	if old := r.view.Load(); old != nil && r.away {
		r.Away(old.readAt, r.options.Now())
	} else if old != nil {
		r.notePause(old)
	}
	r.away, v.polled = false, polled
	r.view.Store(v)
	r.forgetMasters(v)
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

// heedRevocations takes keys that were revoked out of the view also when the set makes no new one, because it was
// altered.
func (r *Ring) heedRevocations(set storage.KeySet) error {
	v := r.view.Load()
	if v == nil {
		return nil
	}
	less, err := v.withoutRevoked(r.master.Load(), set)
	if err == nil {
		r.view.Store(less)
	}
	return err
}

// forgetMasters lets go of master keys that this replica has seen seal and be superseded, once nothing is under them
// any more: whoever has an old one and can write the tables must not be believed.
func (r *Ring) forgetMasters(v *view) {
	if v.altered != nil {
		return
	}
	id := v.master.ID()
	if r.sealer != "" && r.sealer != id {
		r.superseded = append(r.superseded, r.sealer)
	}
	r.sealer = id
	if len(r.superseded) == 0 || v.underOthers(id) > 0 {
		return
	}
	for _, old := range r.superseded {
		r.forgotten[old] = old != id
	}
	r.superseded = nil
	r.master.Store(r.master.Load().without(r.forgotten))
}

// rereadMaster takes over the master keys that stand in the file today, besides those it has. It tells whether there
// are new ones.
func (r *Ring) rereadMaster() bool {
	if r.options.ReadMaster == nil {
		return false
	}
	today, err := r.options.ReadMaster()
	if err != nil {
		r.options.Log.Error("master key: cannot be read again", "error", err)
		return false
	}
	have := r.master.Load()
	if today = today.without(r.forgotten); today == nil || have.Holds(today) {
		return false
	}
	r.master.Store(have.with(today))
	r.options.Log.Info("master key: the file holds a new key, taken over", "id", today.ID())
	return true
}

// ClockOff is how far the clock of this replica is ahead of that of the database.
func (r *Ring) ClockOff(ctx context.Context) (time.Duration, error) {
	theirs, err := r.options.DatabaseNow(ctx)
	return r.options.Wall().Sub(theirs), err
}

// fresh is the view, unless it is too old to be trusted or shows altered rows.
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

// intact reads the rows anew and returns them, unless they were altered.
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

// Intact tells how the rows of the view of a tolerant ring were altered outside keyturn (*AlteredError); nil if they
// were not.
func (r *Ring) Intact() error { return r.view.Load().altered }

// Outages are the last times for which this replica could not ask the database, or was not there itself, in order.
func (r *Ring) Outages() []storage.Span {
	r.notePause(r.view.Load())
	return r.outages.all()
}

// notePause notes that this process has been stopped, if it has not read the keys for as long: whoever asked it
// meanwhile had no answer.
func (r *Ring) notePause(v *view) {
	if gap := r.options.Elapsed() - v.polled; gap > pauseGap {
		now := r.options.Now()
		r.Away(now.Add(-gap), now)
	}
}

// Away notes that the database did not do what it was asked from one moment to another.
func (r *Ring) Away(from, to time.Time) { r.outages.note(storage.Span{From: from, To: to}) }

// Healthy tells whether this replica could sign now.
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

// Signer signs tokens with the key that was current when it was made.
type Signer struct {
	KID   string
	ofTyp map[Typ]jose.Signer
	cpus  chan struct{} // one for each signature that is being computed: more would be no faster
}

// Whoever signs has been admitted first (Ring.Admit). So many for each CPU are under way at once: enough that the CPUs
// sign while others wait for their statement, and so few that a signature waits for a fraction of a second at most.
const (
	admittedPerCPU = 32
	signPace       = 5 * time.Millisecond // how long one takes, statement and signature, until some were measured
	signPatience   = 2 * time.Second      // how long one may wait to be admitted
)

// Admit lets a caller change something for which it will then sign a token. Obtain it first: what is changed must not
// wait for a signature. ErrBusy if there are too many, and then nothing is to be changed. Release must be called when
// it has signed.
func (r *Ring) Admit(ctx context.Context) (release func(), err error) {
	release, err = r.admission.Acquire(ctx, "", signPatience)
	var busy *queue.BusyError
	if errors.As(err, &busy) {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return release, err
}

// Admissions is how many may be admitted at once.
func (r *Ring) Admissions() int { return admittedPerCPU * r.options.CPUs }

// Admitted tells how many sign or are about to, wait to be admitted, and were refused.
func (r *Ring) Admitted() queue.Load { return r.admission.Load() }

// Sign makes the compact JWS of a payload with the typ.
func (s Signer) Sign(typ Typ, payload []byte) (string, error) {
	if !typ.Known() {
		return "", fmt.Errorf("sign: %q is no typ of a token of this server", typ)
	}
	s.cpus <- struct{}{}
	defer func() { <-s.cpus }()
	jws, err := s.ofTyp[typ].Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return jws.CompactSerialize()
}

// Signer returns the signer of the current key for a token that expires at the moment given. That moment is written
// into the row of the key first, unless a later one is there: it decides when the key may leave the JWKS.
func (r *Ring) Signer(ctx context.Context, expires time.Time) (Signer, error) {
	for try := 1; ; try++ {
		v, err := r.fresh()
		if err != nil {
			return Signer{}, err
		}
		if v.signers == nil {
			return Signer{}, fmt.Errorf("%w: there is no current key", ErrStale)
		}
		if until, ok := r.reserved.Load(v.kid); ok && !expires.After(until.(time.Time)) {
			return Signer{v.kid, v.signers, r.cpus}, nil
		}
		until, err := r.db.SigningKeys().Reserve(ctx, v.kid, expires.Add(signAhead))
		if err == nil {
			r.reserved.Store(v.kid, until)
			continue
		}
		if !isNotFound(err) || try == 3 {
			return Signer{}, err
		}
		if err := r.Poll(ctx); err != nil { // the key is not the current one any more
			return Signer{}, err
		}
	}
}

// Trusts tells whether a token that a key of this ring has signed may be believed today. ErrRevoked or ErrToken if not;
// ErrStale if this replica cannot be sure.
func (r *Ring) Trusts(kid string) error {
	v, err := r.fresh()
	if err != nil {
		return err
	}
	_, err = v.trusted(kid)
	return err
}

func (v *view) trusted(kid string) (*rsa.PublicKey, error) {
	switch public := v.public[kid]; {
	case public != nil:
		return public, nil
	case v.revoked[kid]:
		return nil, ErrRevoked
	}
	return nil, ErrToken
}

// Verify returns the payload of an access token that a key of this ring signed and that has not been revoked, and the
// kid. The token must be a compact JWS in canonical base64url with exactly the header that Sign makes. ErrToken or
// ErrRevoked otherwise; ErrStale if this replica cannot be sure.
func (r *Ring) Verify(token string) (payload []byte, kid string, err error) {
	v, err := r.fresh()
	if err != nil {
		return nil, "", err
	}
	kid, ok := tokenKID(token)
	if !ok {
		return nil, "", ErrToken
	}
	public, err := v.trusted(kid)
	if err != nil {
		return nil, "", err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{signingAlg})
	if err != nil {
		return nil, "", ErrToken
	}
	if payload, err = jws.Verify(public); err != nil {
		return nil, "", ErrToken
	}
	return payload, kid, nil
}

// JWKS is the public half of the ring as verifiers get it.
type JWKS struct {
	Body   []byte
	ETag   string
	MaxAge time.Duration // how long it may be kept
}

// JWKS serves the keys from memory, also while the database is away. It may be kept the shorter the older the view is,
// since a key may have been published meanwhile, and for a minute at most once the view is stale, since one may have
// been revoked.
func (r *Ring) JWKS() JWKS {
	v, now := r.view.Load(), r.options.Now()
	age := MaxAge(v.rows, r.config(), now)
	switch old := now.Sub(v.readAt); {
	case old > StaleAfter:
		age = min(age, IncidentMaxAge)
	case old > PollInterval:
		age = max(age-old+PollInterval, 0).Truncate(time.Second)
	}
	return JWKS{v.jwks, v.etag, age}
}

// RotatesAt is when the next key begins to sign; the zero time if that does not follow from the rows.
func (r *Ring) RotatesAt() time.Time {
	v := r.view.Load()
	if v.altered != nil {
		return time.Time{}
	}
	return rotatesAt(v.rows, r.config())
}

// Lives tells the past and the planned future of all keys of the view, oldest first; nothing of rows that were altered.
func (r *Ring) Lives() []Life {
	v := r.view.Load()
	if v.altered != nil {
		return []Life{}
	}
	return Lives(v.rows, r.config(), r.options.Now())
}

// Rows are the rows of the view, newest first.
func (r *Ring) Rows() []storage.SigningKey { return r.view.Load().rows }

// Secrets are the symmetric keys of the view, however old it is.
func (r *Ring) Secrets() *Secrets { return r.view.Load().secrets }

// FreshSecrets are the symmetric keys. ErrStale if a new one may have been made that this replica does not know.
func (r *Ring) FreshSecrets() (*Secrets, error) {
	v, err := r.fresh()
	if err != nil {
		return nil, err
	}
	return v.secrets, nil
}
