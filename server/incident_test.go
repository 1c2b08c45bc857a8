package server

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
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
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		leaked := kidOf(t, tokens.AccessToken)
		c := h.Config
		c.AnchorFile = filepath.Join(t.TempDir(), "no", "such", "folder", "anchor")
		if c.MasterKeyFile == "" {
			c.MasterKeyFile = Must(PlaceOf(c)).MasterKeyFile
		}
		var said strings.Builder
		say := func(format string, _ ...any) { said.WriteString(format) }
		o := admin.Options{Actor: "os:test", Say: say, Now: h.Clock.Now, Count: time.Nanosecond}
		release := func() {}
		if !IsSQLite(c.Database) {
			o.Count = 50 * time.Millisecond
		}
		adm := Must(OpenAdmin(ctx, c, o))
		defer adm.Close()
		if !IsSQLite(c.Database) {
			lock := Must(storagetest.Raw(t, c.Database).Begin())
			Must(lock.Exec(`LOCK TABLE users, clients IN ACCESS EXCLUSIVE MODE`))
			release = func() { Must(0, lock.Rollback()) }
		}
		counts := map[string]func() error{
			"use": func() error {
				_, err := adm.Keys().Use(ctx, []string{leaked}, time.Time{}, nil)
				return err
			},
			"live tokens": func() error { _, err := adm.Keys().LiveTokens(ctx); return err },
		}
		for name, count := range counts {
			if err := count(); !errors.Is(err, admin.ErrTooSlow) || errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		began := adm.Now()
		done := Must(adm.Keys().Revoke(ctx, leaked, false, ""))
		if n := Must(adm.Keys().EndGrants(ctx, leaked, time.Time{})); n != 1 || len(done.Revoked) != 1 {
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
		adm = Must(OpenAdmin(ctx, c, o))
		defer adm.Close()
		use := Must(adm.Keys().Use(ctx, done.Revoked, time.Time{}, &began))
		if len(use) != 1 || use[0].Grants != 1 || use[0].ClientID != "app" {
			t.Errorf("what was ended with it is not counted: %+v", use)
		}
		if use := Must(adm.Keys().Use(ctx, []string{leaked}, time.Time{}, nil)); len(use) != 0 {
			t.Errorf("alive: %+v", use)
		}
	})
}

// A master key file that cannot be written is noticed before anything is changed, and nobody claims to have written it.
func TestMasterKeyFileIsReadOnly(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		c := h.Config
		c.MasterKeyFile = Must(PlaceOf(c)).MasterKeyFile
		gone := h.Server.place
		gone.MasterKeyFile = filepath.Join(t.TempDir(), "gone") // it was there when the command began
		adm := admin.New(h.Server.store, c, gone, admin.Options{Actor: "os:test", Now: h.Clock.Now})
		before := Must(h.Server.db.SigningKeys().All(ctx))
		for _, file := range []string{filepath.Join(t.TempDir(), "no new one"), MasterFile(t)} {
			if _, err := adm.Keys().Revoke(ctx, "", true, file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("revoke all: %v", err)
			}
			_, plan, err := adm.Keys().Rewrap(ctx, file, true)
			if !errors.Is(err, os.ErrNotExist) || plan.Appended {
				t.Errorf("rewrap: %+v, %v", plan, err)
			}
		}
		if after := Must(h.Server.db.SigningKeys().All(ctx)); !reflect.DeepEqual(before, after) {
			t.Error("the keys have changed")
		}
	})
}

// A command notes in the anchor of its host what it did, without saying that a server runs, and makes no anchor where
// there is none.
func TestCommandsMoveTheAnchor(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		path := filepath.Join(t.TempDir(), "anchor")
		h.Server.place.AnchorFile = path
		var said string
		h.Admin = admin.New(h.Server.store, h.Config, h.Server.place, admin.Options{
			Actor: "os:test",
			Now:   h.Clock.Now,
			Say:   func(_ string, args ...any) { said = args[0].(error).Error() },
		})
		h.Admin.Remember(ctx)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("an anchor was made: %v", err)
		}
		h.Server.writeHeartbeat(ctx)
		before := Must(h.Server.ring.Anchor(path).Read())
		beaten := Must(h.Server.db.Meta().Timestamp(ctx, storage.TimestampHeartbeat))
		h.Clock.at.Add(int64(time.Minute))
		Must(0, h.Admin.Users().Disable(ctx, "alice"))
		h.Admin.Remember(ctx)
		after := Must(h.Server.ring.Anchor(path).Read())
		if after.AuditSeq != before.AuditSeq+1 ||
			after.AuditHash == before.AuditHash ||
			!after.Heartbeat.Equal(before.Heartbeat) {
			t.Errorf("from %+v to %+v", before, after)
		}
		if now := Must(h.Server.db.Meta().Timestamp(ctx, storage.TimestampHeartbeat)); !now.Equal(beaten) {
			t.Errorf("a heartbeat at %v", now)
		}
		cut := "DELETE FROM audit WHERE seq = (SELECT MAX(seq) FROM audit)"
		storagetest.MustExec(t, storagetest.Raw(t, h.Config.Database), cut,
			`UPDATE audit_head SET seq = (SELECT MAX(seq) FROM audit),
				hash = (SELECT hash FROM audit ORDER BY seq DESC LIMIT 1)`)
		if _, err := h.Admin.Audit().Verify(ctx); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("the tail was cut off: %v", err)
		}
		Must(0, h.Admin.Users().Enable(ctx, "alice")) // which has the number of what was cut off
		h.Admin.Remember(ctx)
		kept := Must(h.Server.ring.Anchor(path).Read())
		if kept.AuditHash != after.AuditHash || !strings.Contains(said, "cut off") {
			t.Errorf("the mark is gone: %+v, %q", kept, said)
		}
	})
}

// Whoever runs a command does not take the anchor from the server.
func TestAnchorKeepsItsOwner(t *testing.T) {
	t.Parallel()
	c := ConfigFor(storagetest.SQLiteURL(t))
	h := OpenHarness(t, c, nil)
	h.Provision()
	h.Server.writeHeartbeat(ctx)
	path := Must(PlaceOf(c)).AnchorFile
	Must(0, os.Chmod(path, 0o640))
	if os.Getuid() == 0 {
		Must(0, os.Chown(path, 65534, 65534))
	}
	owner := Must(os.Stat(path))
	Must(0, h.Admin.Users().Disable(ctx, "alice"))
	h.Admin.Remember(ctx)
	now := Must(os.Stat(path))
	if ownerOf(now) != ownerOf(owner) || now.Mode() != owner.Mode() || os.SameFile(now, owner) {
		t.Errorf("%v %v, was %v %v", ownerOf(now), now.Mode(), ownerOf(owner), owner.Mode())
	}
}

// An anchor that cannot be written is seen by doctor and in the metrics.
func TestAnchorThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(storagetest.SQLiteURL(t)), nil)
	written := func(want string) bool {
		return strings.Contains(h.metricsText(), "\nkeyturn_anchor_written "+want+"\n")
	}
	look := func(c config.Config) []admin.Finding { return DoctorOf(ctx, c, admin.Options{Actor: "os:test"}, nil) }
	h.Server.writeHeartbeat(ctx)
	if !written("1") || !found(look(h.Config), "anchor", admin.FindingOK, "can be written") {
		t.Errorf("%+v", look(h.Config))
	}
	c, well := h.Config, h.Server.place
	c.AnchorFile = filepath.Join(t.TempDir(), "none", "anchor")
	h.Server.place.AnchorFile = c.AnchorFile
	h.Server.writeHeartbeat(ctx)
	if !written("0") || !found(look(c), "anchor", admin.FindingWarning, "anchor_file") {
		t.Errorf("%+v", look(c))
	}
	h.Server.place = well
	h.Server.writeHeartbeat(ctx)
	if !written("1") {
		t.Error("the gauge stays at 0")
	}
}

// What doctor cannot count in time, it says it cannot.
func TestDoctorDoesNotCountForEver(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		c := h.Config
		c.MasterKeyFile = h.Server.place.MasterKeyFile
		findings := DoctorOf(ctx, c, admin.Options{Actor: "os:test", Count: time.Nanosecond}, nil)
		if !found(findings, "users", admin.FindingWarning, "could not be counted within 1ns") {
			t.Errorf("%+v", findings)
		}
	})
}
