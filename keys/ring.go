package keys

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/storage"
)

const (
	// PollInterval is how often a replica reads the rows: the bound within which it knows of a rotation or a revocation.
	PollInterval = time.Second
	// StaleAfter is how old the view of a replica may be before it refuses to sign or to call a token active, rather than trust a key
	// that may have been revoked.
	StaleAfter = 10 * time.Second
	// signAhead is how far beyond a token's expiry the row of its key is moved on, so that not every token writes to it.
	signAhead = time.Minute
)

var (
	// ErrStale says that the rows could not be read for longer than StaleAfter, or that no key may sign.
	ErrStale = errors.New("no signing key of which this replica is sure")
	// ErrToken says that a text is no token that a key of this ring signed. It never says more.
	ErrToken = errors.New("not a token of this server")
	// ErrRevoked says that a text names a key that has been revoked. Whether that key signed it is not asked any more.
	ErrRevoked = errors.New("the key has been revoked")
)

// Ring is the keys of one replica. It is safe for concurrent use.
type Ring struct {
	db       *storage.DB
	master   *Master
	config   Config
	options  Options
	secrets  atomic.Pointer[Secrets]
	view     atomic.Pointer[view]
	reserved sync.Map   // kid -> time.Time: until when this replica may sign without asking
	polling  sync.Mutex // one poll at a time
}

// Options are the ring's sources of time, keys and words. The zero value is useful.
type Options struct {
	Now      func() time.Time                        // nil: time.Now
	Generate func(bits int) (*rsa.PrivateKey, error) // nil: rsa.GenerateKey
	Log      *slog.Logger                            // nil: slog.Default
}

// view is what a replica knows of the keys. It is immutable.
type view struct {
	readAt   time.Time
	rows     []storage.SigningKey // intact ones only
	public   map[string]*rsa.PublicKey
	revoked  map[string]bool
	signer   jose.Signer // of the current key; nil if there is none
	kid      string
	jwks     []byte
	etag     string
	problems []string
}

// Open claims the database for the master key, makes the symmetric keys that are missing and reads the signing keys. It makes no
// signing key: Maintain does.
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
	r := &Ring{db: db, master: m, config: c, options: o}
	if err := claimDatabase(ctx, db, m); err != nil {
		return nil, err
	}
	secrets, err := openSecrets(ctx, db, m, o.Now())
	if err != nil {
		return nil, err
	}
	r.secrets.Store(secrets)
	return r, r.Poll(ctx)
}

// Secrets are the symmetric keys.
func (r *Ring) Secrets() *Secrets { return r.secrets.Load() }

// Run polls the rows every second and takes the steps that are due, until the context ends.
func (r *Ring) Run(ctx context.Context) {
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.Maintain(ctx); err != nil && ctx.Err() == nil {
			r.options.Log.Error("signing keys: poll failed", "error", err)
		}
	}
}

// Poll reads the rows into a new view.
func (r *Ring) Poll(ctx context.Context) error {
	r.polling.Lock()
	defer r.polling.Unlock()
	readAt := r.options.Now()
	rows, err := r.db.SigningKeys(ctx)
	if err != nil {
		return err
	}
	v, err := r.newView(rows, readAt)
	if err != nil {
		return err
	}
	if old := r.view.Load(); len(v.problems) > 0 && (old == nil || fmt.Sprint(old.problems) != fmt.Sprint(v.problems)) {
		r.options.Log.Error("signing keys: rows left out", "problems", v.problems)
	}
	r.view.Store(v)
	return nil
}

// newView builds a view from rows. A row that does not carry the MAC of its state is left out and named; nothing takes its place.
func (r *Ring) newView(rows []storage.SigningKey, readAt time.Time) (*view, error) {
	old := r.view.Load()
	v := &view{readAt: readAt, public: map[string]*rsa.PublicKey{}, revoked: map[string]bool{}}
	var published []jose.JSONWebKey
	for _, row := range rows {
		if !r.master.rowIntact(row) {
			v.problems = append(v.problems, fmt.Sprintf("key %s: its row was altered outside keyturn", row.KID))
			continue
		}
		v.rows = append(v.rows, row)
		if row.State == storage.KeyRevoked {
			v.revoked[row.KID] = true
			continue
		}
		public, _, err := publicOf(row)
		if err != nil {
			return nil, err
		}
		v.public[row.KID] = public
		if row.State != storage.KeyRetired {
			published = append(published, jose.JSONWebKey{Key: public, KeyID: row.KID, Algorithm: row.Alg, Use: "sig"})
		}
	}
	if err := v.render(published); err != nil {
		return nil, err
	}
	return v, v.takeSigner(r.master, old)
}

// render writes the JWKS (RFC 7517 §5) once for all requests.
func (v *view) render(published []jose.JSONWebKey) error {
	if published == nil {
		published = []jose.JSONWebKey{}
	}
	body, err := json.Marshal(jose.JSONWebKeySet{Keys: published})
	if err != nil {
		return fmt.Errorf("JWKS: %w", err)
	}
	sum := sha256.Sum256(body)
	v.jwks, v.etag = body, `"`+base64.RawURLEncoding.EncodeToString(sum[:12])+`"`
	return nil
}

// takeSigner opens the current key, or takes the signer over from the view before if it is the same key.
func (v *view) takeSigner(m *Master, old *view) error {
	current := find(v.rows, storage.KeyCurrent)
	if current == nil {
		return nil
	}
	v.kid = current.KID
	if old != nil && old.kid == v.kid {
		v.signer = old.signer
		return nil
	}
	private, err := m.privateOf(*current)
	if err != nil {
		return err
	}
	key := jose.SigningKey{Algorithm: signingAlg, Key: jose.JSONWebKey{Key: private, KeyID: current.KID}}
	v.signer, err = jose.NewSigner(key, (&jose.SignerOptions{}).WithType("at+jwt"))
	return err
}

// fresh is the view, unless it is too old to be trusted.
func (r *Ring) fresh() (*view, error) {
	v := r.view.Load()
	if age := r.options.Now().Sub(v.readAt); age > StaleAfter || age < -StaleAfter {
		return nil, fmt.Errorf("%w: the keys were read %v ago", ErrStale, age)
	}
	return v, nil
}

// Healthy tells whether this replica could sign now, and what is wrong with the rows if anything is.
func (r *Ring) Healthy() error {
	v, err := r.fresh()
	if err != nil {
		return err
	}
	if v.signer == nil {
		return fmt.Errorf("%w: there is no current key", ErrStale)
	}
	if len(v.problems) > 0 {
		return errors.New(v.problems[0])
	}
	return nil
}

// Signer signs tokens with the key that was current when it was made.
type Signer struct {
	KID    string
	signer jose.Signer
}

// Sign makes the compact JWS of a payload with typ at+jwt (RFC 9068 §2.1).
func (s Signer) Sign(payload []byte) (string, error) {
	jws, err := s.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return jws.CompactSerialize()
}

// Signer returns the signer of the current key for a token that expires at the moment given. That moment is written into the row of
// the key first, unless a later one is there: it decides when the key may leave the JWKS.
func (r *Ring) Signer(ctx context.Context, expires time.Time) (Signer, error) {
	for try := 1; ; try++ {
		v, err := r.fresh()
		if err != nil {
			return Signer{}, err
		}
		if v.signer == nil {
			return Signer{}, fmt.Errorf("%w: there is no current key", ErrStale)
		}
		if until, ok := r.reserved.Load(v.kid); ok && !expires.After(until.(time.Time)) {
			return Signer{v.kid, v.signer}, nil
		}
		until, err := r.db.ReserveSigning(ctx, v.kid, expires.Add(signAhead))
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

// Verify returns the payload of an access token that a key of this ring signed and that has not been revoked. The token must be a compact
// JWS in canonical base64url with exactly the header that Sign makes. ErrToken or ErrRevoked otherwise; ErrStale if this replica cannot be sure.
func (r *Ring) Verify(token string) (payload []byte, err error) {
	v, err := r.fresh()
	if err != nil {
		return nil, err
	}
	kid, ok := tokenKID(token)
	if !ok {
		return nil, ErrToken
	}
	public := v.public[kid]
	if public == nil {
		if v.revoked[kid] {
			return nil, ErrRevoked
		}
		return nil, ErrToken
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{signingAlg})
	if err != nil {
		return nil, ErrToken
	}
	if payload, err = jws.Verify(public); err != nil {
		return nil, ErrToken
	}
	return payload, nil
}

// JWKS is the public half of the ring as verifiers get it.
type JWKS struct {
	Body   []byte
	ETag   string
	MaxAge time.Duration // how long it may be kept
}

// JWKS serves the keys from memory, also while the database is away.
func (r *Ring) JWKS() JWKS {
	v := r.view.Load()
	return JWKS{v.jwks, v.etag, MaxAge(v.rows, r.config, r.options.Now())}
}

// Rows are the intact rows of the view, newest first.
func (r *Ring) Rows() []storage.SigningKey { return r.view.Load().rows }
