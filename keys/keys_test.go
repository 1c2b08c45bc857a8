package keys_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	keyclock "github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// TestMain sets the number of rapid checks, unless the command line does: few, or many with KEYTURN_SOAK.
func TestMain(m *testing.M) {
	flag.Parse()
	checks := strconv.Itoa(servertest.Times(30, 300))
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "rapid.checks" {
			checks = f.Value.String()
		}
	})
	if err := flag.Set("rapid.checks", checks); err != nil {
		panic(err)
	}
	storagetest.Main(m)
}

var (
	ctx   = context.Background()
	noon  = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	admin = storage.Actor{Name: "os:test", Reason: "test"}
)

// clock is a time that tests step.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(noon.UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) step(d time.Duration) { c.at.Add(int64(d)) }

// options returns the options of a Ring whose clock and database show the time of c.
func (c *clock) options(module keys.CryptoModule) keys.Options {
	return keys.Options{Now: c.now, DatabaseNow: keystest.At(c.now), Module: module, Log: keystest.Quiet}
}

// mustRing opens a Ring and makes no keys.
func mustRing(t *testing.T, db *storage.DB, m *keys.Master, o keys.Options) *keys.Ring {
	t.Helper()
	r, err := keys.Open(ctx, db, m, keystest.Config, o)
	must(t, err)
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustSign signs a token that expires at the given moment.
func mustSign(t *testing.T, r *keys.Ring, expires time.Time) (token, kid string) {
	t.Helper()
	s, err := r.Signer(ctx, expires)
	must(t, err)
	token, err = s.Sign(keys.TypAccessToken, payload(expires))
	must(t, err)
	return token, s.KID
}

// payload returns the claims of a token, with a place for its jti.
func payload(issued time.Time) []byte {
	return fmt.Appendf(nil, `{"sub":"x","iat":%d,"jti":"%022d"}`, issued.Unix(), 0)
}

func published(t *testing.T, r *keys.Ring) map[string]bool {
	t.Helper()
	var set struct{ Keys []map[string]string }
	must(t, json.Unmarshal(r.JWKS().Body, &set))
	kids := map[string]bool{}
	for _, k := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
			if _, ok := k[private]; ok {
				t.Errorf("the JWKS holds %q", private)
			}
		}
		if k["kty"] != "RSA" || k["use"] != "sig" || k["alg"] != "RS256" || k["n"] == "" || k["e"] != "AQAB" {
			t.Errorf("JWKS entry %v", k)
		}
		kids[k["kid"]] = true
	}
	return kids
}

func states(r *keys.Ring) map[storage.KeyState]int {
	count := map[storage.KeyState]int{}
	for _, row := range r.Rows() {
		count[row.State]++
	}
	return count
}

// When only the schedule changes keys, the key of a token stays published until the token has expired.
func TestLifeBySchedule(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		if got := states(r); !cmp.Equal(got, map[storage.KeyState]int{"current": 1, "next": 1}) {
			t.Fatalf("at the start %v", got)
		}
		token, first := mustSign(t, r, c.now().Add(10*time.Minute))
		if len(published(t, r)) != 2 || r.JWKS().MaxAge != 5*time.Minute {
			t.Errorf("published %v for %v", published(t, r), r.JWKS().MaxAge)
		}
		c.step(keystest.Config.RotationInterval - time.Minute)
		must(t, r.LifeCycle().Maintain(ctx))
		if age := r.JWKS().MaxAge; age != time.Minute {
			t.Errorf("a minute before the rotation max-age is %v", age)
		}
		_, kid := mustSign(t, r, c.now().Add(time.Hour))
		if kid != first {
			t.Error("rotated too early")
		}
		c.step(time.Minute)
		must(t, r.LifeCycle().Maintain(ctx))
		_, second := mustSign(t, r, c.now().Add(10*time.Minute))
		if got := states(r); second == first ||
			!cmp.Equal(got, map[storage.KeyState]int{"current": 1, "next": 1, "previous": 1}) {
			t.Errorf("after the rotation %v", got)
		}
		for _, row := range r.Rows() {
			if row.State == storage.KeyPrevious && row.PrivateKey != "" {
				t.Error("the private half of the previous key is kept")
			}
		}
		// The last token of the first key expires an hour less a minute from now.
		c.step(time.Hour - time.Minute)
		must(t, r.LifeCycle().Maintain(ctx))
		if !published(t, r)[first] {
			t.Error("the previous key left before its last token expired")
		}
		c.step(time.Minute + keys.Skew + keystest.Config.JWKSMaxAge)
		must(t, r.LifeCycle().Maintain(ctx))
		if published(t, r)[first] || states(r)[storage.KeyRetired] != 1 {
			t.Error("the previous key did not retire")
		}
		if _, err := r.Verify(token); err != nil {
			t.Error("a retired key verifies no more:", err)
		}
		if _, err := db.Audit().Verify(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestRotateRefusesAYoungKey(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		var young *keys.TooYoungError
		_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{})
		if !errors.As(err, &young) || !young.Earliest.Equal(noon.Add(24*time.Hour)) {
			t.Fatal(err)
		}
		plan, err := r.LifeCycle().PlanRotation(ctx, keys.Gate{Force: true})
		must(t, err)
		forced, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
		must(t, err)
		if forced.Current != plan.Current || forced.Previous != plan.Previous {
			t.Errorf("planned %+v, done %+v", plan, forced)
		}
		c.step(24 * time.Hour)
		must(t, r.Poll(ctx))
		if _, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{}); err != nil {
			t.Error(err)
		}
	})
}

// When many replicas rotate at once, one rotation happens.
func TestConcurrentRotationsMakeOne(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		var rings []*keys.Ring
		for range 5 {
			rings = append(rings, keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module))
		}
		for round := 1; round <= 3; round++ {
			c.step(25 * time.Hour)
			for _, r := range rings {
				must(t, r.LifeCycle().Maintain(ctx))
			}
			rotateAtOnce(t, rings, 20)
			must(t, rings[0].Poll(ctx))
			if got := states(rings[0]); got["current"] != 1 || got["next"] != 1 || got["previous"] != 1 ||
				got["retired"] != round-1 {
				t.Errorf("round %d: %v", round, got)
			}
		}
	})
}

// Replicas with the same view serve the same bytes.
func TestReplicasServeTheSameBytes(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		a := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		b := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		for range 3 {
			if x, y := a.JWKS(), b.JWKS(); !cmp.Equal(x, y) || len(x.Body) < 500 || x.ETag == "" {
				t.Fatalf("%+v\n%+v", x, y)
			}
			before := a.JWKS().ETag
			_, err := a.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
			must(t, err)
			must(t, b.Poll(ctx))
			if b.JWKS().ETag == before {
				t.Error("another set under the same tag")
			}
			c.step(time.Second)
		}
	})
}

// rotateAtOnce lets every ring rotate n times at once, and checks that one rotation succeeds.
func rotateAtOnce(t *testing.T, rings []*keys.Ring, n int) {
	t.Helper()
	results := make(chan error)
	for i := range n * len(rings) {
		go func() {
			_, err := rings[i%len(rings)].LifeCycle().Rotate(ctx, admin, keys.Gate{})
			results <- err
		}()
	}
	done := 0
	for range n * len(rings) {
		var young *keys.TooYoungError
		switch err := <-results; {
		case err == nil:
			done++
		case !errors.Is(err, storage.ErrConflict) && !errors.As(err, &young):
			t.Error(err)
		}
	}
	if done != 1 {
		t.Errorf("%d rotations", done)
	}
}

// A replica that does not know of a rotation yet still signs with the old key. The retirement of that key must wait for
// such a token too.
func TestRetirementCountsTokensOfSlowReplicas(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		fast := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		slow := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		expires := c.now().Add(10 * time.Minute)
		_, first := mustSign(t, slow, expires)
		_, err := fast.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
		must(t, err)
		if _, kid := mustSign(t, slow, expires); kid != first {
			t.Error("the slow replica is not slow")
		}
		if _, kid := mustSign(t, slow, expires.Add(time.Hour)); kid == first {
			t.Error("signed for longer than the row of the key says")
		}
		must(t, fast.Poll(ctx))
		for _, row := range fast.Rows() {
			if row.KID == first && row.RetiresAt.Before(expires) {
				t.Errorf("retires at %v, a token lives until %v", row.RetiresAt, expires)
			}
		}
	})
}

func TestStaleViewRefuses(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		token, _ := mustSign(t, r, c.now().Add(time.Minute))
		c.step(keys.StaleAfter + time.Millisecond)
		if _, err := r.Signer(ctx, c.now()); !errors.Is(err, keys.ErrStale) {
			t.Error("signs:", err)
		}
		if _, err := r.Verify(token); !errors.Is(err, keys.ErrStale) {
			t.Error("verifies:", err)
		}
		if err := r.Healthy(); !errors.Is(err, keys.ErrStale) {
			t.Error("healthy:", err)
		}
		if len(published(t, r)) != 2 {
			t.Error("the JWKS is gone")
		}
	})
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		token, kid := mustSign(t, r, c.now().Add(time.Minute))
		v, err := r.Verify(token)
		if err != nil || !strings.HasPrefix(string(v.Payload), `{"sub":"x",`) || v.KID != kid {
			t.Fatal(string(v.Payload), err)
		}
		parts := strings.Split(token, ".")
		withHeader := func(h string) string {
			return base64.RawURLEncoding.EncodeToString([]byte(h)) + "." + parts[1] + "." + parts[2]
		}
		cases := map[string]string{
			"empty":              "",
			"two parts":          parts[0] + "." + parts[1],
			"four parts":         token + ".x",
			"JSON serialisation": `{"payload":"e30"}`,
			"alg none":           withHeader(`{"alg":"none","kid":"` + kid + `","typ":"at+jwt"}`),
			"HS256":              withHeader(`{"alg":"HS256","kid":"` + kid + `","typ":"at+jwt"}`),
			"typ JWT":            withHeader(`{"alg":"RS256","kid":"` + kid + `","typ":"JWT"}`),
			"unknown kid":        withHeader(`{"alg":"RS256","kid":"x","typ":"at+jwt"}`),
			"crit":               withHeader(`{"alg":"RS256","kid":"` + kid + `","typ":"at+jwt","crit":["x"],"x":1}`),
			"embedded jwk":       withHeader(`{"alg":"RS256","kid":"` + kid + `","typ":"at+jwt","jwk":{}}`),
			"other signature":    parts[0] + "." + parts[1] + "." + parts[2][:10] + "AAAA" + parts[2][14:],
			"line feed":          parts[0] + "." + parts[1] + ".\n" + parts[2],
			"other payload": parts[0] + "." + base64.RawURLEncoding.EncodeToString(
				[]byte(`{"sub":"y"}`),
			) + "." + parts[2],
			"padded signature": token + "=",
		}
		alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for _, last := range alphabet {
			if altered := token[:len(token)-1] + string(last); altered != token {
				cases["last character "+string(last)] = altered
			}
		}
		for name, text := range cases {
			if _, err := r.Verify(text); !errors.Is(err, keys.ErrToken) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// alterations are changes of the rows outside keyturn.
var alterations = map[string][]string{
	"a state is changed":  {`UPDATE signing_keys SET state = 'previous' WHERE state = 'current'`},
	"a moment is changed": {`UPDATE signing_keys SET retires_at = retires_at + 1 WHERE state = 'previous'`},
	"a row is removed":    {`DELETE FROM signing_keys WHERE state = 'revoked'`},
	"a revoked row is put back as it was": {`UPDATE signing_keys SET state = 'previous' WHERE state = 'current'`,
		`DELETE FROM signing_keys WHERE state = 'revoked'`, `INSERT INTO signing_keys SELECT * FROM kept_keys
			WHERE state = 'current'`},
	"the version is put back": {`UPDATE key_set SET version = 0, mac = ''`},
	"the set is put back":     {`DELETE FROM key_set`, `INSERT INTO key_set SELECT * FROM kept_set`},
	"two private halves change places": {`UPDATE signing_keys SET private_key = (SELECT s.private_key
		FROM signing_keys s WHERE s.state = 'next') WHERE state = 'current'`},
	"a MAC is no MAC":          {`UPDATE signing_keys SET mac = '' WHERE state = 'next'`},
	"there is no set":          {`DELETE FROM key_set`},
	"every row is removed":     {`DELETE FROM signing_keys`},
	"rows and set are removed": {`DELETE FROM signing_keys`, `UPDATE key_set SET version = 0, mac = ''`},
	"a moment is removed":      {`UPDATE signing_keys SET activated_at = NULL WHERE state = 'current'`},
	"a leak is to last for ever": {`UPDATE signing_keys SET revoked_at = 7258118400000,
		exposed_until = 7258118400000 WHERE state = 'revoked'`},
	"a row is made one of the first schema": {`UPDATE signing_keys SET safe_from = 0 WHERE state = 'revoked'`},
}

// A replica detects each change of the rows outside keyturn. It keeps its old view, which then becomes too old to use.
func TestAlteredRowsMakeNoView(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		for name, statements := range alterations {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				detectsAlteration(t, storagetest.Another(t, url), statements)
			})
		}
	})
}

// detectsAlteration runs the statements and checks that neither the running replica nor a new one accepts the rows.
func detectsAlteration(t *testing.T, url string, statements []string) {
	c, db, module := newClock(), storagetest.MustOpen(t, url), keystest.Module()
	r := keystest.MustRing(t, db, c.now, module)
	_, kid := mustSign(t, r, c.now())
	raw := storagetest.Raw(t, url)
	storagetest.MustExec(t, raw, keepKeys...)
	_, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid})
	must(t, err)
	_, err = r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
	must(t, err)
	keysBefore := published(t, r)
	storagetest.MustExec(t, raw, statements...)
	var altered *keys.AlteredError
	if err := r.Poll(ctx); !errors.As(err, &altered) || len(altered.Problems) == 0 {
		t.Errorf("polled: %v", err)
	}
	if err := r.LifeCycle().Maintain(ctx); !errors.As(err, &altered) {
		t.Errorf("maintained: %v", err)
	}
	if _, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid}); !errors.As(err, &altered) {
		t.Errorf("revoked: %v", err)
	}
	if !cmp.Equal(published(t, r), keysBefore) {
		t.Error("the view has changed")
	}
	c.step(keys.StaleAfter + time.Millisecond)
	if err := r.Healthy(); err == nil {
		t.Error("healthy")
	}
	fresh, err := keys.Open(ctx, db, keystest.MustMaster(t, 1), keystest.Config, c.options(module))
	if err == nil {
		err = fresh.LifeCycle().Maintain(ctx)
	}
	if !errors.As(err, &altered) {
		t.Errorf("a new replica: %v", err)
	}
	mendsByRevokingAll(t, db, c, module)
	if err := r.LifeCycle().Maintain(ctx); err != nil || r.Healthy() != nil || published(t, r)[kid] {
		t.Errorf("the replica that was there does not follow: %v, %v", err, r.Healthy())
	}
}

// mendsByRevokingAll checks that a person sees what was altered, and repairs it by revoking all keys.
func mendsByRevokingAll(t *testing.T, db *storage.DB, c *clock, module keys.CryptoModule) {
	t.Helper()
	o := c.options(module)
	o.Tolerant = true
	r := mustRing(t, db, keystest.MustMaster(t, 1), o)
	status, err := r.LifeCycle().Status(ctx)
	must(t, err)
	if status.Level != keys.LevelCritical || status.Problems[0].Advice == "" {
		t.Errorf("%+v", status)
	}
	if _, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true}); err == nil {
		t.Error("rotates altered rows")
	}
	c.step(time.Second)
	done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{Store: true})
	if err != nil {
		t.Fatal("not mended:", err)
	}
	if done.SecondRotation != nil || !done.ExposedUntil.Equal(c.now().Add(exposure)) ||
		r.JWKS().MaxAge > keys.IncidentMaxAge {
		t.Errorf("mended: %+v", done)
	}
	if err := r.LifeCycle().Maintain(ctx); err != nil || r.Healthy() != nil {
		t.Error(err, r.Healthy())
	}
	for _, row := range r.Rows() {
		if (row.State == storage.KeyCurrent || row.State == storage.KeyNext) &&
			row.PublishedAt.Before(c.now().Truncate(time.Millisecond)) {
			t.Error("an old key is in use")
		}
	}
}

// keepKeys copies the tables of the signing keys as they are; bringBack restores them.
var (
	keepKeys = []string{
		`CREATE TABLE kept_keys AS SELECT * FROM signing_keys`,
		`CREATE TABLE kept_set AS SELECT * FROM key_set`,
	}
	bringBack = []string{
		`DELETE FROM signing_keys`,
		`INSERT INTO signing_keys SELECT * FROM kept_keys`,
		`DELETE FROM key_set`,
		`INSERT INTO key_set SELECT * FROM kept_set`,
	}
)

// A replica never goes back to an older state of the tables, even if keyturn wrote that state.
func TestOlderSetMakesNoView(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, db := newClock(), storagetest.MustOpen(t, url)
		r, raw := keystest.MustRing(t, db, c.now, keystest.Module()), storagetest.Raw(t, url)
		token, kid := mustSign(t, r, c.now().Add(time.Minute))
		storagetest.MustExec(t, raw, keepKeys...)
		_, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid})
		must(t, err)
		storagetest.MustExec(t, raw, bringBack...)
		var altered *keys.AlteredError
		if err := r.Poll(ctx); !errors.As(err, &altered) {
			t.Fatal(err)
		}
		if _, err := r.Verify(token); !errors.Is(err, keys.ErrRevoked) {
			t.Error("the key is revived:", err)
		}
		// A replica that does not know the newer state goes on from the older one, to the same version and beyond.
		fresh := mustOpen(t, db, c, keystest.Module())
		for range 3 {
			_, err := fresh.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
			must(t, err)
			if err := r.Poll(ctx); !errors.As(err, &altered) {
				t.Error("followed:", err)
			}
			if _, err := r.Verify(token); !errors.Is(err, keys.ErrRevoked) || published(t, r)[kid] {
				t.Error("the key is revived:", err)
			}
		}
	})
}

// A revoked key leaves the JWKS even if somebody alters another row at the same time.
func TestAlteredRowsHideNoRevocation(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		r := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		other := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		token, kid := mustSign(t, r, c.now().Add(time.Minute))
		_, err := other.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid})
		must(t, err)
		storagetest.MustExec(t, storagetest.Raw(t, url), `UPDATE signing_keys SET reason = 'x' WHERE state = 'next'`)
		var altered *keys.AlteredError
		if err := r.Poll(ctx); !errors.As(err, &altered) {
			t.Error(err)
		}
		if _, err := r.Verify(token); !errors.Is(err, keys.ErrRevoked) || published(t, r)[kid] {
			t.Error("the leaked key is trusted:", err)
		}
		if _, err := r.Signer(ctx, c.now()); !errors.Is(err, keys.ErrStale) {
			t.Error("the leaked key signs:", err)
		}
	})
}

// An altered row of a symmetric key stops neither the servers nor the commands that repair it.
func TestAlteredRefreshKey(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, db := newClock(), storagetest.MustOpen(t, url)
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		storagetest.MustExec(
			t,
			storagetest.Raw(t, url),
			`INSERT INTO secret_keys (purpose, number, sealed, activated_at) VALUES ('refresh token', 2, 'x', 0)`,
		)
		must(t, r.LifeCycle().Maintain(ctx))
		mustSign(t, r, c.now())
		if number, _ := r.Secrets().RefreshKey(c.now()); number != 1 {
			t.Errorf("key %d is used", number)
		}
		if s := mustStatus(t, r); s.Level != keys.LevelCritical {
			t.Errorf("%+v", s)
		}
	})
}

// A replica with a wrong clock does not rotate, but it revokes.
func TestLeakUnderAWrongClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-time.Hour, 48 * time.Hour} {
		storagetest.Each(t, func(t *testing.T, db *storage.DB) {
			c, wrong, module := newClock(), newClock(), keystest.Module()
			keystest.MustRing(t, db, c.now, module)
			c.step(time.Hour)
			wrong.step(time.Hour + off)
			o := c.options(module)
			o.Now = wrong.now
			r := mustRing(t, db, keystest.MustMaster(t, 1), o)
			var young *keys.TooYoungError
			var unsure *keyclock.UnsureError
			_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{})
			if !errors.As(err, &unsure) && !errors.As(err, &young) {
				t.Errorf("%v: rotated: %v", off, err)
			}
			done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: byState(r)[storage.KeyCurrent]})
			must(t, err)
			if done.SecondRotation == nil || !done.ExposedUntil.Equal(c.now().Add(exposure)) ||
				!done.RevokedAt.Equal(c.now()) {
				t.Errorf("%v: at %v: %+v", off, c.now(), done)
			}
		})
	}
}

// A set that names an unknown master key counts as altered if no rewrap is under way.
func TestUnknownMasterInTheSet(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, db, module := newClock(), storagetest.MustOpen(t, url), keystest.Module()
		r := keystest.MustRing(t, db, c.now, module)
		storagetest.MustExec(
			t,
			storagetest.Raw(t, url),
			`UPDATE key_set SET mac = '0011223344556677.x'`,
			`INSERT INTO secret_keys (purpose, number, sealed, activated_at) VALUES ('refresh token', 999, 'x', 0),
				('of somebody', 1, 'x', 0)`,
		)
		if err := r.Poll(ctx); !errors.Is(err, keys.ErrWrongMaster) {
			t.Error(err)
		}
		mendsByRevokingAll(t, db, c, module)
	})
}

// A replica whose clock is wrong takes no step of the schedule.
func TestStepsByAWrongClock(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c, fast, module := newClock(), newClock(), keystest.Module()
		r := keystest.MustRing(t, db, c.now, module)
		o := c.options(module)
		o.Now = fast.now
		ahead := mustRing(t, db, keystest.MustMaster(t, 1), o)
		before := r.JWKS().ETag
		fast.step(2 * keystest.Config.RotationInterval)
		if err := ahead.LifeCycle().Maintain(ctx); err == nil || !strings.Contains(err.Error(), "clock") {
			t.Error(err)
		}
		s, err := ahead.LifeCycle().Status(ctx)
		must(t, err)
		if got := problems(s, "the clock of this machine"); !cmp.Equal(got, []keys.Level{keys.LevelWarning}) {
			t.Errorf("%+v", s)
		}
		must(t, r.Poll(ctx))
		if r.JWKS().ETag != before {
			t.Error("the keys have turned")
		}
	})
}

func TestWrongMasterWritesNothing(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		keystest.MustRing(t, storagetest.MustOpen(t, url), newClock().now, keystest.Module())
		other := keystest.MustMaster(t, 2)
		guard := func(ctx context.Context, db *storage.DB) error { return keys.CheckMaster(ctx, db, other) }
		_, err := storage.Open(
			ctx,
			storage.Options{Source: storagetest.MustSource(t, url), Migrate: true, Guard: guard},
		)
		if !errors.Is(err, keys.ErrWrongMaster) {
			t.Fatal(err)
		}
	})
}

func TestMasterFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	must(t, keys.CreateMaster(path))
	if err := keys.CreateMaster(path); !errors.Is(err, os.ErrExist) {
		t.Error("overwrites:", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if _, err := keys.ReadMaster(path); err != nil {
		t.Error(err)
	}
	must(t, os.Chmod(path, 0o640))
	if _, err := keys.ReadMaster(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error(err)
	}
	for content, ok := range map[string]bool{
		strings.Repeat("ab", 32):       true,
		strings.Repeat("\x01", 32):     true,
		strings.Repeat("A", 43) + "=":  true,
		strings.Repeat("A", 43) + "\n": true,
		strings.Repeat("ab", 16):       true, // 32 bytes as they are
		"":                             false,
		"short":                        false,
		strings.Repeat("A", 44):        false,
	} {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		must(t, os.Chmod(path, 0o600))
		if _, err := keys.ReadMaster(path); (err == nil) != ok {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestConfigProblems(t *testing.T) {
	t.Parallel()
	if p := keystest.Config.Problems(); p != nil {
		t.Error(p)
	}
	for name, change := range map[string]func(*keys.Config){
		"bits":               func(c *keys.Config) { c.Bits = 1024 },
		"no max-age":         func(c *keys.Config) { c.JWKSMaxAge = 0 },
		"long max-age":       func(c *keys.Config) { c.JWKSMaxAge = 13 * time.Hour },
		"interval too short": func(c *keys.Config) { c.RotationInterval = time.Hour },
	} {
		c := keystest.Config
		change(&c)
		if p := c.Problems(); len(p) != 1 {
			t.Errorf("%s: %v", name, p)
		}
	}
}
