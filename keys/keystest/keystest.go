// Package keystest gives tests rings and ready-made signing keys.
package keystest

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Config is the default schedule of a server.
var Config = keys.Config{
	RotationInterval: 90 * 24 * time.Hour,
	PublishLead:      24 * time.Hour,
	JWKSMaxAge:       5 * time.Minute,
	Bits:             2048,
	TokenTTL:         time.Hour,
}

// Fataler is a test of the standard library or of rapid.
type Fataler interface {
	Helper()
	Fatal(args ...any)
}

// At returns the clock of a database that shows the time of the test.
func At(now func() time.Time) func(context.Context) (time.Time, error) {
	return func(context.Context) (time.Time, error) { return now(), nil }
}

// Quiet discards the log.
var Quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// MustMaster returns the master key whose bytes are all b.
func MustMaster(t Fataler, b byte) *keys.Master {
	t.Helper()
	key := make([]byte, keys.MasterSize)
	for i := range key {
		key[i] = b
	}
	m, err := keys.NewMaster(key)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// MustRing opens a ring on the database, at the time of now, and lets it make its first keys.
func MustRing(t testing.TB, db *storage.DB, now func() time.Time, module keys.CryptoModule) *keys.Ring {
	t.Helper()
	r, err := keys.Open(
		context.Background(),
		db,
		MustMaster(t, 1),
		Config,
		keys.Options{Now: now, DatabaseNow: At(now), Module: module, Log: Quiet},
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.LifeCycle().Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	return r
}
