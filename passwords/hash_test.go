package passwords

import (
	"strings"
	"testing"
)

func TestStoredHashes(t *testing.T) {
	p := Policy{Memory: 7 << 10, Time: 1, Lanes: 1}
	h := New(p, "pässwörd")
	parsed, err := ParseArgon2id(h.String())
	if err != nil ||
		!parsed.Matches("", "pässwörd") ||
		parsed.Matches("pässwörd", "pässword") ||
		parsed.Weaker(p) ||
		!parsed.Weaker(Policy{Memory: 8 << 10}) {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":      "",
		"bcrypt":     "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
		"argon2i":    strings.Replace(h.String(), "argon2id", "argon2i", 1),
		"no time":    "$argon2id$v=19$m=7168,t=0,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"no lanes":   "$argon2id$v=19$m=7168,t=1,p=0$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"all memory": "$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"all time":   "$argon2id$v=19$m=7168,t=4000000,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"no salt":    "$argon2id$v=19$m=7168,t=1,p=1$$AAAAAAAAAAAAAAAAAAAAAA",
		"more":       h.String() + "$x",
		"sign":       "$argon2id$v=19$m=+7168,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
	} {
		if _, err := ParseArgon2id(text); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
