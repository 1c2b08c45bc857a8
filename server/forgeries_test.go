package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
)

// claimsOf returns the claims of a token.
func claimsOf(token string) map[string]any {
	claims := map[string]any{}
	Must(0, json.Unmarshal(Must(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])), &claims))
	return claims
}

// forge signs the claims of a token, with changes, by the stolen key of that token. nil removes a claim.
func forge(t testing.TB, token string, changes map[string]any) string {
	claims := claimsOf(token)
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	for name, v := range claims {
		if n, ok := v.(float64); ok {
			claims[name] = int64(n)
		}
	}
	return Must(keystest.Forge(kidOf(t, token), "at+jwt", Must(json.Marshal(claims))))
}

// forgeryRecords are the audit records of forged tokens.
func (h *Harness) forgeryRecords() (records []storage.AuditRecord) {
	h.T.Helper()
	filter := storage.AuditFilter{Type: storage.AuditForgery}
	Must(0, h.Server.db.Audit().Pages(ctx, filter, func(page []storage.AuditRecord) error {
		records = append(records, page...)
		return nil
	}))
	return records
}

// wantForged checks that a forged token is refused at both endpoints of a replica, and that both are recorded.
func (h *Harness) wantForged(name, text string) {
	h.T.Helper()
	before := len(h.forgeryRecords())
	for _, client := range []string{"rs", "rs2", "app"} {
		if r := h.Post("/introspect", client, "token", text); r.Status != 200 || r.Body != "{\"active\":false}\n" {
			h.T.Errorf("%s: introspection by %s: %d %s", name, client, r.Status, r.Body)
		}
	}
	if r := h.Post("/revoke", "app", "token", text); r.Status != 200 || r.Body != "{}\n" {
		h.T.Errorf("%s: revocation: %d %s", name, r.Status, r.Body)
	}
	if before < storage.MaxForgeryRecords && len(h.forgeryRecords()) == before {
		h.T.Errorf("%s: not recorded", name)
	}
}

// Whoever has stolen the signing key changes the claims of a real login, or takes the jti of a real token, or the
// claims of a login that has ended. Every try is refused and seen, at every replica.
func TestStolenKeyIsSeen(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		twin := OpenHarness(t, h.Config, h.Clock)
		token := h.Login("app").AccessToken
		over := h.Login("app")
		h.Post("/revoke", "app", "token", over.RefreshToken)
		now := h.Clock.Now().Unix()
		tries := map[string]string{
			"made-up jti":          forge(t, token, map[string]any{"jti": "AAAAAAAAAAAAAAAAAAAAAA"}),
			"of an ended login":    forge(t, over.AccessToken, map[string]any{"jti": "BBBBBBBBBBBBBBBBBBBBBB"}),
			"ended, its own jti":   forge(t, over.AccessToken, map[string]any{"exp": now + 900}),
			"no jti":               forge(t, token, map[string]any{"jti": nil}),
			"a new claim":          forge(t, token, map[string]any{"admin": true}),
			"nothing but a key":    Must(keystest.Forge(kidOf(t, token), "JWT", []byte(`{"sub":"x"}`))),
			"a scope, by the name": forge(t, token, map[string]any{"Scope": "everything"}),
		}
		for name, value := range map[string]any{
			"iss": "https://else.example", "sub": "usr_other", "aud": "https://mail.example", "client_id": "other",
			"exp": now + 10*365*86400, "iat": now - 86400, "scope": "read write everything", "auth_time": now - 1,
			"sid": "0000000000000001", "roles": []string{"admin", "root"},
		} {
			tries["copied jti, another "+name] = forge(t, token, map[string]any{name: value})
		}
		for name, text := range tries {
			h.wantForged(name, text)
			twin.wantForged(name, text)
			h.Step(time.Hour) // the hour has room for 20 records
			Must(0, twin.Server.ring.Poll(ctx))
			token = h.Login("app").AccessToken
		}
		if !h.Active("rs", token) || !twin.Active("rs", token) {
			t.Error("the real token is not active any more")
		}
	})
}

// Of a hundred forged tokens, of live and of ended logins, with invented ids and with copied ones, all are refused and
// recorded, and the replica that did not see them tells of all within its next look, a second later.
func TestHundredForgeries(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		replicas := []*Harness{h, OpenHarness(t, h.Config, h.Clock)}
		for _, r := range replicas {
			r.Server.lookForNews(ctx)
		}
		names := []string{"sub", "aud", "client_id", "scope", "sid", "iss", "auth_time", "exp", "iat", "jti"}
		for batch := range 5 { // an hour has room for 20 records
			live, over := h.Login("app"), h.Login("app")
			h.Post("/revoke", "app", "token", over.RefreshToken)
			for i := range 20 {
				text := forge(t, over.AccessToken, map[string]any{"scope": "read"})
				switch name := names[i%len(names)]; {
				case i < 5:
					text = forge(t, live.AccessToken, map[string]any{"jti": fmt.Sprintf("%022d", i)})
				case i < 15:
					value := claimsOf(live.AccessToken)[name]
					if n, ok := value.(float64); ok {
						text = forge(t, live.AccessToken, map[string]any{name: int64(n) - 1})
					} else {
						text = forge(t, live.AccessToken, map[string]any{name: fmt.Sprint(value, "x")})
					}
				}
				r := replicas[i%2].Post("/introspect", "rs", "token", text)
				if r.Body != "{\"active\":false}\n" {
					t.Errorf("%d, %d: %s", batch, i, r.Body)
				}
			}
			for _, r := range replicas {
				r.Server.lookForNews(ctx)
			}
			h.Step(time.Hour)
			Must(0, replicas[1].Server.ring.Poll(ctx))
		}
		if n := len(h.forgeryRecords()); n != 100 {
			t.Errorf("%d of 100 recorded", n)
		}
		for i, r := range replicas {
			if n := strings.Count(r.Log.String(), `"event":"key.forgery"`); n != 100 {
				t.Errorf("replica %d tells of %d of 100", i, n)
			}
		}
	})
}

// What a record, the log, the metric and the health of the keys say of a forged token, also at another replica.
func TestForgeryIsTold(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		twin := OpenHarness(t, h.Config, h.Clock)
		twin.Server.lookForNews(ctx)
		token := h.Login("app").AccessToken
		kid, claims := kidOf(t, token), claimsOf(token)
		if r := h.forgeryRecords(); len(r) != 0 {
			t.Fatal(r)
		}
		forged := forge(t, token, map[string]any{"scope": "everything"})
		h.Post("/introspect", "rs", "token", forged)
		records := h.forgeryRecords()
		if len(records) != 1 || records[0].Target != kid || records[0].Actor != "client:rs" {
			t.Fatalf("%+v", records)
		}
		var details map[string]any
		Must(0, json.Unmarshal(records[0].Details, &details))
		for _, name := range []string{"sub", "client_id", "aud", "iat", "exp"} {
			if details[name] != claims[name] {
				t.Errorf("%s: %v, want %v", name, details[name], claims[name])
			}
		}
		if details["address"] != "127.0.0.1" || len(details["token"].(string)) != 16 {
			t.Errorf("%v", details)
		}
		twin.Server.lookForNews(ctx)
		for name, log := range map[string]string{"here": h.Log.String(), "at the twin": twin.Log.String()} {
			if !strings.Contains(log, `"level":"ERROR"`) || !strings.Contains(log, `"event":"key.forgery"`) ||
				!strings.Contains(log, "keyturn keys revoke "+kid) {
				t.Errorf("the log %s: %s", name, log)
			}
		}
		if !strings.Contains(h.metricsText(), `keyturn_forged_tokens_total{kid="`+kid+`"} 1`) ||
			!strings.Contains(twin.metricsText(), `keyturn_forged_tokens_total{kid="`+kid+`"} 0`) {
			t.Error("the metric does not show it")
		}
		want := "Key " + kid + " has signed tokens that this server did not make. Revoke it: keyturn keys revoke " + kid
		if s := Must(h.Admin.Keys().Status(ctx)); s.Level != keys.LevelCritical || !strings.Contains(s.Sentence, want) {
			t.Errorf("%+v", s)
		}
		explained := Must(h.Admin.Tokens().Inspect(ctx, forged))
		if explained.Verdict != "signed by our key, not made by us" || !strings.Contains(*explained.Why, kid) {
			t.Errorf("token inspect: %+v", explained)
		}
		if records = h.forgeryRecords(); len(records) != 2 || records[1].Actor != "os:test" {
			t.Errorf("%+v", records)
		}
		if r := Must(h.Admin.Tokens().Inspect(ctx, token)); r.Verdict != admin.VerdictLive {
			t.Errorf("token inspect of the real token: %+v", r)
		}
		Must(h.Admin.Keys().Revoke(ctx, kid, false, ""))
		if s := Must(h.Admin.Keys().Status(ctx)); strings.Contains(s.Sentence, want) || s.Level == keys.LevelCritical {
			t.Errorf("after the revocation: %+v", s)
		}
	})
}

// A flood of forged tokens makes twenty records an hour and key over all replicas, then one with the number of all.
func TestFloodOfForgeries(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		replicas := []*Harness{h, OpenHarness(t, h.Config, h.Clock), OpenHarness(t, h.Config, h.Clock)}
		token := h.Login("app").AccessToken
		const flood = 300
		for i := range flood {
			r := replicas[i%len(replicas)]
			r.Post("/introspect", "rs", "token", forge(t, token, map[string]any{"n": i}))
			if i%40 == 0 {
				r.Server.forgeries.flush(ctx)
			}
		}
		for _, r := range replicas {
			r.Server.forgeries.flush(ctx)
			for hour, tally := range r.Server.forgeries.tallies {
				if len(tally.listed) > 0 || tally.more > 0 {
					t.Errorf("%v: not written: %+v", hour, tally)
				}
			}
		}
		if n := len(h.forgeryRecords()); n != storage.MaxForgeryRecords {
			t.Errorf("%d records", n)
		}
		Must(0, h.Server.cleanUpOnce(ctx))
		if n := len(h.forgeryRecords()); n != storage.MaxForgeryRecords {
			t.Errorf("%d records before the hour is over", n)
		}
		h.Step(time.Hour)
		for range 2 {
			Must(0, h.Server.cleanUpOnce(ctx))
		}
		records := h.forgeryRecords()
		var last struct{ Count int }
		Must(0, json.Unmarshal(records[len(records)-1].Details, &last))
		if len(records) != storage.MaxForgeryRecords+1 || last.Count != flood {
			t.Errorf("%d records, the last counts %d", len(records), last.Count)
		}
		h.Step(2 * time.Hour)
		if h.Server.forgeries.flush(ctx); len(h.Server.forgeries.tallies) != 0 {
			t.Error("hours that are over are kept")
		}
	})
}

// While the database is away, a forged token is refused, and recorded once the database is back.
func TestForgeryWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		token := h.Login("app").AccessToken
		f := storage.Forgery{KID: kidOf(t, token), At: h.Clock.Now(), By: storage.Actor{Name: "client:rs"}}
		away, cancel := context.WithCancel(ctx)
		cancel()
		for range storage.MaxForgeryRecords + 5 {
			h.Server.forgeries.note(away, f)
		}
		if n := len(h.forgeryRecords()); n != 0 {
			t.Fatalf("%d records", n)
		}
		h.Server.forgeries.flush(ctx)
		if n := len(h.forgeryRecords()); n != storage.MaxForgeryRecords {
			t.Errorf("%d records", n)
		}
	})
}

// With on_forgery: revoke, the first forged token revokes its key, once, whichever replica saw it. Without, none does.
// A record that somebody wrote into the table revokes nothing.
func TestOnForgery(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		c := h.Config
		c.OnForgery = "revoke"
		strict, twin := OpenHarness(t, c, h.Clock), OpenHarness(t, c, h.Clock)
		for _, r := range []*Harness{h, strict, twin} {
			r.Server.lookForNews(ctx)
		}
		token := h.Login("app").AccessToken
		kid := kidOf(t, token)
		revoked := func() (n int) {
			for _, k := range h.Admin.Keys().List() {
				if k.State == storage.KeyRevoked {
					n++
				}
			}
			return n
		}
		tell := func() {
			for _, r := range []*Harness{h, strict, twin} {
				r.Server.lookForNews(ctx)
				r.Server.forgeries.look(ctx)
				Must(0, h.Server.ring.Poll(ctx))
			}
		}
		h.Exec(`INSERT INTO audit SELECT seq + 1, time, '` + storage.AuditForgery + `', 'client:rs', '` + kid +
			`', '', '{}', hash, hash FROM audit ORDER BY seq DESC LIMIT 1`)
		h.Exec(`UPDATE audit_head SET seq = seq + 1`)
		if tell(); revoked() != 0 {
			t.Fatal("a record that no server wrote has revoked a key")
		}
		// Nor does whoever changes the row of a login: its tokens go beyond the row then, but they have their MAC.
		h.Exec(`UPDATE grants SET scope = 'nothing'`)
		for _, r := range []*Harness{h, strict, twin} {
			if r.Active("rs", token) {
				t.Error("a token beyond its login is active")
			}
		}
		h.Admin.Tokens().Inspect(ctx, token)
		if tell(); revoked() != 0 {
			t.Fatal("a row that somebody changed has revoked a key")
		}
		h.Exec(`UPDATE grants SET scope = 'read write'`)
		h.Post("/introspect", "rs", "token", forge(t, token, map[string]any{"scope": "everything"}))
		if h.Server.lookForNews(ctx); revoked() != 0 {
			t.Error("on_forgery: alarm has revoked a key")
		}
		for range 3 {
			tell()
		}
		if revoked() != 1 || h.Active("rs", token) {
			t.Errorf("%d keys revoked", revoked())
		}
		after := h.Login("app").AccessToken
		if kidOf(t, after) == kid || !h.Active("rs", after) {
			t.Error("no new key signs")
		}
	})
}

// Turned on in the middle of an attack, on_forgery: revoke revokes the key, although the hour has no room for records.
func TestOnForgeryIsTurnedOn(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		token := h.Login("app").AccessToken
		for i := range storage.MaxForgeryRecords + 5 {
			h.Post("/introspect", "rs", "token", forge(t, token, map[string]any{"n": i}))
		}
		h.Server.forgeries.look(ctx)
		if !h.Active("rs", token) {
			t.Fatal("on_forgery: alarm has revoked the key")
		}
		c := h.Config
		c.OnForgery = "revoke"
		h.Server.settings.Store(&c)
		h.Server.forgeries.look(ctx)
		Must(0, h.Server.ring.Poll(ctx))
		if h.Active("rs", token) {
			t.Error("the key is not revoked")
		}
	})
}

// What is kept of forged tokens is bounded, however large they are.
func TestLargeForgeries(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		token := h.Login("app").AccessToken
		text := forge(t, token, map[string]any{"sub": strings.Repeat("x", 30_000), "scope": strings.Repeat("y", 5000)})
		if h.Active("rs", text) {
			t.Error("active")
		}
		for _, v := range h.Server.verified.young {
			if len(v.claims.Subject) > 256 || v.claims.Scope != "" && v.origin == keys.OriginForged {
				t.Errorf("%d bytes of sub and %d of scope are kept", len(v.claims.Subject), len(v.claims.Scope))
			}
		}
		if r := h.forgeryRecords(); len(r) != 1 || len(r[0].Details) > 2000 {
			t.Errorf("%d records, of %d bytes", len(r), len(r[0].Details))
		}
	})
}

// A token that goes beyond its login is forged, also while tokens without a MAC are exempt after an upgrade.
func TestForgeryAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		token := h.Login("app")
		h.Exec(`DELETE FROM secret_keys WHERE purpose = 'jti'`)
		h.Step(time.Second)
		payload := string(Must(h.Server.ring.Verify(token.AccessToken)).Payload)
		jti := claimsOf(token.AccessToken)["jti"].(string)
		old := strings.Replace(payload, jti, "AAAAAAAAAAAAAAAAAAAAAA", 1) // as the version before wrote it
		if !h.Active("rs", Must(keystest.Forge(kidOf(t, token.AccessToken), "at+jwt", []byte(old)))) {
			t.Error("a token from before the upgrade is not active")
		}
		beyond := strings.Replace(old, `"scope":"read write"`, `"scope":"read write everything"`, 1)
		if h.Active("rs", Must(keystest.Forge(kidOf(t, token.AccessToken), "at+jwt", []byte(beyond)))) ||
			len(h.forgeryRecords()) != 1 {
			t.Error("a token beyond its login is not noticed")
		}
		now := h.Clock.Now().Unix()
		for name, changes := range map[string]map[string]any{
			"more scope":       {"scope": "read write everything"},
			"another audience": {"aud": "https://rs.example"},
			"another user":     {"sub": "usr_other"},
			"another client":   {"client_id": "other"},
			"for years":        {"exp": now + 10*365*86400},
			"before the key":   {"iat": now - 86400, "exp": now - 86400 + 3600},
			"another spelling": {"exp": nil, "Exp": now + 10*365*86400},
			"a new claim":      {"admin": true},
			"no expiry":        {"exp": nil},
		} {
			before := len(h.forgeryRecords())
			text := forge(t, token.AccessToken, changes)
			if r := h.Post("/introspect", "rs", "token", text); r.Body != "{\"active\":false}\n" {
				t.Errorf("%s: %s", name, r.Body)
			}
			h.Post("/revoke", "app", "token", text)
			if len(h.forgeryRecords()) == before {
				t.Errorf("%s: not recorded", name)
			}
		}
		if !h.Active("rs", token.AccessToken) {
			t.Error("a forged token has ended the login")
		}
		h.Step(time.Hour)
		fresh := h.Refresh("app", token.RefreshToken).Tokens(t).AccessToken
		if !h.Active("rs", fresh) {
			t.Error("a token from after the upgrade is not active")
		}
		h.wantForged("an hour later", forge(t, fresh, map[string]any{"jti": "AAAAAAAAAAAAAAAAAAAAAA"}))
	})
}
