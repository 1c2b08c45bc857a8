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
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// serving is a replica that runs as in production, by the real clock.
type serving struct {
	*Harness
	stop func()
}

// serve starts a replica and all its loops.
func serve(t testing.TB, c config.Config, module keys.CryptoModule) *serving {
	t.Helper()
	return serveWith(t, c, Options{Module: module})
}

func serveWith(t testing.TB, c config.Config, o Options) *serving {
	t.Helper()
	s := Must(OpenServer(ctx, c, o))
	l := Listeners{Public: Must(net.Listen("tcp", "127.0.0.1:0")), Admin: Must(net.Listen("tcp", "127.0.0.1:0"))}
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
	h := &Harness{T: t, Config: c, Server: s, Loops: true}
	h.Base = "http://" + l.Public.Addr().String()
	h.Admin = admin.New(s.store, s.settingsNow(), s.place, admin.Options{Actor: "os:test", Reason: "test"})
	return &serving{h, stop}
}

// hasty is a configuration whose keys turn as fast as keyturn allows.
func hasty(t testing.TB, databaseURL string) config.Config {
	c := ConfigFor(databaseURL)
	c.KeyRotationInterval, c.KeyPublishLead = 2*time.Second, 2*time.Second
	c.JWKSMaxAge, c.AccessTTL = time.Second, 2*time.Second
	if !IsSQLite(databaseURL) {
		c.MasterKeyFile = MasterFile(t)
	}
	return c
}

// three are three replicas on one database, with the usual clients and user.
func three(t testing.TB, c config.Config) []*serving {
	module := keystest.Module()
	replicas := []*serving{serve(t, c, module), serve(t, c, module), serve(t, c, module)}
	replicas[0].Provision()
	return replicas
}

// kids are those in the JWKS of a replica.
func (h *Harness) kids() []string {
	h.T.Helper()
	var set struct{ Keys []struct{ KID string } }
	Must(0, json.Unmarshal([]byte(h.Get(api.PathJWKS).Body), &set))
	var kids []string
	for _, k := range set.Keys {
		kids = append(kids, k.KID)
	}
	return kids
}

func kidOf(t testing.TB, accessToken string) string {
	t.Helper()
	var header struct{ KID string }
	Must(0, json.Unmarshal(Must(base64.RawURLEncoding.DecodeString(strings.Split(accessToken, ".")[0])), &header))
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
		time.Sleep(20 * time.Millisecond)
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
		current := replicas[0].Login("app")
		for i := 0; len(tokens) < 4; i++ {
			if i == 3000 {
				t.Fatalf("after %d refreshes the keys have turned %d times", i, len(tokens)-1)
			}
			current = replicas[i%3].Refresh("app", current.RefreshToken).Tokens(t)
			kid := kidOf(t, current.AccessToken)
			tokens[kid] = append(tokens[kid], time.Now())
			time.Sleep(15 * time.Millisecond)
		}
		stop()
		watchers.Wait()
		checkSightings(t, replicas[0].Config, seen, tokens)
	})
}

// checkSightings holds what verifiers saw against the tokens that clients got.
func checkSightings(t *testing.T, c config.Config, seen [][]sighting, tokens map[string][]time.Time) {
	t.Helper()
	ttl := time.Duration(c.AccessTTL)
	for i, sightings := range seen {
		if len(sightings) < 10 { // a loaded machine answers slowly
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
		c.KeyRotationInterval, c.KeyPublishLead = 90*days, days
		c.JWKSMaxAge, c.AccessTTL = 5*time.Minute, 10*time.Minute
		replicas := three(t, c)
		tokens := replicas[1].Login("app")
		leaked := kidOf(t, tokens.AccessToken)
		replicas[0].stop()
		replicas = replicas[1:]

		// The command is a process of its own, with a ring of its own.
		admin := Must(OpenAdmin(ctx, c, admin.Options{Actor: "os:test", Reason: "a leak"}))
		defer admin.Close()
		began := time.Now()
		done := Must(admin.Keys().Revoke(ctx, leaked, false, ""))
		committed := time.Since(began)
		for _, r := range replicas {
			if r.Active("rs", tokens.AccessToken) {
				t.Error("introspection trusts the leaked key")
			}
		}
		gone := waitFor(t, began, func() bool {
			return !slices.ContainsFunc(replicas, func(r *serving) bool { return slices.Contains(r.kids(), leaked) })
		})
		signed := waitFor(t, began, func() bool {
			return !slices.ContainsFunc(replicas, func(r *serving) bool {
				tokens = r.Refresh("app", tokens.RefreshToken).Tokens(t)
				return kidOf(t, tokens.AccessToken) != done.Current
			})
		})
		for _, r := range replicas {
			if !r.Active("rs", tokens.AccessToken) {
				t.Error("a token of the new key is refused")
			}
			if control := r.Get(api.PathJWKS).Header.Get("Cache-Control"); control != "public, max-age=60" {
				t.Errorf("in an incident: %s", control)
			}
		}
		t.Logf(
			"from the command on: committed after %v, gone from the JWKS of every replica after %v, every replica "+
				"signs "+
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
			Each(t, func(t *testing.T, h *Harness) {
				old := h.Login("other")
				h.Step(10 * time.Minute)
				leak := h.Clock.Now()
				h.Step(time.Minute)
				recent := h.Login("app")
				h.Refresh(publicClient, h.Login(publicClient).RefreshToken).Tokens(t)
				leaked := kidOf(t, recent.AccessToken)

				use := Must(h.Admin.Keys().Use(ctx, []string{leaked}, leak, nil))
				one, both := "https://api.example", "https://api.example https://mail.example"
				used := []storage.KeyUse{{ClientID: "app", Audience: both, Grants: 1, Users: 1, Tokens: 1},
					{ClientID: publicClient, Audience: one, Grants: 1, Users: 1, Tokens: 1}}
				if len(use) != 2 || use[0].KeyUse != used[0] || use[1].KeyUse != used[1] {
					t.Errorf("used since the leak: %+v", use)
				}
				if e := use[0].EndedLogin; e.StatusList != nil || time.Duration(e.Offline) != 10*time.Minute {
					t.Errorf("an ended login is accepted for %+v", e)
				}
				if use := Must(h.Admin.Keys().Use(ctx, []string{leaked}, time.Time{}, nil)); len(use) != 3 ||
					use[1].KeyUse != (storage.KeyUse{ClientID: "other", Audience: one, Grants: 1, Users: 1}) {
					t.Errorf("used at all: %+v", use)
				}
				Must(h.Admin.Keys().Revoke(ctx, leaked, false, ""))
				ended := map[string]int64{"none": 0, "since": 2, "all": 3}[end]
				if end != "none" {
					since := map[string]time.Time{"since": leak}[end]
					if n := Must(h.Admin.Keys().EndGrants(ctx, leaked, since)); n != ended {
						t.Errorf("%d grants were ended, not %d", n, ended)
					}
				}
				for client, c := range map[string]struct {
					tokens api.TokenResponse
					alive  bool
				}{"other": {old, want.old}, "app": {recent, want.recent}} {
					if h.Active("rs", c.tokens.AccessToken) {
						t.Errorf("%s: a token of the leaked key is active", client)
					}
					if r := h.Refresh(client, c.tokens.RefreshToken); (r.Status == http.StatusOK) != c.alive {
						t.Errorf("%s: refresh: %d", client, r.Status)
					}
				}
				Must(h.Admin.Audit().Verify(ctx))
			})
		})
	}
}

// Refresh tokens outlive the key that MACs them: one made before a turn redeems after it, its retry gets the same
// successor from another replica that was slow to learn of the turn, and no login is lost.
func TestRefreshTokensOutliveTheirKey(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		replica := OpenHarness(t, h.Config, h.Clock)
		h.Step(time.Duration(h.Config.KeyRotationInterval) - time.Hour) // the next key is made, and not in use yet
		tokens := h.Login("app")
		h.Step(time.Hour - time.Second)
		tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
		h.Step(time.Second)
		replica.Step(0)
		after := h.Refresh("app", tokens.RefreshToken).Tokens(t)
		again := replica.Refresh("app", tokens.RefreshToken).Tokens(t)
		if again.RefreshToken != after.RefreshToken {
			t.Error("the retry gets another successor")
		}
		if old, now := numberOf(tokens.RefreshToken), numberOf(after.RefreshToken); old != 1 || now != 2 {
			t.Errorf("tokens of keys %d and %d", old, now)
		}
		replica.Refresh("app", after.RefreshToken).Tokens(t)
	})
}

// numberOf is the number of the key of a refresh token.
func numberOf(token string) byte {
	return Must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, keys.RefreshPrefix)))[0]
}

// A replica that has lost the database for longer than keys.StaleAfter neither signs nor calls a token active, and says
// so.
func TestStaleReplicaAnswers503(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		h.Clock.at.Add(int64(keys.StaleAfter + time.Second))
		for name, r := range map[string]Reply{
			"password": h.Post("/token", "app", "grant_type", "password", "username", "alice", "password",
				password),
			"refresh":                    h.Refresh("app", tokens.RefreshToken),
			"introspect":                 h.Post("/introspect", "rs", "token", tokens.AccessToken),
			"introspect a refresh token": h.Post("/introspect", "app", "token", tokens.RefreshToken),
			"revoke":                     h.Post("/revoke", "app", "token", tokens.AccessToken),
		} {
			if r.Status != http.StatusServiceUnavailable || r.Code(t) != "temporarily_unavailable" ||
				r.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %d %s", name, r.Status, r.Body)
			}
		}
		if r := h.Get("/readyz?verbose"); r.Status != 503 || !strings.Contains(r.Body, "keys failed") {
			t.Error(r.Body)
		}
		h.Step(0)
		h.Refresh("app", tokens.RefreshToken).Tokens(t)
	})
}
