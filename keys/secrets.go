package keys

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Purposes of the symmetric keys, which the database holds sealed.
const (
	purposeRefresh = "refresh token"
	purposeClient  = "client secret"
	purposeAudit   = "audit"
	purposeTokenID = "jti"
)

// purposes are all purposes. A database of an earlier version has no keys of token ids until the first server of this
// version has made one.
var purposes = []string{purposeRefresh, purposeClient, purposeAudit, purposeTokenID}

const (
	// secretLead is how long before its first use a key of refresh tokens is made. It is far longer than StaleAfter, so
	// that every replica that still answers knows the key when the first token comes back.
	secretLead = time.Hour
	// lookInterval is how often Maintain searches for a grant that still needs an old key.
	lookInterval = time.Hour
	// lookTimeout bounds that search, since a starting server waits for it.
	lookTimeout = 10 * time.Second
	// maxSecretNumber is the largest number of a key, which is one byte of a refresh token.
	maxSecretNumber = 255
)

// secretKey is one symmetric key, opened.
type secretKey struct {
	row  storage.SecretKey
	key  []byte
	macs *sync.Pool // HMACs of a key of token ids, which are costly to make
}

// Secrets are the symmetric keys of keyturn, opened, in the order of activation for each purpose. They are immutable.
type Secrets struct {
	byPurpose  map[string][]secretKey
	unreadable int // rows that do not open
}

// refreshKey returns the key for the MAC of a refresh token issued at the given moment, and the number of the key. It
// depends on the rows alone, so that a retry gets the same token from every replica.
func (s *Secrets) refreshKey(at time.Time) (number byte, key []byte) {
	for _, k := range s.byPurpose[purposeRefresh] {
		if number == 0 || !k.row.ActivatedAt.After(at) {
			number, key = byte(k.row.Number), k.key
		}
	}
	return number, key
}

// refreshKeyByNumber returns the key with the number, or nil.
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
	return m.sealedRow(purpose, number, key, activatedAt)
}

func (m *Master) sealedRow(purpose string, number int64, key []byte, activatedAt time.Time) storage.SecretKey {
	row := storage.SecretKey{Purpose: purpose, Number: number, ActivatedAt: storage.At(activatedAt)}
	row.Sealed = m.sealSecret(row, key)
	return row
}

func (m *Master) sealSecret(row storage.SecretKey, key []byte) string {
	return m.seal(row.Purpose, strconv.FormatInt(row.Number, 10), boundTo(row), key)
}

func (m *Master) openSecret(row storage.SecretKey) ([]byte, error) {
	return m.open(row.Purpose, strconv.FormatInt(row.Number, 10), boundTo(row), row.Sealed)
}

// boundTo returns what the sealed text of a row is bound to, besides purpose and number. A key of token ids is bound to
// its activation, since nobody may change which tokens it judges.
func boundTo(row storage.SecretKey) []byte {
	if row.Purpose != purposeTokenID {
		return nil
	}
	return strconv.AppendInt(nil, row.ActivatedAt.UnixMilli(), 10)
}

// beginSecrets makes the first symmetric keys if the database has none.
func beginSecrets(ctx context.Context, db *storage.DB, m *Master, now time.Time) error {
	rows, err := db.SecretKeys().All(ctx)
	if err != nil || len(rows) > 0 {
		return err
	}
	for _, purpose := range []string{purposeRefresh, purposeClient, purposeAudit} {
		rows = append(rows, m.newSecretRow(purpose, 1, now))
	}
	rows = append(rows, m.sealedRow(purposeTokenID, 1, tokenKeySecret(time.Time{}), now))
	return db.SecretKeys().CreateFirst(ctx, rows)
}

// openSecrets opens the symmetric keys of all rows. It leaves out a key of refresh tokens that was altered, and, if
// tolerant, one under an unknown master key.
func (m *Master) openSecrets(rows []storage.SecretKey, tolerant bool) (*Secrets, error) {
	s := &Secrets{byPurpose: map[string][]secretKey{}}
	for _, row := range rows {
		if row.Number < 1 || row.Number > maxSecretNumber || !slices.Contains(purposes, row.Purpose) {
			continue // keyturn wrote no such row
		}
		key, err := m.openSecret(row)
		if err != nil && row.Purpose == purposeRefresh && (tolerant || !errors.Is(err, ErrWrongMaster)) {
			s.unreadable++
			continue
		}
		if err != nil {
			return nil, err
		}
		s.byPurpose[row.Purpose] = append(s.byPurpose[row.Purpose], secretKey{row, key, tokenMACs(row, key)})
	}
	for _, purpose := range purposes {
		if len(s.byPurpose[purpose]) == 0 && purpose != purposeTokenID {
			return nil, fmt.Errorf("secret key %s: its row is missing", purpose)
		}
	}
	return s, nil
}

// refreshInterval is how long a key of refresh tokens is used for new tokens: as long as a signing key, or longer if
// the numbers would not last for the longest grant.
func refreshInterval(c Config) time.Duration {
	return max(c.RotationInterval, c.GrantTTL/(maxSecretNumber/2), 24*time.Hour)
}

// nextRefreshKey reports whether the next key of refresh tokens is due, and from when it is used. A new key of token
// ids comes with it.
func nextRefreshKey(rows []secretKey, c Config, now time.Time) (due bool, activate time.Time) {
	at := rows[len(rows)-1].row.ActivatedAt.Add(refreshInterval(c))
	return !now.Before(at.Add(-secretLead)), later(at, now.Add(secretLead))
}

// lapsed returns the oldest key of refresh tokens and when another replaced it, if that was more than secretLead ago.
// The key may be deleted once no live grant is older.
func lapsed(rows []secretKey, now time.Time) (old *secretKey, replacedAt time.Time) {
	if len(rows) < 2 || now.Before(rows[1].row.ActivatedAt.Add(secretLead)) {
		return nil, time.Time{}
	}
	return &rows[0], rows[1].row.ActivatedAt.Time
}

// maintainSecrets makes the next key of refresh tokens when it is due, and deletes an old one once no grant can present
// a token under it. Replaced tokens count too, since their second use ends the grant.
func (l *LifeCycle) maintainSecrets(ctx context.Context, v *view) error {
	rows, now := v.secrets.byPurpose[purposeRefresh], l.ring.options.Now()
	if len(v.secrets.byPurpose[purposeTokenID]) == 0 { // the first server after an upgrade
		if err := l.ring.checkClock(ctx); err != nil {
			return err
		}
		return l.addSecrets(ctx, itself, v, now, v.newTokenKey(now, now.Add(upgradeGrace)))
	}
	if due, activate := nextRefreshKey(rows, l.ring.config(), now); due {
		if number, ok := freeNumber(rows); ok { // otherwise Status reports it
			if err := l.ring.checkClock(ctx); err != nil {
				return err
			}
			row := v.master.newSecretRow(purposeRefresh, number, activate)
			return l.addSecrets(ctx, itself, v, now, row, v.newTokenKey(activate, v.secrets.exemptUntil()))
		}
	}
	if since := now.Sub(l.looked); since >= 0 && since < lookInterval {
		return nil
	}
	if err := l.ring.checkClock(ctx); err != nil { // by a wrong clock, a key that is needed looks unneeded
		return err
	}
	l.looked = now
	if err := l.removeTokenKeys(ctx, v, now); err != nil {
		return err
	}
	return l.removeLapsed(ctx, rows, now)
}

// addSecrets adds keys in one transaction, unless another replica was first, and reads the rows again.
func (l *LifeCycle) addSecrets(
	ctx context.Context, by storage.Actor, v *view, now time.Time, rows ...storage.SecretKey,
) error {
	err := l.ring.db.SecretKeys().Add(ctx, by, rows, v.version, now)
	if err != nil && !errors.Is(err, storage.ErrConflict) {
		return err
	}
	return l.ring.Poll(ctx)
}

// newTokenKey returns the row of a new key of token ids: see [tokenKeySecret]. Old ones are deleted within hours, so
// that a number is free.
func (v *view) newTokenKey(activate, exemptUntil time.Time) storage.SecretKey {
	number := int64(1)
	if rows := v.secrets.byPurpose[purposeTokenID]; len(rows) > 0 {
		number, _ = freeNumber(rows)
	}
	return v.master.sealedRow(purposeTokenID, number, tokenKeySecret(exemptUntil), activate)
}

// removeTokenKeys deletes keys of token ids under which no token lives any more.
func (l *LifeCycle) removeTokenKeys(ctx context.Context, v *view, now time.Time) error {
	rows := v.secrets.byPurpose[purposeTokenID]
	for len(rows) > 1 && now.After(rows[1].row.ActivatedAt.Add(l.ring.config().TokenTTL+secretLead)) {
		err := l.ring.db.SecretKeys().Delete(ctx, itself, rows[0].row, now)
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			return err
		}
		rows = rows[1:]
	}
	return nil
}

// exemptRestored makes a new key of token ids after a restore if the backup may lack the newest one. Tokens that were
// issued under that are exempt for an hour.
func (l *LifeCycle) exemptRestored(ctx context.Context, by storage.Actor, now time.Time) error {
	v, err := l.ring.intact(ctx)
	if err != nil || len(v.secrets.byPurpose[purposeTokenID]) == 0 {
		return err
	}
	if due, _ := nextRefreshKey(v.secrets.byPurpose[purposeRefresh], l.ring.config(), now); !due {
		return nil
	}
	return l.addSecrets(ctx, by, v, now, v.newTokenKey(now, now.Add(upgradeGrace)))
}

// removeLapsed deletes old keys of refresh tokens up to the first one that a grant may need.
func (l *LifeCycle) removeLapsed(ctx context.Context, rows []secretKey, now time.Time) error {
	for {
		old, replacedAt := lapsed(rows, now)
		if old == nil {
			return nil
		}
		used, err := l.ring.db.Grants().AnyBefore(ctx, replacedAt, now, l.ring.options.LookTimeout)
		if errors.Is(err, storage.ErrTooSlow) { // an old key does no harm, and a server must start
			l.ring.options.Log.Warn(
				"an old key of refresh tokens is kept: it is not known yet whether a login needs it",
				"number", old.row.Number,
				"error", err,
			)
			return nil
		}
		if err != nil || used {
			return err
		}
		err = l.ring.db.SecretKeys().Delete(ctx, itself, old.row, now)
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			return err
		}
		if err := l.ring.Poll(ctx); err != nil {
			return err
		}
		rows = rows[1:]
	}
}

// freeNumber returns the number of the next key. ok is false if all numbers are in use.
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

// sealedMetas are the sealed values in the table meta, besides the canary. Their names are their purposes.
var sealedMetas = []string{metaSchedule, metaRetired}

const (
	metaSchedule  = "schedule"
	metaRetired   = "retired master keys"
	metaCanary    = "master key canary"
	purposeCanary = "canary"
	canaryText    = "this master key belongs to this database"
)

// CheckMaster returns ErrWrongMaster if the master key does not belong to the database. A database without a canary
// accepts any master key. CheckMaster writes nothing.
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

// claimDatabase writes the canary for CheckMaster, if there is none, and checks it.
func claimDatabase(ctx context.Context, db *storage.DB, m *Master) error {
	if _, err := db.Meta().SetOnce(ctx, metaCanary, m.sealCanary()); err != nil {
		return err
	}
	return CheckMaster(ctx, db, m)
}

func (m *Master) sealCanary() string { return m.seal(purposeCanary, "1", nil, []byte(canaryText)) }
