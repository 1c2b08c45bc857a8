package keys

import (
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// There is a number for every key that a grant may need. If all numbers are in use, none is used twice.
func TestRefreshKeyNumbers(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []Config{{RotationInterval: 2 * time.Second, GrantTTL: 90 * day},
		{RotationInterval: day, GrantTTL: 3650 * day}, {RotationInterval: 90 * day, GrantTTL: time.Hour}} {
		if alive := c.GrantTTL / refreshInterval(c); alive > maxSecretNumber-10 ||
			refreshInterval(c) < c.RotationInterval {
			t.Errorf("%+v: %d keys alive", c, alive)
		}
	}
	var rows []secretKey
	for n := range int64(maxSecretNumber) {
		number, ok := int64(1), true
		if n > 0 {
			number, ok = freeNumber(rows)
		}
		if !ok || number != n+1 {
			t.Fatalf("key %d gets number %d, %v", n, number, ok)
		}
		rows = append(rows, secretKey{row: storage.SecretKey{Number: number}})
	}
	if n, ok := freeNumber(rows); ok {
		t.Errorf("%d is taken twice", n)
	}
	if n, ok := freeNumber(rows[1:]); !ok || n != 1 {
		t.Errorf("%d, %v", n, ok)
	}
}
