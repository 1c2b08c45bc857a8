package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/config"
)

// Any configuration file is accepted, or its problems are listed. Nothing panics.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{"issuer: https://a.example\n", "access_ttl: 10m\nkey_bits: 4096",
		"cors_origins: [https://a.example, 1]", "unknown: 1", "- a\n- b", "a: [", "access_ttl: {a: b}",
		"password_hash_memory: 19MiB\nmigrate: yes", "trusted_proxies: 10.0.0.0/8,", "\x00",
		"issuer: &a [*a]", "log_level: null"} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "keyturn.yaml")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		isolated := sources{getenv: func(string) string { return "" }}
		flags := pflag.NewFlagSet("fuzz", pflag.ContinueOnError)
		addSettings(flags, config.ScopeServe)
		if err := flags.Set("config", path); err != nil {
			t.Fatal(err)
		}
		_, err := isolated.readSettings(flags, true)
		var bad *config.Error
		if err != nil && (!errors.As(err, &bad) || len(bad.Problems) == 0) {
			t.Fatalf("%q: %v", content, err)
		}
	})
}
