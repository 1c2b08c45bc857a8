package server

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Nothing stands before a revocation: no count that fails or takes too long, and no anchor that cannot be written.
func TestNothingStandsBeforeARevocation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		leaked := kidOf(t, tokens.AccessToken)
		c := h.config
		c.AnchorFile = filepath.Join(t.TempDir(), "no", "such", "folder", "anchor")
		if c.MasterKeyFile == "" {
			c.MasterKeyFile = must(placeOf(c)).MasterKeyFile
		}
		var said strings.Builder
		say := func(format string, _ ...any) { said.WriteString(format) }
		o := admin.Options{Actor: "os:test", Say: say, Now: h.clock.now, Count: time.Nanosecond}
		release := func() {}
		if !isSQLite(c.Database) {
			o.Count = 50 * time.Millisecond
		}
		adm := must(openAdmin(ctx, c, o))
		defer adm.Close()
		if !isSQLite(c.Database) {
			lock := must(storagetest.Raw(t, c.Database).Begin())
			must(lock.Exec(`LOCK TABLE users, clients IN ACCESS EXCLUSIVE MODE`))
			release = func() { must(0, lock.Rollback()) }
		}
		counts := map[string]func() error{
			"use":         func() error { _, err := adm.Keys().Use(ctx, []string{leaked}, time.Time{}, nil); return err },
			"live tokens": func() error { _, err := adm.Keys().LiveTokens(ctx); return err },
		}
		for name, count := range counts {
			if err := count(); !errors.Is(err, admin.ErrTooSlow) || errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		began := adm.Now()
		done := must(adm.Keys().Revoke(ctx, leaked, false, ""))
		if n := must(adm.Keys().EndGrants(ctx, leaked, time.Time{})); n != 1 || len(done.Revoked) != 1 {
			t.Errorf("%d grants were ended, %v was revoked", n, done.Revoked)
		}
		if !strings.Contains(said.String(), "could not note it") {
			t.Errorf("nothing is said of the anchor: %q", said.String())
		}
		if _, err := adm.Keys().Use(ctx, done.Revoked, time.Time{}, &began); !errors.Is(err, admin.ErrTooSlow) {
			t.Error(err)
		}
		release()
		o.Count = time.Minute
		adm = must(openAdmin(ctx, c, o))
		defer adm.Close()
		use := must(adm.Keys().Use(ctx, done.Revoked, time.Time{}, &began))
		if len(use) != 1 || use[0].Grants != 1 || use[0].ClientID != "app" {
			t.Errorf("what was ended with it is not counted: %+v", use)
		}
		if use := must(adm.Keys().Use(ctx, []string{leaked}, time.Time{}, nil)); len(use) != 0 {
			t.Errorf("alive: %+v", use)
		}
	})
}

// A new master key that cannot be put in place does not keep leaked keys from being revoked.
func TestRevocationDespiteTheMasterKeyFile(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		leaked := kidOf(t, h.login("app").AccessToken)
		c := h.config
		c.MasterKeyFile = must(placeOf(c)).MasterKeyFile
		gone := h.server.place
		gone.MasterKeyFile = filepath.Join(t.TempDir(), "gone") // it was there when the command began
		adm := admin.New(h.server.store, c, gone, admin.Options{Actor: "os:test", Now: h.clock.now})
		missing := filepath.Join(t.TempDir(), "no new one")
		if _, err := adm.Keys().Revoke(ctx, "", true, missing); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("a file that is not there: %v", err)
		}
		done, err := adm.Keys().Revoke(ctx, "", true, masterFile(t))
		if !errors.Is(err, admin.ErrSameMaster) || len(done.Revoked) < 1 {
			t.Errorf("%+v, %v", done, err)
		}
		h.step(0)
		if h.active("rs", h.login("app").AccessToken) != true || done.Current == leaked {
			t.Error("no fresh key signs")
		}
	})
}

// A command notes in the anchor of its host what it did, without saying that a server runs, and makes no anchor where
// there is none.
func TestCommandsMoveTheAnchor(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		path := filepath.Join(t.TempDir(), "anchor")
		h.server.place.AnchorFile = path
		var said string
		h.admin = admin.New(h.server.store, h.config, h.server.place, admin.Options{
			Actor: "os:test",
			Now:   h.clock.now,
			Say:   func(_ string, args ...any) { said = args[0].(error).Error() },
		})
		h.admin.Remember(ctx)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("an anchor was made: %v", err)
		}
		h.server.beat(ctx)
		before := must(h.server.ring.Anchor(path))
		beaten := must(h.server.db.Meta().Timestamp(ctx, storage.TimestampHeartbeat))
		h.clock.at.Add(int64(time.Minute))
		must(0, h.admin.Users().Disable(ctx, "alice"))
		h.admin.Remember(ctx)
		after := must(h.server.ring.Anchor(path))
		if after.AuditSeq != before.AuditSeq+1 ||
			after.AuditHash == before.AuditHash ||
			!after.Heartbeat.Equal(before.Heartbeat) {
			t.Errorf("from %+v to %+v", before, after)
		}
		if now := must(h.server.db.Meta().Timestamp(ctx, storage.TimestampHeartbeat)); !now.Equal(beaten) {
			t.Errorf("a heartbeat at %v", now)
		}
		cut := "DELETE FROM audit WHERE seq = (SELECT MAX(seq) FROM audit)"
		storagetest.MustExec(t, storagetest.Raw(t, h.config.Database), cut,
			`UPDATE audit_head SET seq = (SELECT MAX(seq) FROM audit),
				hash = (SELECT hash FROM audit ORDER BY seq DESC LIMIT 1)`)
		if _, err := h.admin.Audit().Verify(ctx); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("the tail was cut off: %v", err)
		}
		must(0, h.admin.Users().Enable(ctx, "alice")) // which has the number of what was cut off
		h.admin.Remember(ctx)
		kept := must(h.server.ring.Anchor(path))
		if kept.AuditHash != after.AuditHash || !strings.Contains(said, "cut off") {
			t.Errorf("the mark is gone: %+v, %q", kept, said)
		}
	})
}

// Whoever runs a command does not take the anchor from the server.
func TestAnchorKeepsItsOwner(t *testing.T) {
	t.Parallel()
	c := testConfig(storagetest.SQLiteURL(t))
	h := open(t, c, nil)
	h.provision()
	h.server.beat(ctx)
	path := must(placeOf(c)).AnchorFile
	must(0, os.Chmod(path, 0o640))
	if os.Getuid() == 0 {
		must(0, os.Chown(path, 65534, 65534))
	}
	owner := must(os.Stat(path))
	must(0, h.admin.Users().Disable(ctx, "alice"))
	h.admin.Remember(ctx)
	now := must(os.Stat(path))
	if ownerOf(now) != ownerOf(owner) || now.Mode() != owner.Mode() || os.SameFile(now, owner) {
		t.Errorf("%v %v, was %v %v", ownerOf(now), now.Mode(), ownerOf(owner), owner.Mode())
	}
}

// An anchor that cannot be written is seen by doctor and in the metrics.
func TestAnchorThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := open(t, testConfig(storagetest.SQLiteURL(t)), nil)
	written := func(want string) bool {
		return strings.Contains(h.metricsText(), "\nkeyturn_anchor_written "+want+"\n")
	}
	look := func(c config.Config) []admin.Finding { return doctorOf(ctx, c, admin.Options{Actor: "os:test"}, nil) }
	h.server.beat(ctx)
	if !written("1") || !found(look(h.config), "anchor", admin.FindingOK, "can be written") {
		t.Errorf("%+v", look(h.config))
	}
	c, well := h.config, h.server.place
	c.AnchorFile = filepath.Join(t.TempDir(), "none", "anchor")
	h.server.place.AnchorFile = c.AnchorFile
	h.server.beat(ctx)
	if !written("0") || !found(look(c), "anchor", admin.FindingWarning, "anchor_file") {
		t.Errorf("%+v", look(c))
	}
	h.server.place = well
	h.server.beat(ctx)
	if !written("1") {
		t.Error("the gauge stays at 0")
	}
}

// What doctor cannot count in time, it says it cannot.
func TestDoctorDoesNotCountForEver(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		c := h.config
		c.MasterKeyFile = h.server.place.MasterKeyFile
		findings := doctorOf(ctx, c, admin.Options{Actor: "os:test", Count: time.Nanosecond}, nil)
		if !found(findings, "users", admin.FindingWarning, "could not be counted within 1ns") {
			t.Errorf("%+v", findings)
		}
	})
}
