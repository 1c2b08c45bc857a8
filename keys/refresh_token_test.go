package keys_test

import (
	"strings"
	"testing"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A text opens as a refresh token only if this server would make exactly the same text.
func FuzzRefreshToken(f *testing.F) {
	db := storagetest.MustOpen(f, storagetest.SQLiteURL(f))
	c := newClock()
	secrets := keystest.MustRing(f, db, c.now, keystest.Module()).Secrets()
	f.Add(secrets.SealRefreshToken(keys.RefreshToken{Grant: 1, Generation: 2, Family: keys.NewFamily()}, c.now()))
	f.Add("ktr_")
	f.Add("ktr_" + strings.Repeat("A", 60))
	f.Add("ktr_" + strings.Repeat("_", 60))
	f.Fuzz(func(t *testing.T, text string) {
		token, ok := secrets.OpenRefreshToken(text)
		if sealed := secrets.SealRefreshToken(token, c.now()); ok && sealed != text {
			t.Fatalf("%q opens, and is made as %q", text, sealed)
		}
	})
}
