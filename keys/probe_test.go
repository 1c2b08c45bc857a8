package keys_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A signer of a probe signs nothing that could be of use elsewhere, or for longer.
func TestProbeBounds(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c, module := newClock(), keystest.Module()
		r := keystest.MustRing(t, db, c.now, module)
		bounds := keys.ProbeBounds{
			Subject:        "usr_probe",
			ClientID:       "probe",
			Resource:       "https://api.example",
			OtherAudiences: "urn:probe:",
			Typs:           []string{"at+jwt", ""},
			Lifetime:       time.Minute,
		}
		s, err := r.LifeCycle().ProbeSigner(ctx, bounds, false)
		must(t, err)
		now := c.now().Unix()
		good := func() map[string]any {
			return map[string]any{
				"sub":       "usr_probe",
				"client_id": "probe",
				"aud":       "https://api.example",
				"exp":       now + 60,
				"iat":       now,
				"jti":       strings.Repeat("A", 22),
			}
		}
		for name, change := range map[string]func(map[string]any) (typ string){
			"a later exp":         func(c map[string]any) string { c["exp"] = now + 61; return "at+jwt" },
			"no exp":              func(c map[string]any) string { delete(c, "exp"); return "at+jwt" },
			"a float as exp":      func(c map[string]any) string { c["exp"] = float64(now + 60); return "at+jwt" },
			"a real audience":     func(c map[string]any) string { c["aud"] = "https://mail.example"; return "at+jwt" },
			"a list with another": func(c map[string]any) string { c["aud"] = []string{"urn:probe:", "x"}; return "" },
			"another form of aud": func(c map[string]any) string { c["aud"] = []any{"urn:probe:1"}; return "" },
			"a real subject":      func(c map[string]any) string { c["sub"] = "usr_alice"; return "at+jwt" },
			"a real client":       func(c map[string]any) string { c["client_id"] = "app"; return "at+jwt" },
			"no client":           func(c map[string]any) string { delete(c, "client_id"); return "at+jwt" },
			"another typ":         func(map[string]any) string { return "statuslist+jwt" },
		} {
			claims := good()
			typ := change(claims)
			if token, err := s.Sign(typ, "", claims); err == nil || token != "" {
				t.Errorf("%s was signed", name)
			}
		}
		for name, change := range map[string]func(claims map[string]any){
			"good":             func(map[string]any) {},
			"without audience": func(c map[string]any) { delete(c, "aud") },
			"without subject":  func(c map[string]any) { delete(c, "sub") },
			"a list of ours":   func(c map[string]any) { c["aud"] = []string{"https://api.example", "urn:probe:1"} },
		} {
			claims := good()
			change(claims)
			token, err := s.Sign("at+jwt", "", claims)
			must(t, err)
			if v, err := r.Verify(token); err != nil || v.Origin != keys.OriginServer {
				t.Errorf("%s: %v %v", name, v.Origin, err)
			}
		}
	})
}
