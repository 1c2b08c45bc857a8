package storage

import (
	"context"
	"time"
)

// KeyState is where a signing key stands in its life.
type KeyState string

// The states of a signing key, in the order of its life; revoked follows on any of them.
const (
	KeyNext     KeyState = "next"
	KeyCurrent  KeyState = "current"
	KeyPrevious KeyState = "previous"
	KeyRetired  KeyState = "retired"
	KeyRevoked  KeyState = "revoked"
)

// SigningKey is the row of one RSA key pair. Its private half is sealed; "" once it has been destroyed.
type SigningKey struct {
	KID           string   `db:"kid" json:"kid"` // RFC 7638 thumbprint
	State         KeyState `db:"state" json:"state"`
	Alg           string   `db:"alg" json:"alg"`
	Bits          int      `db:"bits" json:"bits"`
	PublicKey     string   `db:"public_key" json:"-"` // PKIX DER, base64url
	PrivateKey    string   `db:"private_key" json:"-"`
	PublishedAt   Time     `db:"published_at" json:"published_at"`
	ActivatedAt   *Time    `db:"activated_at" json:"activated_at"`
	DeactivatedAt *Time    `db:"deactivated_at" json:"-"`
	RetiresAt     *Time    `db:"retires_at" json:"retires_at"` // when a previous key leaves the JWKS
	RevokedAt     *Time    `db:"revoked_at" json:"revoked_at"`
	SignsUntil    Time     `db:"signs_until" json:"-"` // no token that it signed expires later; only ever moved on
	Reason        string   `db:"reason" json:"reason"`
	MAC           string   `db:"mac" json:"-"` // over all that decides its state
}

const keyColumns = `kid, state, alg, bits, public_key, private_key, published_at, activated_at, deactivated_at, retires_at, revoked_at,
	signs_until, reason, mac`

// SigningKeys lists all keys, newest first.
func (d *DB) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	keys := []SigningKey{}
	return keys, d.all(ctx, "signing keys", &keys, `SELECT `+keyColumns+` FROM signing_keys ORDER BY published_at DESC, kid`)
}

// KeyChange is a step in the life of the keys: rows to insert, and rows to rewrite, each if it is still as it was read.
type KeyChange struct {
	Event  Event
	Insert []SigningKey
	Update []KeyUpdate
}

// KeyUpdate rewrites the row From as To.
type KeyUpdate struct{ From, To SigningKey }

// ChangeKeys makes one step with its audit record. ErrConflict if another replica or person made a step first.
func (d *DB) ChangeKeys(ctx context.Context, by Actor, c KeyChange, now time.Time) error {
	return d.inTx(ctx, c.Event.Type, func(t *tx) error {
		for _, u := range c.Update {
			n, err := t.change(`UPDATE signing_keys SET state = $1, private_key = $2, activated_at = $3, deactivated_at = $4, retires_at = $5,
				revoked_at = $6, reason = $7, mac = $8 WHERE kid = $9 AND mac = $10 AND signs_until = $11`, u.To.State, u.To.PrivateKey,
				u.To.ActivatedAt, u.To.DeactivatedAt, u.To.RetiresAt, u.To.RevokedAt, u.To.Reason, u.To.MAC, u.From.KID, u.From.MAC, u.From.SignsUntil)
			if err != nil {
				return err
			}
			if n == 0 {
				return ErrConflict
			}
		}
		for _, k := range c.Insert {
			if _, err := t.change(`INSERT INTO signing_keys (`+keyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
				k.KID, k.State, k.Alg, k.Bits, k.PublicKey, k.PrivateKey, k.PublishedAt, k.ActivatedAt, k.DeactivatedAt, k.RetiresAt, k.RevokedAt,
				k.SignsUntil, k.Reason, k.MAC); err != nil {
				return err
			}
		}
		return t.audit(by, now, c.Event)
	})
}

// ReserveSigning moves on the moment after which no token of the current key is alive, never back, and returns it. ErrNotFound if the
// key is not the current one.
func (d *DB) ReserveSigning(ctx context.Context, kid string, until time.Time) (time.Time, error) {
	var reserved Time
	err := d.changeReturning(ctx, "reserve signing", &reserved, `UPDATE signing_keys SET signs_until = CASE WHEN signs_until < $1 THEN $1 ELSE signs_until END
		WHERE kid = $2 AND state = 'current' RETURNING signs_until`, At(until), kid)
	return reserved.Time, err
}

// SecretKey is a sealed symmetric key: of refresh tokens, of client secrets, of the audit trail.
type SecretKey struct {
	Purpose     string `db:"purpose"`
	Number      int64  `db:"number"`
	Sealed      string `db:"sealed"`
	ActivatedAt Time   `db:"activated_at"`
}

// SecretKeys lists all symmetric keys.
func (d *DB) SecretKeys(ctx context.Context) ([]SecretKey, error) {
	keys := []SecretKey{}
	return keys, d.all(ctx, "secret keys", &keys, `SELECT purpose, number, sealed, activated_at FROM secret_keys ORDER BY purpose, number`)
}

// AddSecretKey inserts a symmetric key unless one of its purpose and number is there already.
func (d *DB) AddSecretKey(ctx context.Context, k SecretKey) error {
	_, err := d.change(ctx, "add secret key", `INSERT INTO secret_keys (purpose, number, sealed, activated_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (purpose, number) DO NOTHING`, k.Purpose, k.Number, k.Sealed, k.ActivatedAt)
	return err
}
