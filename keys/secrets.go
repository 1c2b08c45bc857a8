package keys

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
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

var purposes = []string{purposeRefresh, purposeClient, purposeAudit}

const (
	// secretLead is how long before its use a new key of refresh tokens is made: far longer than StaleAfter, so that every
	// replica that still answers has it when the first token comes back.
	secretLead = time.Hour
	// lookInterval is how often the grants are searched for one that still needs an old key.
	lookInterval = time.Hour
	// lookTimeout bounds that search: a server that starts waits for it.
	lookTimeout = 10 * time.Second
	// maxSecretNumber is the largest number of a key: it is one byte of a refresh token.
	maxSecretNumber = 255
)

// secretKey is one symmetric key, opened.
type secretKey struct {
	row storage.SecretKey
	key []byte
}

// Secrets are the symmetric keys of keyturn, opened, each purpose in the order of activation. They are immutable.
type Secrets struct {
	byPurpose  map[string][]secretKey
	unreadable int // rows that do not open
}

// refreshKey is the key that MACs a refresh token made at the moment given, and its number. Which key that is follows
// from the rows alone, so that a retry gets the same token from every replica.
func (s *Secrets) refreshKey(at time.Time) (number byte, key []byte) {
	for _, k := range s.byPurpose[purposeRefresh] {
		if number == 0 || !k.row.ActivatedAt.After(at) {
			number, key = byte(k.row.Number), k.key
		}
	}
	return number, key
}

// refreshKeyByNumber is the key with which a presented token claims to be MACed; nil if there is none.
func (s *Secrets) refreshKeyByNumber(number byte) []byte {
	for _, k := range s.byPurpose[purposeRefresh] {
		if k.row.Number == int64(number) {
			return k.key
		}
	}
	return nil
}

// newSecretRow seals a new random key.
func (m *Master) newSecretRow(purpose string, number int64, activatedAt time.Time) storage.SecretKey {
	key := make([]byte, 32)
	rand.Read(key)
	return storage.SecretKey{
		Purpose:     purpose,
		Number:      number,
		Sealed:      m.sealSecret(purpose, number, key),
		ActivatedAt: storage.At(activatedAt),
	}
}

func (m *Master) sealSecret(purpose string, number int64, key []byte) string {
	return m.seal(purpose, strconv.FormatInt(number, 10), nil, key)
}

// beginSecrets makes the first symmetric keys of a database that holds none.
func beginSecrets(ctx context.Context, db *storage.DB, m *Master, now time.Time) error {
	rows, err := db.SecretKeys().All(ctx)
	if err != nil || len(rows) > 0 {
		return err
	}
	for _, purpose := range purposes {
		rows = append(rows, m.newSecretRow(purpose, 1, now))
	}
	return db.SecretKeys().CreateFirst(ctx, rows)
}

// openSecrets opens the symmetric keys of all rows. A key of refresh tokens that was altered is left out; so is one
// under an unknown master key, if that is to be tolerated.
func (m *Master) openSecrets(rows []storage.SecretKey, tolerant bool) (*Secrets, error) {
	s := &Secrets{byPurpose: map[string][]secretKey{}}
	for _, row := range rows {
		if row.Number < 1 || row.Number > maxSecretNumber || !slices.Contains(purposes, row.Purpose) {
			continue // not of keyturn: nothing can be made or read with it
		}
		key, err := m.open(row.Purpose, strconv.FormatInt(row.Number, 10), nil, row.Sealed)
		if err != nil && row.Purpose == purposeRefresh && (tolerant || !errors.Is(err, ErrWrongMaster)) {
			s.unreadable++
			continue
		}
		if err != nil {
			return nil, err
		}
		s.byPurpose[row.Purpose] = append(s.byPurpose[row.Purpose], secretKey{row, key})
	}
	for _, purpose := range purposes {
		if len(s.byPurpose[purpose]) == 0 {
			return nil, fmt.Errorf("secret key %s: its row is missing", purpose)
		}
	}
	return s, nil
}

// refreshInterval is how long a key of refresh tokens is used: it turns with the signing keys, but so slowly that there
// are numbers for all that a grant may still need.
func refreshInterval(c Config) time.Duration {
	return max(c.RotationInterval, c.GrantTTL/(maxSecretNumber/2), 24*time.Hour)
}

// nextRefreshKey is when the next key of refresh tokens is to be made and from when on it is used. It is a pure
// function.
func nextRefreshKey(rows []secretKey, c Config, now time.Time) (due bool, activate time.Time) {
	at := rows[len(rows)-1].row.ActivatedAt.Add(refreshInterval(c))
	return !now.Before(at.Add(-secretLead)), later(at, now.Add(secretLead))
}

// lapsed is the oldest key of refresh tokens, if another took over more than secretLead ago, and when that was. It may
// go once no live grant is older.
func lapsed(rows []secretKey, now time.Time) (old *secretKey, replacedAt time.Time) {
	if len(rows) < 2 || now.Before(rows[1].row.ActivatedAt.Add(secretLead)) {
		return nil, time.Time{}
	}
	return &rows[0], rows[1].row.ActivatedAt.Time
}

// maintainSecrets makes the next key of refresh tokens when it is due, and removes old ones once nothing can be
// presented under them: no refresh token, and none that was replaced, whose second use ends the grant.
func (l *LifeCycle) maintainSecrets(ctx context.Context, v *view) error {
	rows, now := v.secrets.byPurpose[purposeRefresh], l.ring.options.Now()
	if due, activate := nextRefreshKey(rows, l.ring.config(), now); due {
		if number, ok := freeNumber(rows); ok { // if not, Status tells
			if err := l.ring.checkClock(ctx); err != nil {
				return err
			}
			row := v.master.newSecretRow(purposeRefresh, number, activate)
			if err := l.ring.db.SecretKeys().Add(ctx, itself, row, v.version, now); err != nil && !errors.Is(err, storage.ErrConflict) {
				return err
			}
			return l.ring.Poll(ctx)
		}
	}
	if since := now.Sub(l.looked); since >= 0 && since < lookInterval {
		return nil
	}
	if err := l.ring.checkClock(ctx); err != nil { // what it would remove may be needed
		return err
	}
	l.looked = now
	return l.removeLapsed(ctx, rows, now)
}

// removeLapsed removes old keys of refresh tokens up to the first that a grant may need.
func (l *LifeCycle) removeLapsed(ctx context.Context, rows []secretKey, now time.Time) error {
	for {
		old, replacedAt := lapsed(rows, now)
		if old == nil {
			return nil
		}
		used, err := l.ring.db.Grants().AnyBefore(ctx, replacedAt, now, l.ring.options.LookTimeout)
		if errors.Is(err, storage.ErrTooSlow) { // keeping the key harms nobody, and a server must start
			l.ring.options.Log.Warn("an old key of refresh tokens stays: nobody knows yet whether a login needs it",
				"number", old.row.Number, "error", err)
			return nil
		}
		if err != nil || used {
			return err
		}
		if err := l.ring.db.SecretKeys().Delete(ctx, itself, old.row, now); err != nil && !errors.Is(err, storage.ErrConflict) {
			return err
		}
		if err := l.ring.Poll(ctx); err != nil {
			return err
		}
		rows = rows[1:]
	}
}

// freeNumber is the number of the next key, unless all are in use.
func freeNumber(rows []secretKey) (number int64, ok bool) {
	taken := map[int64]bool{}
	for _, k := range rows {
		taken[k.row.Number] = true
	}
	last := rows[len(rows)-1].row.Number
	for i := range int64(maxSecretNumber) {
		if number := (last+i)%maxSecretNumber + 1; !taken[number] {
			return number, true
		}
	}
	return 0, false
}

// sealedMetas are named values that lie sealed in the database, besides the canary. Their names are their purposes.
var sealedMetas = []string{metaSchedule, metaRetired}

const (
	metaSchedule  = "schedule"
	metaRetired   = "retired master keys"
	metaCanary    = "master key canary"
	purposeCanary = "canary"
	canaryText    = "this master key belongs to this database"
)

// CheckMaster tells whether the master key belongs to the database, and writes nothing. A database that was never
// sealed takes any. ErrWrongMaster if not.
func CheckMaster(ctx context.Context, db *storage.DB, m *Master) error {
	sealed, err := db.Meta().Value(ctx, metaCanary)
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
	if _, err := db.Meta().SetOnce(ctx, metaCanary, m.sealCanary()); err != nil {
		return err
	}
	return CheckMaster(ctx, db, m)
}

func (m *Master) sealCanary() string { return m.seal(purposeCanary, "1", nil, []byte(canaryText)) }
