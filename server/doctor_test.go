package server

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// found tells whether a check has found something of that kind.
func found(findings []admin.Finding, check string, status admin.FindingStatus, words string) bool {
	return slices.ContainsFunc(findings, func(f admin.Finding) bool {
		return f.Check == check && f.Status == status && strings.Contains(f.Found+" "+f.Advice, words)
	})
}

// What serve would refuse, doctor says; and it changes nothing.
func TestDoctorSaysWhatServeWould(t *testing.T) {
	t.Parallel()
	c := HashingConfig(storagetest.SQLiteURL(t))
	c.MasterKeyFile = MasterFile(t)
	h := OpenHarness(t, c, nil)
	h.Provision()
	h.Server.writeHeartbeat(ctx)
	h.Server.Close()
	file := FileOf(c.Database)
	sum := func() [32]byte { return sha256.Sum256(Must(os.ReadFile(file))) }
	look := func(c config.Config, secrets ...string) []admin.Finding {
		t.Helper()
		return DoctorOf(ctx, c, admin.Options{Actor: "os:test"}, secrets)
	}
	before, folder := sum(), Must(os.ReadDir(filepath.Dir(file)))
	well := look(c)
	if !found(well, "configuration", admin.FindingOK, "") ||
		!found(well, "database", admin.FindingOK, "takes writes") ||
		!found(well, "files", admin.FindingOK, "") {
		t.Errorf("%+v", well)
	}
	if sum() != before || len(Must(os.ReadDir(filepath.Dir(file)))) != len(folder) {
		t.Error("it has changed something")
	}
	certificate := c
	certificate.TLSCertFile, certificate.TLSKeyFile = "/nowhere/cert.pem", "/nowhere/key.pem"
	if got := look(certificate); !found(got, "configuration", admin.FindingFailed, "/nowhere/cert.pem") {
		t.Errorf("%+v", got)
	}
	open := filepath.Join(t.TempDir(), "keyturn.yaml")
	if err := os.WriteFile(open, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := look(c, open); !found(got, "files", admin.FindingFailed, open) {
		t.Errorf("%+v", got)
	}
	missing := c
	missing.Database = "sqlite:" + filepath.Join(t.TempDir(), "none.db")
	if got := look(missing); !found(got, "database", admin.FindingFailed, "") {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(FileOf(missing.Database)); err == nil {
		t.Error("it has made a database")
	}
	fresh := HashingConfig(storagetest.PostgresURL(t))
	fresh.MasterKeyFile = MasterFile(t)
	storagetest.MustOpen(t, fresh.Database).Close()
	if got := look(fresh); !found(got, "database", admin.FindingWarning, "it is new") {
		t.Errorf("%+v", got)
	}
	var secrets int
	if err := storagetest.Raw(t, fresh.Database).QueryRow(`SELECT (SELECT COUNT(*)
		FROM secret_keys) + (SELECT COUNT(*) FROM meta)`).Scan(&secrets); err != nil ||
		secrets > 0 {
		t.Errorf("%d rows were made, %v", secrets, err)
	}
	raw := storagetest.Raw(t, c.Database)
	storagetest.MustExec(t, raw, `INSERT INTO meta (name, value) VALUES ('moved', 'postgres://elsewhere')`)
	if got := look(c); !found(got, "database", admin.FindingFailed, "it was copied to postgres://elsewhere") {
		t.Errorf("%+v", got)
	}
	storagetest.MustExec(t, raw, `UPDATE meta SET value = 'dev', name = 'stamp' WHERE name = 'moved'`)
	if got := look(c); !found(got, "database", admin.FindingFailed, "keyturn dev") {
		t.Errorf("%+v", got)
	}
}
