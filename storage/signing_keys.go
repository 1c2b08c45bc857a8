package storage

import (
	"context"
	"errors"
	"time"
)

// KeyState is the state of a signing key.
type KeyState string

// The states of a signing key, in order. Any of them can be followed by KeyRevoked.
const (
	KeyNext     KeyState = "next"     // published, does not sign
	KeyCurrent  KeyState = "current"  // published, signs
	KeyPrevious KeyState = "previous" // published, verifies, its private half is destroyed
	KeyRetired  KeyState = "retired"  // gone from the JWKS, kept as a record
	KeyRevoked  KeyState = "revoked"  // gone from the JWKS, its tokens refused
)

// Published reports whether keys in that state are in the JWKS.
func (s KeyState) Published() bool { return s == KeyNext || s == KeyCurrent || s == KeyPrevious }

// SigningKey is one RSA key pair. Its private half is sealed, and "" once destroyed.
type SigningKey struct {
	KID         string   `db:"kid" json:"kid"` // RFC 7638 thumbprint
	State       KeyState `db:"state" json:"state"`
	Alg         string   `db:"alg" json:"alg"`
	Bits        int      `db:"bits" json:"bits"`
	PublicKey   string   `db:"public_key" json:"-"` // PKIX DER, base64url
	PrivateKey  string   `db:"private_key" json:"-"`
	PublishedAt Time     `db:"published_at" json:"published_at"`
	// when verifiers that cache the JWKS know it; may be 1970 in rows of the first schema
	SafeFrom      Time  `db:"safe_from" json:"-"`
	ActivatedAt   *Time `db:"activated_at" json:"activated_at"`
	DeactivatedAt *Time `db:"deactivated_at" json:"-"`
	RetiresAt     *Time `db:"retires_at" json:"retires_at"` // when a previous key leaves the JWKS
	RetiredAt     *Time `db:"retired_at" json:"-"`
	RevokedAt     *Time `db:"revoked_at" json:"revoked_at"`
	// of a revoked key, or its successor: until when verifiers that obey max-age may trust the revoked key
	ExposedUntil *Time  `db:"exposed_until" json:"-"`
	SignsUntil   Time   `db:"signs_until" json:"-"` // no token that it signed expires later; never decreases
	Reason       string `db:"reason" json:"reason"`
	MAC          string `db:"mac" json:"-"` // over everything that determines its state
}

// KeySet is all signing keys, newest first. Each change increments Version. MAC covers it and the MACs of the rows.
type KeySet struct {
	Version int64
	MAC     string
	Keys    []SigningKey
}

const keyColumns = `kid, state, alg, bits, public_key, private_key, published_at, safe_from, activated_at,
	deactivated_at, retires_at, retired_at, revoked_at, exposed_until, signs_until, reason, mac`

// SigningKeys is the table of signing keys, with the version of their set.
type SigningKeys struct{ db *DB }

// SigningKeys returns the table of signing keys.
func (d *DB) SigningKeys() SigningKeys { return SigningKeys{d} }

// All reads the keys in one statement, so that they match the version.
func (k SigningKeys) All(ctx context.Context) (KeySet, error) {
	set, err := k.read(ctx)
	if err == nil && len(set.Keys) == 0 &&
		set.Version > 0 { // without rows the version is read after them: somebody may have begun meanwhile
		set, err = k.read(ctx)
	}
	return set, err
}

func (k SigningKeys) read(ctx context.Context) (KeySet, error) {
	var rows []struct {
		SigningKey
		SetVersion int64  `db:"set_version"`
		SetMAC     string `db:"set_mac"`
	}
	err := k.db.engine.AllForUpkeep(ctx, "signing keys", &rows, `SELECT `+keyColumns+`,
		COALESCE((SELECT version FROM key_set WHERE id = 1), 0) AS set_version,
		COALESCE((SELECT s.mac FROM key_set s WHERE s.id = 1), '') AS set_mac
		FROM signing_keys ORDER BY published_at DESC, kid`)
	if err != nil {
		return KeySet{}, err
	}
	set := KeySet{Keys: make([]SigningKey, 0, len(rows))}
	for _, r := range rows {
		set.Version, set.MAC, set.Keys = r.SetVersion, r.SetMAC, append(set.Keys, r.SigningKey)
	}
	if len(rows) > 0 {
		return set, nil
	}
	var head struct {
		Version int64  `db:"version"`
		MAC     string `db:"mac"`
	}
	err = k.db.engine.GetForUpkeep(ctx, "signing keys", &head, `SELECT version, mac FROM key_set WHERE id = 1`)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	set.Version, set.MAC = head.Version, head.MAC
	return set, err
}

// KeyChange is one step in the life cycle of the keys: rows to insert, and rows to update that must still be as they
// were read.
type KeyChange struct {
	Event       Event
	Version     int64 // of the set that it is based on
	NextVersion int64 // of the resulting set
	SetMAC      string
	Insert      []SigningKey
	Update      []KeyUpdate
}

// KeyUpdate replaces the row From by To.
type KeyUpdate struct{ From, To SigningKey }

// Change makes one step, with an audit record, and wakes the other replicas. ErrConflict if another replica or person
// was first, or if a key has signed for a later time than was read.
func (k SigningKeys) Change(ctx context.Context, by Actor, c KeyChange, now time.Time) error {
	err := k.db.inTx(ctx, c.Event.Type, func(t *tx) error {
		if err := t.moveKeySet(c); err != nil {
			return err
		}
		// Rows that lose a state come first: at most one row is current, and one next, at any time.
		for _, u := range c.Update {
			if err := t.ChangeAsRead(`UPDATE signing_keys SET state = $1, private_key = $2, safe_from = $3,
				activated_at = $4, deactivated_at = $5,
				retires_at = $6, retired_at = $7, revoked_at = $8, exposed_until = $9, reason = $10, mac = $11
				WHERE kid = $12 AND mac = $13 AND signs_until =
				$14`, u.To.State, u.To.PrivateKey, u.To.SafeFrom, u.To.ActivatedAt, u.To.DeactivatedAt,
				u.To.RetiresAt, u.To.RetiredAt, u.To.RevokedAt, u.To.ExposedUntil, u.To.Reason, u.To.MAC,
				u.From.KID, u.From.MAC, u.From.SignsUntil); err != nil {
				return err
			}
		}
		for _, key := range c.Insert {
			if _, err := t.Change(`INSERT INTO signing_keys (`+keyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,
				$10, $11, $12, $13, $14, $15, $16, $17)`,
				key.KID,
				key.State,
				key.Alg,
				key.Bits,
				key.PublicKey,
				key.PrivateKey,
				key.PublishedAt,
				key.SafeFrom,
				key.ActivatedAt,
				key.DeactivatedAt,
				key.RetiresAt,
				key.RetiredAt, key.RevokedAt, key.ExposedUntil, key.SignsUntil, key.Reason, key.MAC); err != nil {
				return err
			}
		}
		return t.audit(by, now, c.Event)
	})
	if err == nil {
		k.announce(ctx)
	}
	return err
}

// moveKeySet moves the set to its next version. The row stays locked until the transaction ends, which serializes
// changes of the keys.
func (t *tx) moveKeySet(c KeyChange) error {
	return t.ChangeAsRead(
		`INSERT INTO key_set (id, version, mac) VALUES (1, $1, $2) ON CONFLICT (id) DO UPDATE SET version = $1, mac = $2
		WHERE key_set.version = $3`,
		c.NextVersion,
		c.SetMAC,
		c.Version,
	)
}

// holdKeySet locks the set until the transaction ends. ErrConflict unless it has the version.
func (t *tx) holdKeySet(version int64) error {
	return t.ChangeAsRead(`UPDATE key_set SET version = version WHERE id = 1 AND version = $1`, version)
}

// Reserve advances the time after which no token of the current key is valid, never back, and returns it. ErrNotFound
// if the key is not the current one.
func (k SigningKeys) Reserve(ctx context.Context, kid string, until time.Time) (time.Time, error) {
	var reserved Time
	err := k.db.engine.ChangeReturning(
		ctx,
		"reserve signing",
		&reserved,
		`UPDATE signing_keys SET signs_until = CASE WHEN signs_until < $1 THEN $1 ELSE signs_until END
		WHERE kid = $2 AND state = 'current' RETURNING signs_until`,
		At(until),
		kid,
	)
	return reserved.Time, err
}

// ReserveProbe advances the time after which no token of the current or the next key is valid, for the tokens of a
// probe. ErrNotFound if the key is neither.
func (k SigningKeys) ReserveProbe(ctx context.Context, kid string, until time.Time) error {
	n, err := k.db.engine.Change(ctx, "reserve probe",
		`UPDATE signing_keys SET signs_until = CASE WHEN signs_until < $1 THEN $1 ELSE signs_until END
		WHERE kid = $2 AND state IN ('current', 'next')`, At(until), kid)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// keysChannel is the NOTIFY channel for changes of the keys.
const keysChannel = "keyturn_keys"

// announce wakes the other replicas. It runs outside the transaction of the change, where it would delay every commit.
// Delivery is not guaranteed: replicas poll anyway.
func (k SigningKeys) announce(ctx context.Context) { k.db.engine.Notify(ctx, keysChannel) }

// Changes sends a value soon after another replica has changed the keys, until the context ends. It misses changes
// while its connection is down. On SQLite, and where connections are scarce, it never sends.
func (k SigningKeys) Changes(ctx context.Context) <-chan struct{} {
	return k.db.engine.Listen(ctx, keysChannel)
}
