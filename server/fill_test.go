package server

import (
	"testing"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Tokens of filled grants are as good as those of logins.
func TestFilledGrants(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		const n = 1001
		filled := h.fillGrants("app", n)
		for _, i := range []int{0, 1, 500, n - 1} {
			tokens := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", filled.RefreshToken(i)).tokens(t)
			if !h.active("rs", tokens.AccessToken) {
				t.Errorf("the access token of %d is not active", i)
			}
		}
		if r := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", filled.RefreshToken(n)); r.code(
			t,
		) != "invalid_grant" {
			t.Errorf("%d %s", r.status, r.body)
		}
		raw := storagetest.Raw(t, h.config.Database)
		if _, err := keystest.Fill(ctx, h.server.store, raw, "app", n, h.config.RefreshMaxTTL, noon); err == nil {
			t.Error("filled twice")
		}
	})
}
