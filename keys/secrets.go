package keys

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Purposes of the symmetric keys that lie sealed in the database.
const (
	purposeRefresh = "refresh token"
	purposeClient  = "client secret"
	purposeAudit   = "audit"
)

// secretKey is one symmetric key, opened.
type secretKey struct {
	number      byte
	key         []byte
	activatedAt time.Time
}

// Secrets are the symmetric keys of keyturn, opened. They are immutable.
type Secrets struct {
	byPurpose map[string][]secretKey
}

// RefreshKey is the key that MACs a refresh token made at the moment given, and its number. Which key that is follows from the rows
// alone, so that a retry gets the same token from every replica.
func (s *Secrets) RefreshKey(at time.Time) (number byte, key []byte) {
	for _, k := range s.byPurpose[purposeRefresh] {
		if number == 0 || !k.activatedAt.After(at) {
			number, key = k.number, k.key
		}
	}
	return number, key
}

// RefreshKeyByNumber is the key with which a presented token claims to be MACed; nil if there is none.
func (s *Secrets) RefreshKeyByNumber(number byte) []byte {
	for _, k := range s.byPurpose[purposeRefresh] {
		if k.number == number {
			return k.key
		}
	}
	return nil
}

// ClientSecretKey is the key under which client secrets are hashed: a copy of the database does not suffice to guess one.
func (s *Secrets) ClientSecretKey() []byte { return s.byPurpose[purposeClient][0].key }

// openSecrets makes the symmetric keys that are missing and opens all.
func openSecrets(ctx context.Context, db *storage.DB, m *Master, now time.Time) (*Secrets, error) {
	for _, purpose := range []string{purposeRefresh, purposeClient, purposeAudit} {
		key := make([]byte, 32)
		rand.Read(key)
		row := storage.SecretKey{Purpose: purpose, Number: 1, Sealed: m.seal(purpose, "1", nil, key), ActivatedAt: storage.At(now)}
		if err := db.AddSecretKey(ctx, row); err != nil {
			return nil, err
		}
	}
	rows, err := db.SecretKeys(ctx)
	if err != nil {
		return nil, err
	}
	s := &Secrets{byPurpose: map[string][]secretKey{}}
	for _, row := range rows {
		if row.Number < 1 || row.Number > 255 {
			return nil, fmt.Errorf("secret key %s %d: its number does not fit a token", row.Purpose, row.Number)
		}
		key, err := m.open(row.Purpose, strconv.FormatInt(row.Number, 10), nil, row.Sealed)
		if err != nil {
			return nil, err
		}
		s.byPurpose[row.Purpose] = append(s.byPurpose[row.Purpose], secretKey{byte(row.Number), key, row.ActivatedAt.Time})
	}
	db.UseAuditKey(s.byPurpose[purposeAudit][0].key)
	return s, nil
}

const (
	metaCanary    = "master key canary"
	purposeCanary = "canary"
	canaryText    = "this master key belongs to this database"
)

// CheckMaster tells whether the master key belongs to the database, and writes nothing. A database that was never sealed takes any.
func CheckMaster(ctx context.Context, db *storage.DB, m *Master) error {
	sealed, err := db.Meta(ctx, metaCanary)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = m.open(purposeCanary, "1", nil, sealed)
	return err
}

// claimDatabase leaves the canary by which CheckMaster knows the master key.
func claimDatabase(ctx context.Context, db *storage.DB, m *Master) error {
	if _, err := db.SetMetaOnce(ctx, metaCanary, m.seal(purposeCanary, "1", nil, []byte(canaryText))); err != nil {
		return err
	}
	return CheckMaster(ctx, db, m)
}
