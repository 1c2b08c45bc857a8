package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// words are n different words of eight letters.
func words(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("word%04d", i))
	}
	return all
}

// The computed size is that of the signed token, also of one with characters that encoding/json escapes.
func TestTokenSizeIsExact(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	signer := Must(h.Server.ring.Signer(ctx, h.Clock.Now().Add(time.Minute)))
	for _, typ := range []keys.Typ{keys.TypAccessToken, keys.TypJWT} {
		for n := range 24 {
			var status *api.Status
			if n >= 12 {
				uri := api.StatusURI(issuer, storage.StatusListID(n).String())
				status = &api.Status{List: api.StatusReference{Index: storage.StatusListSize - 1, URI: uri}}
			}
			access := accessClaims{
				status:   status,
				sub:      api.NewSub(),
				clientID: "app",
				typ:      typ,
				audience: "https://api.example/?a=1&b=<2>" + strings.Repeat("x", n),
				scope:    "read " + strings.Repeat("&", n),
				roles:    words(n),
				issued:   noon,
				expires:  noon.Add(time.Minute),
				authTime: noon,
			}
			token := Must(h.Server.accessToken(signer, access))
			size := api.TokenSize(string(typ), len(Must(json.Marshal(access.claims(issuer, api.SampleTokenID)))), 2048)
			if size != len(token) {
				t.Errorf("%s, %d: computed %d, signed %d", typ, n, size, len(token))
			}
			audiences := storage.List{"https://a", access.audience}
			client := storage.Client{ID: "app", Audiences: audiences, Scope: access.scope}
			payload := Must(api.LargestPayload(issuer, api.TokenRights{
				ClientID: client.ID, Scope: client.Scope, Audiences: client.Audiences, Status: status != nil}))
			full := api.WithRoles(payload, storage.List(access.roles).Size())
			if got := api.TokenSize(string(typ), full, 2048); got != len(token) {
				t.Errorf("%s, %d: of the client %d, signed %d", typ, n, got, len(token))
			}
			fits := api.MaxRoles(string(typ), payload, 2048)
			if api.TokenSize(string(typ), api.WithRoles(payload, fits), 2048) > api.MaxAccessToken ||
				api.TokenSize(string(typ), api.WithRoles(payload, fits+1), 2048) <= api.MaxAccessToken {
				t.Errorf("%s, %d: %d bytes of roles are not the most that fit", typ, n, fits)
			}
		}
	}
	if api.MaxRoles(string(keys.TypJWT), api.MaxAccessToken, 2048) != 0 {
		t.Error("roles fit where nothing fits")
	}
}

// What would make a token too large is refused when it is written, with the sum. The largest that is taken can be
// used everywhere.
func TestTooLargeIsRefusedWhenItIsWritten(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		refused := func(what string, err error, says ...string) {
			t.Helper()
			if !errors.Is(err, admin.ErrInvalid) {
				t.Fatalf("%s: %v", what, err)
			}
			for _, words := range append(says, "8192") {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%s: %q is not in %v", what, words, err)
				}
			}
		}
		_, err := h.Admin.Users().Create(ctx, "bob", password, words(600))
		refused("user with 600 roles", err, "600", "client other", "bytes")
		spec := admin.ClientSpec{
			ID:        "big",
			Grants:    []string{api.GrantPassword},
			Audiences: []string{"https://api.example"},
			Secret:    secret,
			Scope:     strings.Join(words(2500), " "),
		}
		_, err = h.Admin.Clients().Create(ctx, spec)
		refused("client with 2500 scopes", err, "client big")
		_, err = h.Admin.Clients().Update(ctx, "app", func(s *admin.ClientSpec) { s.Scope = spec.Scope })
		refused("client update", err, "client app")
		_, err = h.Admin.Clients().Update(ctx, "app", func(s *admin.ClientSpec) {
			s.Audiences = append(s.Audiences, "https://api.example/"+strings.Repeat("a", 8000))
		})
		refused("client with a long audience", err)
		done := Must(h.Admin.Users().Import(ctx, []admin.ImportedUser{
			{Row: 1, Username: "carol", Roles: words(600)},
			{Row: 2, Username: "dave", Roles: words(2)},
		}, admin.ImportOptions{SkipBad: true}))
		if done.Imported != 1 || len(done.Refused) != 1 || !strings.Contains(done.Refused[0].Reason, "8192") {
			t.Errorf("import: %+v", done)
		}

		n := 600
		for ; err != nil; n-- { // the largest that is taken
			_, err = h.Admin.Users().Create(ctx, "bob", password, words(n))
		}
		tokens := h.Post("/token", "app", "grant_type", "password", "username", "bob", "password", password).Tokens(t)
		if size := len(tokens.AccessToken); size > api.MaxAccessToken || size < api.MaxAccessToken-200 {
			t.Errorf("the largest token has %d bytes", size)
		}
		if !h.Active("app", tokens.AccessToken) {
			t.Error("it is not active")
		}
		if r := h.Post("/revoke", "app", "token", tokens.AccessToken); r.Status != http.StatusOK {
			t.Errorf("revoke: %d %s", r.Status, r.Body)
		}
		spec.Scope = strings.Join(words(40), " ") // much less than it may have, but for bob
		_, err = h.Admin.Clients().Create(ctx, spec)
		refused("client beside a user with many roles", err, "client big")
		Must(0, h.Admin.Users().Delete(ctx, "bob"))
		Must(h.Admin.Clients().Create(ctx, spec))
	})
}

// setRoles writes the roles of alice as somebody does who goes around Admin.
func (h *Harness) setRoles(roles []string) {
	h.T.Helper()
	raw := storagetest.Raw(h.T, h.Config.Database)
	Must(raw.Exec(`UPDATE users SET roles = $1 WHERE username = 'alice'`, Must(storage.List(roles).Value())))
}

// A user whose roles fit no token, from before there was a limit, keeps nobody from creating clients. Doctor names how
// many there are, and of which client the tokens are.
func TestRolesBeyondEveryToken(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		told := func() bool {
			c := h.Config
			c.MasterKeyFile = h.Server.place.MasterKeyFile
			findings := DoctorOf(ctx, c, admin.Options{Actor: "os:test"}, nil)
			return found(findings, "users", admin.FindingWarning, "1 have roles of more than ")
		}
		if told() {
			t.Error("doctor tells of a user with few roles")
		}
		h.setRoles(words(600))
		if !told() {
			t.Error("doctor does not tell of a user with many roles")
		}
		Must(h.Admin.Clients().Create(ctx, admin.ClientSpec{
			ID:        "new",
			Grants:    []string{api.GrantPassword},
			Audiences: []string{"https://api.example"},
			Secret:    secret,
			Scope:     strings.Join(words(40), " "),
		}))
	})
}

// A token that would be too large is not issued, and nothing has changed for it: the refresh token is as it was. A
// narrower scope is served.
func TestTooLargeIsNotIssued(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		h := OpenHarness(t, ConfigFor(databaseURL), nil)
		h.Provision()
		h.Server.clients.age = time.Minute // as a server has it: the client is remembered
		scope := "read " + strings.Join(words(200), " ")
		raw := storagetest.Raw(t, databaseURL)
		Must(raw.Exec(`UPDATE clients SET scope = $1, revision = revision + 1 WHERE id = 'app'`, scope))
		tooLarge := func(what string, r Reply) {
			t.Helper()
			if r.Status != http.StatusBadRequest || r.Code(t) != "invalid_scope" {
				t.Errorf("%s: %d %s", what, r.Status, r.Body)
			}
		}
		grants := func() int { return len(Must(AllGrants(h.Admin, "", ""))) }
		login := func(scope string) Reply {
			return h.Post("/token", "app",
				"grant_type", "password", "username", "alice", "password", password, "scope", scope)
		}
		tokens := h.Login("app")
		h.setRoles(words(600))
		tooLarge("login", login(""))
		if grants() != 1 {
			t.Error("a login without a token has left a grant")
		}
		tooLarge("refresh", h.Refresh("app", tokens.RefreshToken))
		h.setRoles(words(450))
		tooLarge("refresh", h.Refresh("app", tokens.RefreshToken))
		login("read").Tokens(t)
		narrow := h.Post("/token", "app",
			"grant_type", "refresh_token", "refresh_token", tokens.RefreshToken, "scope", "read").Tokens(t)
		if narrow.Scope != "read" || len(narrow.AccessToken) > api.MaxAccessToken ||
			!h.Active("app", narrow.AccessToken) {
			t.Errorf("%d bytes for %s", len(narrow.AccessToken), narrow.Scope)
		}
		// A retry changes nothing, and gives no larger token either.
		tooLarge("retry", h.Refresh("app", tokens.RefreshToken))
		h.setRoles(words(2))
		if again := h.Refresh("app", tokens.RefreshToken).Tokens(t); again.RefreshToken != narrow.RefreshToken {
			t.Error("the retry has another successor")
		}
		for _, says := range []string{
			`"level":"WARN","msg":"an access token is not issued`, `"client":"app","sub":"usr_`, `"max":8192`,
		} {
			if !strings.Contains(h.Log.String(), says) {
				t.Errorf("the log does not say %s", says)
			}
		}
		if text := h.metricsText(); !strings.Contains(text, `keyturn_refreshes_total{kind="too_large"} 2`) {
			t.Error("the metrics do not count it")
		}
	})
}

// The scope of the grant decides, not that of the client, which may have been given more since.
func TestGrantWithLessScopeThanItsClient(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		h.setRoles(words(450))
		raw := storagetest.Raw(t, h.Config.Database)
		Must(raw.Exec(`UPDATE clients SET scope = $1, revision = revision + 1 WHERE id = 'app'`,
			"read write "+strings.Join(words(1000), " ")))
		if got := h.Refresh("app", tokens.RefreshToken).Tokens(t); got.Scope != "read write" {
			t.Errorf("scope %s", got.Scope)
		}
	})
}

// Whatever stands in the row of a client, an access token lives for a second at least and an hour at most.
func TestAccessTTLOfARowIsBounded(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		raw := storagetest.Raw(t, h.Config.Database)
		for milliseconds, want := range map[int64]int64{1: 1, -5_000: 1, 1 << 42: 3600, 3_600_000: 3600, 60_000: 60} {
			Must(raw.Exec(`UPDATE clients SET access_ttl = $1, revision = revision + 1 WHERE id = 'app'`, milliseconds))
			tokens := h.Login("app")
			refreshed := h.Refresh("app", tokens.RefreshToken).Tokens(t)
			if tokens.ExpiresIn != want || refreshed.ExpiresIn != want {
				t.Errorf("%d ms: %d s, then %d s, want %d", milliseconds, tokens.ExpiresIn, refreshed.ExpiresIn, want)
			}
		}
	})
}
