package server_test

import (
	"testing"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Tokens of filled grants are as good as those of logins.
func TestFilledGrants(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		const n = 1001
		filled := h.FillGrants("app", n)
		for _, i := range []int{0, 1, 500, n - 1} {
			tokens := h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", filled.RefreshToken(i)).
				Tokens(t)
			if !h.Active("rs", tokens.AccessToken) {
				t.Errorf("the access token of %d is not active", i)
			}
		}
		if r := h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", filled.RefreshToken(n)); r.Code(
			t,
		) != "invalid_grant" {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		raw := storagetest.Raw(t, h.Config.Database)
		if _, err := keystest.Fill(ctx, h.Server.Store(), raw, "app", n, h.Config.RefreshMaxTTL, noon); err == nil {
			t.Error("filled twice")
		}
	})
}
