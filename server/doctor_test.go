package server

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// found tells whether a check has found something of that kind.
func found(findings []Finding, check string, status FindingStatus, words string) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Check == check && f.Status == status && strings.Contains(f.Found+" "+f.Advice, words)
	})
}

// What serve would refuse, doctor says; and it changes nothing.
func TestDoctorSaysWhatServeWould(t *testing.T) {
	c := testConfig(storagetest.SQLiteURL(t))
	c.MasterKeyFile = masterFile(t)
	h := open(t, c, nil)
	h.provision()
	h.server.beat(ctx)
	h.server.Close()
	file := storagetest.SQLiteFile(c.Database)
	sum := func() [32]byte { return sha256.Sum256(must(os.ReadFile(file))) }
	look := func(c Config, secrets ...string) []Finding {
		t.Helper()
		return Doctor(ctx, c, AdminOptions{Actor: "os:test"}, secrets)
	}
	before, folder := sum(), must(os.ReadDir(filepath.Dir(file)))
	well := look(c)
	if !found(well, "configuration", FindingOK, "") || !found(well, "database", FindingOK, "takes writes") ||
		!found(well, "files", FindingOK, "") {
		t.Errorf("%+v", well)
	}
	if sum() != before || len(must(os.ReadDir(filepath.Dir(file)))) != len(folder) {
		t.Error("it has changed something")
	}
	certificate := c
	certificate.TLSCertFile, certificate.TLSKeyFile = "/nowhere/cert.pem", "/nowhere/key.pem"
	if got := look(certificate); !found(got, "configuration", FindingFailed, "/nowhere/cert.pem") {
		t.Errorf("%+v", got)
	}
	open := filepath.Join(t.TempDir(), "keyturn.yaml")
	if err := os.WriteFile(open, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := look(c, open); !found(got, "files", FindingFailed, open) {
		t.Errorf("%+v", got)
	}
	missing := c
	missing.Database = "sqlite:" + filepath.Join(t.TempDir(), "none.db")
	if got := look(missing); !found(got, "database", FindingFailed, "") {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(storagetest.SQLiteFile(missing.Database)); err == nil {
		t.Error("it has made a database")
	}
	fresh := testConfig(storagetest.PostgresURL(t))
	fresh.MasterKeyFile = masterFile(t)
	if db, err := storage.Open(ctx, storage.Options{Source: storagetest.MustParse(t, fresh.Database), Migrate: true,
		Create: true}); err != nil {
		t.Fatal(err)
	} else {
		db.Close()
	}
	if got := look(fresh); !found(got, "database", FindingWarning, "it is new") {
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
	if got := look(c); !found(got, "database", FindingFailed, "it was copied to postgres://elsewhere") {
		t.Errorf("%+v", got)
	}
	storagetest.MustExec(t, raw, `UPDATE meta SET value = 'dev', name = 'stamp' WHERE name = 'moved'`)
	if got := look(c); !found(got, "database", FindingFailed, "keyturn dev") {
		t.Errorf("%+v", got)
	}
}

// A clock is warned of from more than a second on.
func TestDoctorAndTheClock(t *testing.T) {
	for off, want := range map[time.Duration]FindingStatus{0: FindingOK, -time.Second: FindingOK,
		1100 * time.Millisecond: FindingWarning, -time.Hour: FindingWarning} {
		d := &doctor{}
		d.clock(off, "that of the database", clockTolerance)
		if len(d.findings) != 1 || d.findings[0].Status != want {
			t.Errorf("%v: %+v", off, d.findings)
		}
	}
}

// Few descriptors are warned of.
func TestDoctorAndDescriptors(t *testing.T) {
	for limit, want := range map[int]FindingStatus{
		256:     FindingWarning,
		1023:    FindingWarning,
		1024:    FindingOK,
		1 << 20: FindingOK,
	} {
		d := &doctor{}
		d.descriptors(limit)
		if len(d.findings) != 1 || d.findings[0].Status != want || (d.findings[0].Advice == "") != (want == FindingOK) {
			t.Errorf("%d: %+v", limit, d.findings)
		}
	}
	d := &doctor{}
	if d.descriptors(0); len(d.findings) > 0 {
		t.Errorf("%+v", d.findings)
	}
}

// Counters of failures go in one round, however many there are.
func TestCleanUpOfFailures(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		raw := storagetest.Raw(t, h.config.Database)
		for _, from := range []string{"0", "1"} {
			storagetest.MustExec(
				t,
				raw,
				`INSERT INTO throttle (bucket, failures, last_at) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1
					FROM n WHERE i < 1500)
				SELECT '`+from+` ' || CAST(i AS TEXT), 1, 1 FROM n`,
			)
		}
		if err := h.server.cleanUpOnce(ctx); err != nil {
			t.Fatal(err)
		}
		var left int
		if err := raw.QueryRow(`SELECT COUNT(*) FROM throttle`).Scan(&left); err != nil || left > 0 {
			t.Errorf("%d are left, %v", left, err)
		}
	})
}
