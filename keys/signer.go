package keys

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/queue"
)

// signAhead is how far the row of a key is written ahead of the expiry of a token, so that not every token writes to
// it.
const signAhead = time.Minute

// A caller is admitted before it signs (Ring.Admit). admittedPerCPU is large enough to keep the CPUs busy while some
// callers wait for a statement, and small enough that a signature waits for a fraction of a second at most.
const (
	admittedPerCPU = 32
	signPace       = 5 * time.Millisecond // the assumed time of a statement and a signature, until some are measured
	signPatience   = 2 * time.Second      // the longest wait for an admission
)

// ErrBusy means that too many callers sign at once. It comes with a *queue.BusyError.
var ErrBusy = errors.New("too many tokens to sign")

// Signer signs tokens with the key that was current when the Signer was made.
type Signer struct {
	KID     string
	ofTyp   map[Typ]jose.Signer
	secrets *Secrets
	cpus    *processors
}

// Admit waits until a caller may change something for which it then signs a token. Call it before the change: a change
// must not wait for a signature. On ErrBusy, change nothing. Call release after the signature.
func (r *Ring) Admit(ctx context.Context) (release func(), err error) {
	release, err = r.admission.Acquire(ctx, "", signPatience)
	var busy *queue.BusyError
	if errors.As(err, &busy) {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return release, err
}

// Admissions returns how many callers can be admitted at once.
func (r *Ring) Admissions() int { return admittedPerCPU * r.options.CPUs }

// Admitted returns how many callers are admitted, wait, and were refused.
func (r *Ring) Admitted() queue.Load { return r.admission.Load() }

// Signer returns the signer of the current key for a token that expires at the given moment. If the row of the key has
// an earlier moment, Signer first writes this one to it. The row decides when the key may leave the JWKS.
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
			return Signer{v.kid, v.signers, v.secrets, r.cpus}, nil
		}
		until, err := r.db.SigningKeys().Reserve(ctx, v.kid, expires.Add(signAhead))
		if err == nil {
			r.reserved.Store(v.kid, until)
			continue
		}
		if !isNotFound(err) || try == 3 {
			return Signer{}, err
		}
		if err := r.Poll(ctx); err != nil { // another key is the current one
			return Signer{}, err
		}
	}
}

// Sign makes the compact JWS of a payload. It replaces the jti in the payload, 22 characters, by one that only this
// server can make.
func (s Signer) Sign(typ Typ, payload []byte) (string, error) {
	if !typ.OfAccessToken() {
		return "", fmt.Errorf("sign: %q is no typ of a token of this server", typ)
	}
	if err := s.secrets.stamp(s.KID, payload); err != nil {
		return "", err
	}
	return s.sign(typ, payload)
}

// SignStatusList makes the compact JWS of a Token Status List. It is no access token.
func (s Signer) SignStatusList(payload []byte) (string, error) { return s.sign(typStatusList, payload) }

func (s Signer) sign(typ Typ, payload []byte) (string, error) {
	slot := s.cpus.acquire()
	defer func() { <-slot }()
	jws, err := s.ofTyp[typ].Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return jws.CompactSerialize()
}
