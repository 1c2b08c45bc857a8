package passwords

import (
	"regexp"
	"testing"

	"github.com/keyturn/keyturn/passwords/passwordstest"
)

// An accepted PHC string has parameters in bounds, and String writes it as it was read.
func FuzzArgon2id(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g")
	f.Add("$argon2id$v=19$m=0,t=0,p=0$$")
	f.Add("$argon2i$v=19$m=8,t=1,p=1$YWFhYWFhYWE$YWFhYWFhYWFhYWFhYWFhYQ")
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$YWFhYWFhYWE$YWFhYWFhYWFhYWFhYWFhYQ")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseArgon2id(text)
		if err != nil {
			return
		}
		if h.String() != text || h.Memory > MaxMemory || h.Time < 1 || h.Time > maxTime || h.Lanes < 1 ||
			h.Lanes > maxLanes ||
			h.Memory < 8*uint32(h.Lanes) {
			t.Fatalf("%q: %+v", text, h)
		}
	})
}

// An accepted hash can be computed at a bounded cost, and does not match every password.
func FuzzImported(f *testing.F) {
	for _, imported := range passwordstest.Imported {
		f.Add(imported.Text)
	}
	f.Add("scrypt$2$a$64$16$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseImported(text)
		if err == nil && h.Cost() > maxImportedMemory {
			t.Fatalf("%q costs %d KiB", text, h.Cost())
		}
		if err == nil && len(text) < 120 && cheap.MatchString(text) && h.Matches("a password", "") &&
			h.Matches("another", "") {
			t.Fatalf("%q matches whatever is typed", text)
		}
	})
}

// cheap matches hashes that a fuzzer can compute in large numbers.
var cheap = regexp.MustCompile(`^(pbkdf2_sha\d+\$\d{1,3}\$|\$2[aby]\$04)`)
