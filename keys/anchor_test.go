package keys_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// An anchor refuses an older database until a restore is recorded, and then follows it.
func TestAnchorRefusesAnOlderDatabase(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, keystest.Module())
		kid := byState(r)[storage.KeyCurrent]
		a := r.Anchor(filepath.Join(t.TempDir(), "anchor"))
		must(t, a.Check(ctx)) // there is no file yet
		for range 2 {
			c.step(time.Hour)
			_, err := a.WriteHeartbeat(ctx)
			must(t, err)
		}
		_, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid})
		must(t, err)
		must(t, a.Note(ctx, false))
		must(t, a.Check(ctx))
		seen, err := a.Read()
		must(t, err)
		if !seen.Heartbeat.Equal(c.now()) || !slices.Equal(seen.Revoked, []string{kid}) || seen.AuditSeq == 0 {
			t.Errorf("%+v", seen)
		}

		storagetest.MustExec(t, storagetest.Raw(t, url), `DELETE FROM meta WHERE name = 'heartbeat'`)
		isOlder := func(what string, err error) {
			t.Helper()
			var older *keys.OlderError
			if !errors.As(err, &older) || !older.Database.Heartbeat.IsZero() {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, err = a.WriteHeartbeat(ctx)
		isOlder("heartbeat", err)
		isOlder("note", a.Note(ctx, true))
		isOlder("check", a.Check(ctx))
		must(t, a.RecordRestore(ctx, admin))
		must(t, a.FollowRestore(ctx))
		must(t, a.Check(ctx))
		if seen, err = a.Read(); err != nil || seen.NotBefore.IsZero() || !slices.Equal(seen.Revoked, []string{kid}) {
			t.Errorf("%+v, %v", seen, err)
		}
	})
}

// Note creates an anchor only on request, and nobody reads an anchor that was altered.
func TestAnchorFile(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		r := keystest.MustRing(t, db, newClock().now, keystest.Module())
		path := filepath.Join(t.TempDir(), "anchor")
		a := r.Anchor(path)
		must(t, a.Note(ctx, false))
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Error("created:", err)
		}
		must(t, a.Note(ctx, true))
		text, err := os.ReadFile(path)
		must(t, err)
		must(t, keys.TryAnchor(path))
		if again, err := os.ReadFile(path); err != nil || string(again) != string(text) {
			t.Error("changed by TryAnchor:", err)
		}
		must(t, os.WriteFile(path, []byte(`{"heartbeat":"2026-01-01T12:00:00Z","mac":"x"}`), 0o600))
		if _, err := a.Read(); err == nil {
			t.Error("an altered anchor is read")
		}
	})
}
