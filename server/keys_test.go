package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// serving is a replica that runs as in production, by the real clock.
type serving struct {
	*harness
	stop func()
}

// serve starts a replica and all its loops.
func serve(t testing.TB, c config.Config, generate keystest.Generate) *serving {
	t.Helper()
	return serveWith(t, c, Options{Generate: generate})
}

func serveWith(t testing.TB, c config.Config, o Options) *serving {
	t.Helper()
	s := must(openServer(ctx, c, o))
	l := Listeners{Public: must(net.Listen("tcp", "127.0.0.1:0")), Admin: must(net.Listen("tcp", "127.0.0.1:0"))}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(running, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	t.Cleanup(stop)
	h := &harness{t: t, config: c, server: s, loops: true}
	h.base = "http://" + l.Public.Addr().String()
	h.admin = admin.New(s.store, s.settingsNow(), s.place, admin.Options{Actor: "os:test", Reason: "test"})
	return &serving{h, stop}
}

// hasty is a configuration whose keys turn as fast as keyturn allows.
func hasty(t testing.TB, databaseURL string) config.Config {
	c := testConfig(databaseURL)
	c.KeyRotationInterval, c.KeyPublishLead, c.JWKSMaxAge, c.AccessTTL = 2*time.Second, 2*time.Second, time.Second, 2*time.Second
	if !isSQLite(databaseURL) {
		c.MasterKeyFile = masterFile(t)
	}
	return c
}

// three are three replicas on one database, with the usual clients and user.
func three(t testing.TB, c config.Config) []*serving {
	generate := keystest.Generator()
	replicas := []*serving{serve(t, c, generate), serve(t, c, generate), serve(t, c, generate)}
	replicas[0].provision()
	return replicas
}

// kids are those in the JWKS of a replica.
func (h *harness) kids() []string {
	h.t.Helper()
	var set struct{ Keys []struct{ KID string } }
	must(0, json.Unmarshal([]byte(h.get(api.PathJWKS).body), &set))
	var kids []string
	for _, k := range set.Keys {
		kids = append(kids, k.KID)
	}
	return kids
}

func kidOf(t testing.TB, accessToken string) string {
	t.Helper()
	var header struct{ KID string }
	must(0, json.Unmarshal(must(base64.RawURLEncoding.DecodeString(strings.Split(accessToken, ".")[0])), &header))
	return header.KID
}

// sighting is the JWKS of one replica as a verifier saw it.
type sighting struct {
	asked, answered time.Time
	kids            []string
}

// watch polls the JWKS of a replica every ten milliseconds until the context ends.
func (s *serving) watch(ctx context.Context) (seen []sighting) {
	for ctx.Err() == nil {
		asked := time.Now()
		kids := s.kids()
		seen = append(seen, sighting{asked, time.Now(), kids})
		time.Sleep(10 * time.Millisecond)
	}
	return seen
}

// Keys turn on three replicas under clients that refresh all the time. Whatever kid a token bears is in the JWKS of
// every replica from before the client has the token until the token has expired.
func TestVerifiersKnowEveryKey(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		t.Parallel()
		replicas := three(t, hasty(t, databaseURL))
		watching, stop := context.WithCancel(ctx)
		seen := make([][]sighting, len(replicas))
		var watchers sync.WaitGroup
		for i, r := range replicas {
			watchers.Go(func() { seen[i] = r.watch(watching) })
		}
		tokens := map[string][]time.Time{} // kid: when a client got a token of it
		current := replicas[0].login("app")
		for i := 0; len(tokens) < 4; i++ {
			if i == 3000 {
				t.Fatalf("after %d refreshes the keys have turned %d times", i, len(tokens)-1)
			}
			current = replicas[i%3].refresh("app", current.RefreshToken).tokens(t)
			kid := kidOf(t, current.AccessToken)
			tokens[kid] = append(tokens[kid], time.Now())
			time.Sleep(5 * time.Millisecond)
		}
		stop()
		watchers.Wait()
		checkSightings(t, replicas[0].config, seen, tokens)
	})
}

// checkSightings holds what verifiers saw against the tokens that clients got.
func checkSightings(t *testing.T, c config.Config, seen [][]sighting, tokens map[string][]time.Time) {
	t.Helper()
	ttl := time.Duration(c.AccessTTL)
	for i, sightings := range seen {
		if len(sightings) < 100 {
			t.Errorf("replica %d was asked %d times", i, len(sightings))
		}
		for _, s := range sightings {
			for kid, got := range tokens {
				// exp is a whole second: a token lives for its TTL at most, and up to a second less.
				alive := slices.ContainsFunc(
					got,
					func(at time.Time) bool { return s.answered.After(at) && s.asked.Before(at.Add(ttl-time.Second)) },
				)
				if alive && !slices.Contains(s.kids, kid) {
					t.Fatalf("at %v the JWKS of replica %d lacks key %s of a live token", s.asked, i, kid)
				}
			}
		}
	}
}

// A key leaks while one of three replicas is down. The other two stop serving and signing with it within two seconds,
// by their own polls, and refuse its tokens from the moment on; sessions go on. The figures are logged.
func TestRevocationReachesEveryReplica(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := hasty(t, databaseURL)
		days := 24 * time.Hour
		c.KeyRotationInterval, c.KeyPublishLead, c.JWKSMaxAge, c.AccessTTL = 90*days, days, 5*time.Minute, 10*time.Minute
		replicas := three(t, c)
		tokens := replicas[1].login("app")
		leaked := kidOf(t, tokens.AccessToken)
		replicas[0].stop()
		replicas = replicas[1:]

		// The command is a process of its own, with a ring of its own.
		admin := must(openAdmin(ctx, c, admin.Options{Actor: "os:test", Reason: "a leak"}))
		defer admin.Close()
		began := time.Now()
		done := must(admin.Keys().Revoke(ctx, leaked, false, ""))
		committed := time.Since(began)
		for _, r := range replicas {
			if r.active("rs", tokens.AccessToken) {
				t.Error("introspection trusts the leaked key")
			}
		}
		gone := waitFor(t, began, func() bool {
			return !slices.ContainsFunc(replicas, func(r *serving) bool { return slices.Contains(r.kids(), leaked) })
		})
		signed := waitFor(t, began, func() bool {
			return !slices.ContainsFunc(replicas, func(r *serving) bool {
				tokens = r.refresh("app", tokens.RefreshToken).tokens(t)
				return kidOf(t, tokens.AccessToken) != done.Current
			})
		})
		for _, r := range replicas {
			if !r.active("rs", tokens.AccessToken) {
				t.Error("a token of the new key is refused")
			}
			if control := r.get(api.PathJWKS).header.Get("Cache-Control"); control != "public, max-age=60" {
				t.Errorf("in an incident: %s", control)
			}
		}
		t.Logf(
			"from the command on: committed after %v, gone from the JWKS of every replica after %v, every replica signs "+
				"with the new key after %v",
			committed.Round(time.Millisecond),
			gone.Round(time.Millisecond),
			signed.Round(time.Millisecond),
		)
	})
}

// waitFor tells how long after a moment something came true. It gives up far beyond any bound, so that a slow machine
// is no failure.
func waitFor(t testing.TB, since time.Time, what func() bool) time.Duration {
	t.Helper()
	for time.Since(since) < 20*time.Second {
		if what() {
			return time.Since(since)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never")
	return 0
}

// What a leaked key has signed is told by client and audience, and sessions end if the person says so: those used since
// the leak, or all.
func TestRevocationEndsWhatItIsToldTo(t *testing.T) {
	t.Parallel()
	for end, want := range map[string]struct{ old, recent bool }{
		"none": {old: true, recent: true}, "since": {old: true, recent: false}, "all": {old: false, recent: false},
	} {
		t.Run(end, func(t *testing.T) {
			each(t, func(t *testing.T, h *harness) {
				old := h.login("other")
				h.step(10 * time.Minute)
				leak := h.clock.now()
				h.step(time.Minute)
				recent := h.login("app")
				h.refresh(publicClient, h.login(publicClient).RefreshToken).tokens(t)
				leaked := kidOf(t, recent.AccessToken)

				use := must(h.admin.Keys().Use(ctx, []string{leaked}, leak, nil))
				one, both := "https://api.example", "https://api.example https://mail.example"
				if want := []admin.KeyUse{{ClientID: "app", Audience: both, Grants: 1, Users: 1, Tokens: 1},
					{ClientID: publicClient, Audience: one, Grants: 1, Users: 1, Tokens: 1}}; !slices.Equal(
					use,
					want,
				) {
					t.Errorf("used since the leak: %+v", use)
				}
				if use := must(h.admin.Keys().Use(ctx, []string{leaked}, time.Time{}, nil)); len(use) != 3 ||
					use[1] != (admin.KeyUse{ClientID: "other", Audience: one, Grants: 1, Users: 1}) {
					t.Errorf("used at all: %+v", use)
				}
				must(h.admin.Keys().Revoke(ctx, leaked, false, ""))
				ended := map[string]int64{"none": 0, "since": 2, "all": 3}[end]
				if end != "none" {
					since := map[string]time.Time{"since": leak}[end]
					if n := must(h.admin.Keys().EndGrants(ctx, leaked, since)); n != ended {
						t.Errorf("%d grants were ended, not %d", n, ended)
					}
				}
				for client, c := range map[string]struct {
					tokens api.TokenResponse
					alive  bool
				}{"other": {old, want.old}, "app": {recent, want.recent}} {
					if h.active("rs", c.tokens.AccessToken) {
						t.Errorf("%s: a token of the leaked key is active", client)
					}
					if r := h.refresh(client, c.tokens.RefreshToken); (r.status == http.StatusOK) != c.alive {
						t.Errorf("%s: refresh: %d", client, r.status)
					}
				}
				must(h.admin.Audit().Verify(ctx))
			})
		})
	}
}

// Refresh tokens outlive the key that MACs them: one made before a turn redeems after it, its retry gets the same
// successor from another replica that was slow to learn of the turn, and no login is lost.
func TestRefreshTokensOutliveTheirKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		replica := open(t, h.config, h.clock)
		h.step(time.Duration(h.config.KeyRotationInterval) - time.Hour) // the next key is made, and not in use yet
		tokens := h.login("app")
		h.step(time.Hour - time.Second)
		tokens = h.refresh("app", tokens.RefreshToken).tokens(t)
		h.step(time.Second)
		replica.step(0)
		after := h.refresh("app", tokens.RefreshToken).tokens(t)
		again := replica.refresh("app", tokens.RefreshToken).tokens(t)
		if again.RefreshToken != after.RefreshToken {
			t.Error("the retry gets another successor")
		}
		if old, now := numberOf(tokens.RefreshToken), numberOf(after.RefreshToken); old != 1 || now != 2 {
			t.Errorf("tokens of keys %d and %d", old, now)
		}
		replica.refresh("app", after.RefreshToken).tokens(t)
	})
}

// numberOf is the number of the key of a refresh token.
func numberOf(token string) byte {
	return must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, keys.RefreshPrefix)))[0]
}

// A replica that has lost the database for longer than keys.StaleAfter neither signs nor calls a token active, and says
// so.
func TestStaleReplicaAnswers503(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		h.clock.at.Add(int64(keys.StaleAfter + time.Second))
		for name, r := range map[string]reply{
			"password": h.post("/token", "app", "grant_type", "password", "username", "alice", "password",
				password),
			"refresh":                    h.refresh("app", tokens.RefreshToken),
			"introspect":                 h.post("/introspect", "rs", "token", tokens.AccessToken),
			"introspect a refresh token": h.post("/introspect", "app", "token", tokens.RefreshToken),
			"revoke":                     h.post("/revoke", "app", "token", tokens.AccessToken),
		} {
			if r.status != http.StatusServiceUnavailable || r.code(t) != "temporarily_unavailable" ||
				r.header.Get("Retry-After") == "" {
				t.Errorf("%s: %d %s", name, r.status, r.body)
			}
		}
		if r := h.get("/readyz?verbose"); r.status != 503 || !strings.Contains(r.body, "keys failed") {
			t.Error(r.body)
		}
		h.step(0)
		h.refresh("app", tokens.RefreshToken).tokens(t)
	})
}
