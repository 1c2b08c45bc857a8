package admin

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage/storagetest"
)

func TestMain(m *testing.M) { storagetest.Main(m) }

// Commands have no issuer: they take the one that a server has recorded.
func TestSizesGoByTheIssuerOfTheServers(t *testing.T) {
	ctx, c := context.Background(), defaults(t)
	place, err := keys.NewPlace(storagetest.MustSource(t, "sqlite:"+filepath.Join(t.TempDir(), "keyturn.db")), "", "")
	if err != nil {
		t.Fatal(err)
	}
	options := keys.StoreOptions{Create: true, Migrate: true}
	store, err := keys.OpenStore(ctx, place, keys.Config(c.Keys()), options)
	if err != nil {
		t.Fatal(err)
	}
	recorded := keys.Schedule{
		AccessTTL:           keys.Span(c.AccessTTL),
		RefreshMaxTTL:       keys.Span(c.RefreshMaxTTL),
		KeyRotationInterval: keys.Span(c.KeyRotationInterval),
		KeyPublishLead:      keys.Span(c.KeyPublishLead),
		JWKSMaxAge:          keys.Span(c.JWKSMaxAge),
		KeyBits:             c.KeyBits,
		Issuer:              c.Issuer,
	}
	if err := store.Ring.ScheduleRecord().Write(ctx, recorded); err != nil {
		t.Fatal(err)
	}
	store.Close()
	issuer := c.Issuer
	c.Issuer = ""
	a, err := Open(ctx, c, place, Options{Actor: "os:test"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if a.tokenIssuer() != issuer {
		t.Errorf("issuer %q", a.tokenIssuer())
	}
}
