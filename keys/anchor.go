package keys

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// HeartbeatInterval is how often a server writes a heartbeat.
const HeartbeatInterval = time.Minute

// LostTail is how much of its newest history a PostgreSQL may lose in a failover without being taken for an older
// database. SQLite loses nothing that was committed.
const LostTail = 2 * time.Minute

// Anchor is a file on this host, beside the master key, that holds the newest state of the database that this host has
// seen. By it, a server notices that a backup was put in the place of the database.
type Anchor struct {
	ring *Ring
	path string
}

// DatabaseState is how far a database has come, and what must never come back.
type DatabaseState struct {
	Heartbeat  time.Time `json:"heartbeat"`  // the last one in the database
	NotBefore  time.Time `json:"not_before"` // the last restore: older grants have ended
	AuditSeq   int64     `json:"audit_seq"`  // of the last audit record
	AuditHash  string    `json:"audit_hash"` // of the same record
	KeyVersion int64     `json:"key_version"`
	Revoked    []string  `json:"revoked"` // kids
	trusted    []string  // kids of all other keys; not in the file
}

// OlderError means that the database is older than the anchor of this host.
type OlderError struct {
	Anchor, Database DatabaseState
}

// Error names both times and says what to do.
func (e *OlderError) Error() string {
	return fmt.Sprintf(
		"the database is from %s, and this host has seen it as of %s: an older copy was put in its place. Bring the "+
			"newest one back, or, if there is none, run `keyturn restore --confirm`: it ends every older login, so "+
			"that "+
			"nothing that was revoked since comes back",
		stamp(e.Database.Heartbeat),
		stamp(e.Anchor.Heartbeat),
	)
}

// ErrTrailCut means that the audit trail lacks a record that this host has seen.
var ErrTrailCut = errors.New(
	"audit: the trail is not the one that this host has seen: its end was cut off, or, with PostgreSQL, lost in a " +
		"failover; `keyturn audit verify` names the first record that differs. If you know the cause, remove the " +
		"anchor " +
		"file",
)

// check returns an *OlderError unless the database state now may follow s. lost is how much of its newest history the
// database may have lost.
func (s DatabaseState) check(now DatabaseState, lost time.Duration) error {
	revived := slices.ContainsFunc(s.Revoked, func(kid string) bool { return slices.Contains(now.trusted, kid) })
	if revived || now.Heartbeat.Add(lost).Before(s.Heartbeat) || now.NotBefore.Before(s.NotBefore) {
		return &OlderError{s, now}
	}
	return nil
}

// later combines two states. The newer audit record counts, and all that either state knows of restores, key versions
// and revoked keys.
func (s DatabaseState) later(o DatabaseState) DatabaseState {
	if o.AuditSeq < s.AuditSeq || o.AuditSeq == s.AuditSeq && o.Heartbeat.Before(s.Heartbeat) {
		s, o = o, s
	}
	o.NotBefore = later(s.NotBefore, o.NotBefore)
	o.KeyVersion = max(s.KeyVersion, o.KeyVersion)
	return o.withRevoked(s.Revoked)
}

// withRevoked adds revoked keys.
func (s DatabaseState) withRevoked(kids []string) DatabaseState {
	s.Revoked = slices.Clone(s.Revoked)
	for _, kid := range kids {
		if !slices.Contains(s.Revoked, kid) {
			s.Revoked = append(s.Revoked, kid)
		}
	}
	return s
}

// anchorFile is the content of the file.
type anchorFile struct {
	DatabaseState
	MAC string `json:"mac"`
}

// anchorMAC uses the key of the audit trail, which belongs to the database and outlives a master key.
func (s *Secrets) anchorMAC(state DatabaseState) (string, error) {
	text, err := json.Marshal([]any{"anchor", state})
	if err != nil {
		return "", fmt.Errorf("anchor: %w", err)
	}
	h := hmac.New(sha256.New, s.byPurpose[purposeAudit][0].key)
	h.Write(text)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)), nil
}

// PeekAnchor reads an anchor without a check of its MAC. It returns the zero value if there is no file.
func PeekAnchor(path string) (DatabaseState, error) {
	f, err := readAnchorFile(path)
	return f.DatabaseState, err
}

func readAnchorFile(path string) (f anchorFile, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("anchor: %w", err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("anchor: %s: %w", path, err)
	}
	return f, nil
}

// Read returns the newest state that this host has seen. It is zero if there is no file.
func (a Anchor) Read() (DatabaseState, error) {
	f, err := readAnchorFile(a.path)
	if err != nil || f.MAC == "" && f.Heartbeat.IsZero() {
		return DatabaseState{}, err
	}
	want, err := a.ring.Secrets().anchorMAC(f.DatabaseState)
	if err == nil && !hmac.Equal([]byte(f.MAC), []byte(want)) {
		err = fmt.Errorf(
			"anchor: %s is of another database, or not as keyturn wrote it: if you know why, remove it, and this host "+
				"forgets what it knew",
			a.path,
		)
	}
	return f.DatabaseState, err
}

// write replaces the file, durably and atomically.
func (a Anchor) write(s DatabaseState) error {
	mac, err := a.ring.Secrets().anchorMAC(s)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(anchorFile{s, mac}, "", "  ")
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	f, err := anchorDraft(a.path)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, keepOwner(f, a.path), f.Sync(), f.Close()); err == nil {
		err = storage.Rename(f.Name(), a.path)
	}
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	return nil
}

// anchorDraft creates a file in the folder of the anchor.
func anchorDraft(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	return f, nil
}

// TryAnchor returns an error if an anchor cannot be written at path. It changes nothing.
func TryAnchor(path string) error {
	f, err := anchorDraft(path)
	if err != nil {
		return err
	}
	_, err = f.WriteString("{}\n")
	if err = errors.Join(err, keepOwner(f, path), f.Sync(), f.Close(), os.Remove(f.Name())); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	return nil
}

// databaseState reads the state of the database.
func (a Anchor) databaseState(ctx context.Context) (DatabaseState, error) {
	if err := a.ring.Poll(ctx); err != nil {
		return DatabaseState{}, err
	}
	v, db := a.ring.view.Load(), a.ring.db
	s := DatabaseState{KeyVersion: v.version, Revoked: []string{}}
	for _, row := range v.rows {
		if row.State == storage.KeyRevoked {
			s.Revoked = append(s.Revoked, row.KID)
		} else {
			s.trusted = append(s.trusted, row.KID)
		}
	}
	slices.Sort(s.Revoked)
	var err error
	if s.AuditSeq, s.AuditHash, err = db.Audit().Head(ctx); err != nil {
		return s, err
	}
	if s.Heartbeat, err = db.Meta().Timestamp(ctx, storage.TimestampHeartbeat); err != nil {
		return s, err
	}
	s.NotBefore, err = db.Meta().Timestamp(ctx, storage.TimestampNotBefore)
	return s, err
}

// Check returns an *OlderError if this host has seen a newer state of the database.
func (a Anchor) Check(ctx context.Context) error {
	seen, err := a.Read()
	if err != nil {
		return err
	}
	now, err := a.databaseState(ctx)
	if err != nil {
		return err
	}
	return seen.check(now, a.mayLose())
}

func (a Anchor) mayLose() time.Duration {
	if a.ring.db.Kind() == storage.SQLite {
		return 0
	}
	return LostTail
}

// WriteHeartbeat writes a heartbeat to the database, then the anchor, and returns the state before the heartbeat. It
// writes neither if the database is older than the anchor (*OlderError), or if this replica is not sure of the time
// (*clock.UnsureError). On ErrTrailCut both are written, and the anchor keeps the audit record that it had.
func (a Anchor) WriteHeartbeat(ctx context.Context) (DatabaseState, error) {
	seen, now, err := a.compare(ctx)
	if err == nil {
		err = a.ring.checkClock(ctx)
	}
	if err != nil {
		return now, err
	}
	return now, a.follow(ctx, seen, now, func() (time.Time, error) {
		at := a.ring.options.Now().Truncate(time.Millisecond).UTC()
		return at, a.ring.db.Meta().SetTimestamp(ctx, storage.TimestampHeartbeat, at)
	})
}

// Note writes the state of the database to the anchor without a heartbeat, which would mean that a server runs. It
// creates a missing anchor only if create is set. *OlderError and ErrTrailCut as for WriteHeartbeat.
func (a Anchor) Note(ctx context.Context, create bool) error {
	if _, err := os.Stat(a.path); !create && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	seen, now, err := a.compare(ctx)
	if err != nil {
		return err
	}
	same := func() (time.Time, error) { return later(seen.Heartbeat, now.Heartbeat), nil }
	return a.follow(ctx, seen, now, same)
}

// compare returns the state in the anchor and the state of the database. *OlderError if the latter is older.
func (a Anchor) compare(ctx context.Context) (seen, now DatabaseState, err error) {
	if now, err = a.databaseState(ctx); err != nil {
		return seen, now, err
	}
	if seen, err = a.noteRevoked(now); err == nil {
		err = seen.check(now, a.mayLose())
	}
	return seen, now, err
}

// follow checks the audit trail, calls heartbeat, and writes the anchor.
func (a Anchor) follow(
	ctx context.Context, seen, now DatabaseState, heartbeat func() (time.Time, error),
) error {
	cut, err := a.trailCut(ctx, seen)
	if err != nil {
		return err
	}
	next := now
	if next.Heartbeat, err = heartbeat(); err != nil {
		return err
	}
	next = seen.later(next)
	if cut {
		next.AuditSeq, next.AuditHash = seen.AuditSeq, seen.AuditHash
		return errors.Join(ErrTrailCut, a.write(next))
	}
	return a.write(next)
}

// noteRevoked adds the revoked keys of the database to the anchor, even if the database turns out to be older.
func (a Anchor) noteRevoked(now DatabaseState) (DatabaseState, error) {
	known, err := a.Read()
	s := known.withRevoked(now.Revoked)
	if err != nil || len(s.Revoked) == len(known.Revoked) {
		return s, err
	}
	return s, a.write(s)
}

// trailCut reports whether the audit record of a state is missing or differs.
func (a Anchor) trailCut(ctx context.Context, s DatabaseState) (bool, error) {
	if s.AuditSeq == 0 {
		return false, nil
	}
	hash, err := a.ring.db.Audit().Hash(ctx, s.AuditSeq)
	if isNotFound(err) {
		return true, nil
	}
	return err == nil && hash != s.AuditHash, err
}

// RecordRestore makes an older database follow the anchor: it revokes again the keys that were revoked since, raises
// the version of the keys above any that a replica has seen, and ends every grant, as the mark that it is done. It may
// be interrupted and run again.
func (a Anchor) RecordRestore(ctx context.Context, by storage.Actor) error {
	seen, err := a.Read()
	if err != nil {
		return err
	}
	life := a.ring.LifeCycle()
	for _, kid := range seen.Revoked {
		if _, err := life.Revoke(ctx, by, Leak{KID: kid}); err != nil && !isNotFound(err) {
			return err
		}
	}
	v, err := a.ring.intact(ctx)
	if err != nil {
		return err
	}
	now := a.ring.options.Now().Truncate(time.Millisecond).UTC()
	if len(v.rows) > 0 {
		moved := *v
		moved.leastVersion = max(seen.KeyVersion+1, now.UnixMilli())
		change := storage.KeyChange{Event: event("key.restore", "", nil)}
		if err := life.change(ctx, by, &moved, change, now); err != nil {
			return err
		}
	}
	if err := life.exemptRestored(ctx, by, now); err != nil {
		return err
	}
	return a.ring.db.RecordRestore(ctx, by, now)
}

// FollowRestore writes the state of a database that RecordRestore has finished. Until then the older anchor counts.
func (a Anchor) FollowRestore(ctx context.Context) error {
	seen, err := a.Read()
	if err != nil {
		return err
	}
	now, err := a.databaseState(ctx)
	if err != nil {
		return err
	}
	return a.write(now.withRevoked(seen.Revoked)) // the backup may lack some of the revoked keys
}
