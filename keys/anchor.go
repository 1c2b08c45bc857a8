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

// Anchor is what a host remembers of its database, in a file beside the master key: how far it had come, and what must never come back. A
// backup that is put in the place of the database is known by it.
type Anchor struct {
	Heartbeat  time.Time `json:"heartbeat"`  // the latest that was written to the database
	NotBefore  time.Time `json:"not_before"` // the last restore: grants from before it are dead
	AuditSeq   int64     `json:"audit_seq"`
	AuditHash  string    `json:"audit_hash"` // of that record
	KeyVersion int64     `json:"key_version"`
	Revoked    []string  `json:"revoked"` // kids
}

// LostTail is how much of its newest past a database may lose in a failover without being taken for an older one.
const LostTail = 2 * time.Minute

// OlderError says that a database is older than the anchor of this host.
type OlderError struct {
	Anchor, Database Anchor
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("the database is from %s, and this host has seen it as of %s: an older copy was put in its place. Bring the newest one back, or, "+
		"if there is none, run `keyturn restore --confirm`: it ends every login from before, so that nothing that was revoked since comes back",
		stamp(e.Database.Heartbeat), stamp(e.Anchor.Heartbeat))
}

// Check tells whether a database that stands at now may follow the anchor. *OlderError if not.
func (a Anchor) Check(now Anchor) error {
	if now.Heartbeat.Add(LostTail).Before(a.Heartbeat) || now.NotBefore.Before(a.NotBefore) {
		return &OlderError{a, now}
	}
	return nil
}

// later is the anchor of both: what either has seen has been.
func (a Anchor) later(b Anchor) Anchor {
	if b.Heartbeat.Before(a.Heartbeat) {
		a, b = b, a
	}
	b.NotBefore = later(a.NotBefore, b.NotBefore)
	b.KeyVersion = max(a.KeyVersion, b.KeyVersion)
	for _, kid := range a.Revoked {
		if !slices.Contains(b.Revoked, kid) {
			b.Revoked = append(b.Revoked, kid)
		}
	}
	return b
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
		err = fmt.Errorf("anchor: %s is of another database, or not as keyturn wrote it: if you know why, remove it, and this host forgets what it knew", path)
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
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	return nil
}

// Stand is where the database stands now.
func (r *Ring) Stand(ctx context.Context) (Anchor, error) {
	if err := r.Poll(ctx); err != nil {
		return Anchor{}, err
	}
	v := r.view.Load()
	a := Anchor{KeyVersion: v.version, Revoked: []string{}}
	for _, row := range v.rows {
		if row.State == storage.KeyRevoked {
			a.Revoked = append(a.Revoked, row.KID)
		}
	}
	slices.Sort(a.Revoked)
	var err error
	if a.AuditSeq, a.AuditHash, err = r.db.AuditHead(ctx); err != nil {
		return a, err
	}
	if a.Heartbeat, err = r.db.Mark(ctx, storage.MarkHeartbeat); err != nil {
		return a, err
	}
	a.NotBefore, err = r.db.Mark(ctx, storage.MarkNotBefore)
	return a, err
}

// Beat leaves a heartbeat in the database and then the anchor in its file. *OlderError, and neither, if the database has gone back.
func (r *Ring) Beat(ctx context.Context, path string) (Anchor, error) {
	before, err := r.Anchor(path)
	if err != nil {
		return Anchor{}, err
	}
	stands, err := r.Stand(ctx)
	if err != nil {
		return stands, err
	}
	if err := before.Check(stands); err != nil {
		return stands, err
	}
	stands.Heartbeat = r.options.Now().Truncate(time.Millisecond).UTC()
	if err := r.db.SetMark(ctx, storage.MarkHeartbeat, stands.Heartbeat); err != nil {
		return stands, err
	}
	return stands, r.writeAnchor(path, before.later(stands))
}

// Restored makes an older database follow the anchor: every grant in it ends, what was revoked since is revoked again, and replicas that have
// seen later keys follow. It returns what the anchor is from then on.
func (r *Ring) Restored(ctx context.Context, by storage.Actor, path string) (Anchor, error) {
	before, err := r.Anchor(path)
	if err != nil {
		return Anchor{}, err
	}
	now := r.options.Now().Truncate(time.Millisecond).UTC()
	if err := r.db.MarkRestored(ctx, by, now); err != nil {
		return Anchor{}, err
	}
	v, err := r.intact(ctx)
	if err != nil {
		return Anchor{}, err
	}
	if len(v.rows) > 0 {
		v.leastVersion = max(before.KeyVersion, now.UnixMilli())
		if err := r.change(ctx, by, v, storage.KeyChange{Event: event("key.restore", "", nil)}, now); err != nil {
			return Anchor{}, err
		}
	}
	for _, kid := range before.Revoked {
		if _, err := r.Revoke(ctx, by, Leak{KID: kid}); err != nil && !isNotFound(err) {
			return Anchor{}, err
		}
	}
	stands, err := r.Stand(ctx)
	if err != nil {
		return stands, err
	}
	return stands, r.writeAnchor(path, stands)
}
