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

// Anchor is what a host remembers of its database, in a file beside the master key: how far it had come, and what must
// never come back. A backup that is put in the place of the database is known by it.
type Anchor struct {
	Heartbeat  time.Time `json:"heartbeat"`  // the latest that was written to the database
	NotBefore  time.Time `json:"not_before"` // the last restore: grants from before it are dead
	AuditSeq   int64     `json:"audit_seq"`
	AuditHash  string    `json:"audit_hash"` // of that record
	KeyVersion int64     `json:"key_version"`
	Revoked    []string  `json:"revoked"` // kids
	trusted    []string  // kids of all other keys; not remembered
}

// HeartbeatInterval is how often a server leaves a heartbeat.
const HeartbeatInterval = time.Minute

// LostTail is how much of its newest past a PostgreSQL may lose in a failover without being taken for an older one.
// SQLite loses nothing that was committed.
const LostTail = 2 * time.Minute

// OlderError says that a database is older than the anchor of this host.
type OlderError struct {
	Anchor, Database Anchor
}

// Error names both times, and what to do.
func (e *OlderError) Error() string {
	return fmt.Sprintf(
		"the database is from %s, and this host has seen it as of %s: an older copy was put in its place. Bring the "+
			"newest one back, or, "+
			"if there is none, run `keyturn restore --confirm`: it ends every login from before, so that nothing that was "+
			"revoked since comes back",
		stamp(e.Database.Heartbeat),
		stamp(e.Anchor.Heartbeat),
	)
}

// check tells whether a database that stands at now may follow the anchor, though it may have lost so much of its tail.
// *OlderError if not.
func (a Anchor) check(now Anchor, lost time.Duration) error {
	revived := slices.ContainsFunc(a.Revoked, func(kid string) bool { return slices.Contains(now.trusted, kid) })
	if revived || now.Heartbeat.Add(lost).Before(a.Heartbeat) || now.NotBefore.Before(a.NotBefore) {
		return &OlderError{a, now}
	}
	return nil
}

// later is the anchor of both: what either has seen has been.
func (a Anchor) later(b Anchor) Anchor {
	if b.AuditSeq < a.AuditSeq || b.AuditSeq == a.AuditSeq && b.Heartbeat.Before(a.Heartbeat) {
		a, b = b, a
	}
	b.NotBefore = later(a.NotBefore, b.NotBefore)
	b.KeyVersion = max(a.KeyVersion, b.KeyVersion)
	return b.withRevoked(a.Revoked)
}

// withRevoked is the anchor that knows further keys to be revoked.
func (a Anchor) withRevoked(kids []string) Anchor {
	a.Revoked = slices.Clone(a.Revoked)
	for _, kid := range kids {
		if !slices.Contains(a.Revoked, kid) {
			a.Revoked = append(a.Revoked, kid)
		}
	}
	return a
}

// anchorFile is the anchor as it lies in its file.
type anchorFile struct {
	Anchor
	MAC string `json:"mac"`
}

// anchorMAC is under the key of the audit trail, which belongs to the database and outlives a master key.
func (s *Secrets) anchorMAC(a Anchor) (string, error) {
	text, err := json.Marshal([]any{"anchor", a})
	if err != nil {
		return "", fmt.Errorf("anchor: %w", err)
	}
	h := hmac.New(sha256.New, s.byPurpose[purposeAudit][0].key)
	h.Write(text)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)), nil
}

// PeekAnchor reads an anchor of which nobody knows yet whether it is authentic; the zero value if there is no file.
func PeekAnchor(path string) (Anchor, error) {
	f, err := readAnchorFile(path)
	return f.Anchor, err
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

// Anchor reads the anchor of this host; the zero value if there is no file.
func (r *Ring) Anchor(path string) (Anchor, error) {
	f, err := readAnchorFile(path)
	if err != nil || f.MAC == "" && f.Heartbeat.IsZero() {
		return Anchor{}, err
	}
	want, err := r.Secrets().anchorMAC(f.Anchor)
	if err == nil && !hmac.Equal([]byte(f.MAC), []byte(want)) {
		err = fmt.Errorf(
			"anchor: %s is of another database, or not as keyturn wrote it: if you know why, remove it, and this host "+
				"forgets what it knew",
			path,
		)
	}
	return f.Anchor, err
}

// writeAnchor replaces the file, durably and at once.
func (r *Ring) writeAnchor(path string, a Anchor) error {
	mac, err := r.Secrets().anchorMAC(a)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(anchorFile{a, mac}, "", "  ")
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	f, err := anchorDraft(path)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, keepOwner(f, path), f.Sync(), f.Close()); err == nil {
		err = storage.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	return nil
}

// anchorDraft is a file beside the anchor that can take its place.
func anchorDraft(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	return f, nil
}

// TryAnchor tells whether an anchor could be written here. It leaves nothing behind and does not touch the one that is
// there.
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

// DatabaseState is where the database stands now.
func (r *Ring) DatabaseState(ctx context.Context) (Anchor, error) {
	if err := r.Poll(ctx); err != nil {
		return Anchor{}, err
	}
	v := r.view.Load()
	a := Anchor{KeyVersion: v.version, Revoked: []string{}}
	for _, row := range v.rows {
		if row.State == storage.KeyRevoked {
			a.Revoked = append(a.Revoked, row.KID)
		} else {
			a.trusted = append(a.trusted, row.KID)
		}
	}
	slices.Sort(a.Revoked)
	var err error
	if a.AuditSeq, a.AuditHash, err = r.db.Audit().Head(ctx); err != nil {
		return a, err
	}
	if a.Heartbeat, err = r.db.Meta().Timestamp(ctx, storage.TimestampHeartbeat); err != nil {
		return a, err
	}
	a.NotBefore, err = r.db.Meta().Timestamp(ctx, storage.TimestampNotBefore)
	return a, err
}

// CheckAnchor tells whether this host has seen a newer state of the database. *OlderError if so.
func (r *Ring) CheckAnchor(ctx context.Context, path string) error {
	before, err := r.Anchor(path)
	if err != nil {
		return err
	}
	stands, err := r.DatabaseState(ctx)
	if err != nil {
		return err
	}
	return before.check(stands, r.mayLose())
}

func (r *Ring) mayLose() time.Duration {
	if r.db.Kind() == storage.SQLite {
		return 0
	}
	return LostTail
}

// ErrTrailCut says that the audit trail lacks, at its end or in it, what this host has seen.
var ErrTrailCut = errors.New(
	"audit: the trail is not the one that this host has seen: its end was cut off, or, with PostgreSQL, lost in a " +
		"failover; " +
		"`keyturn audit verify` tells from where on. If that is explained, remove the anchor file",
)

// WriteHeartbeat leaves a heartbeat in the database and then the anchor in its file, and returns where the database stands.
// *OlderError, and neither, if it has gone back; *clock.UnsureError, and neither, if the clock here is wrong;
// ErrTrailCut if the trail is not the one that was seen, of which the anchor then keeps the mark.
func (r *Ring) WriteHeartbeat(ctx context.Context, path string) (Anchor, error) {
	before, stands, err := r.sinceAnchor(ctx, path)
	if err == nil {
		err = r.checkClock(ctx)
	}
	if err != nil {
		return stands, err
	}
	return stands, r.follow(ctx, path, before, stands, func() (time.Time, error) {
		now := r.options.Now().Truncate(time.Millisecond).UTC()
		return now, r.db.Meta().SetTimestamp(ctx, storage.TimestampHeartbeat, now)
	})
}

// Note moves the anchor on to where the database stands, and leaves no heartbeat: that would say that a server runs.
// Unless make is set, it makes no anchor where there is none. *OlderError, and ErrTrailCut, as Beat.
func (r *Ring) Note(ctx context.Context, path string, make bool) error {
	if _, err := os.Stat(path); !make && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	before, stands, err := r.sinceAnchor(ctx, path)
	if err != nil {
		return err
	}
	same := func() (time.Time, error) { return later(before.Heartbeat, stands.Heartbeat), nil }
	return r.follow(ctx, path, before, stands, same)
}

// sinceAnchor is the anchor, with the keys that are revoked now, and where the database stands, which may follow it.
func (r *Ring) sinceAnchor(ctx context.Context, path string) (before, stands Anchor, err error) {
	if stands, err = r.DatabaseState(ctx); err != nil {
		return before, stands, err
	}
	if before, err = r.rememberRevoked(path, stands); err == nil {
		err = before.check(stands, r.mayLose())
	}
	return before, stands, err
}

// follow writes the anchor of a database that stands so, with a heartbeat that is asked for once the trail was looked
// at.
func (r *Ring) follow(
	ctx context.Context, path string, before, stands Anchor, heartbeat func() (time.Time, error),
) error {
	cut, err := r.trailCut(ctx, before)
	if err != nil {
		return err
	}
	next := stands
	if next.Heartbeat, err = heartbeat(); err != nil {
		return err
	}
	next = before.later(next)
	if cut {
		next.AuditSeq, next.AuditHash = before.AuditSeq, before.AuditHash
		return errors.Join(ErrTrailCut, r.writeAnchor(path, next))
	}
	return r.writeAnchor(path, next)
}

// rememberRevoked adds the keys that are revoked now to the anchor, whatever else is to be said of the database, and
// returns it.
func (r *Ring) rememberRevoked(path string, stands Anchor) (Anchor, error) {
	known, err := r.Anchor(path)
	a := known.withRevoked(stands.Revoked)
	if err != nil || len(a.Revoked) == len(known.Revoked) {
		return a, err
	}
	return a, r.writeAnchor(path, a)
}

// trailCut tells whether the record that an anchor names is not there as it was.
func (r *Ring) trailCut(ctx context.Context, a Anchor) (bool, error) {
	if a.AuditSeq == 0 {
		return false, nil
	}
	hash, err := r.db.Audit().Hash(ctx, a.AuditSeq)
	if isNotFound(err) {
		return true, nil
	}
	return err == nil && hash != a.AuditHash, err
}

// Restored makes an older database follow the anchor: what was revoked since is revoked again, replicas that have seen
// later keys follow, and then, as the mark that it is done, every grant ends. It may be interrupted and run again.
func (r *Ring) Restored(ctx context.Context, by storage.Actor, path string) error {
	before, err := r.Anchor(path)
	if err != nil {
		return err
	}
	for _, kid := range before.Revoked {
		if _, err := r.Revoke(ctx, by, Leak{KID: kid}); err != nil && !isNotFound(err) {
			return err
		}
	}
	v, err := r.intact(ctx)
	if err != nil {
		return err
	}
	now := r.options.Now().Truncate(time.Millisecond).UTC()
	if len(v.rows) > 0 {
		moved := *v
		moved.leastVersion = max(before.KeyVersion+1, now.UnixMilli())
		if err := r.change(ctx, by, &moved, storage.KeyChange{Event: event("key.restore", "", nil)}, now); err != nil {
			return err
		}
	}
	return r.db.RecordRestore(ctx, by, now)
}

// AnchorRestored makes the anchor follow a database that was Restored. Until it has, the one from before still holds.
func (r *Ring) AnchorRestored(ctx context.Context, path string) error {
	before, err := r.Anchor(path)
	if err != nil {
		return err
	}
	stands, err := r.DatabaseState(ctx)
	if err != nil {
		return err
	}
	return r.writeAnchor(path, stands.withRevoked(before.Revoked)) // of keys that the backup does not know, too
}
