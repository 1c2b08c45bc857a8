package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// tokenPayload returns the claims of an access token, with a place for its jti.
func tokenPayload(issued time.Time, life time.Duration, n int) []byte {
	return fmt.Appendf(nil, `{"iss":"https://auth.example","sub":"usr_%d","aud":"https://api.example",`+
		`"client_id":"app","exp":%d,"iat":%d,"jti":"%022d","scope":"read \"write\\","sid":"%016x",`+
		`"roles":["a,b","{c"]}`,
		n, issued.Add(life).Unix(), issued.Unix(), 0, n)
}

// payloadOf returns the payload of a token.
func payloadOf(t *testing.T, token string) []byte {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	must(t, err)
	return text
}

// Whoever has only the signing key cannot make a token that passes: neither with an invented jti, nor with that of
// another token, whichever claim differs.
func TestForgedTokenIDs(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		s, err := r.Signer(ctx, c.now().Add(time.Hour))
		must(t, err)
		token, err := s.Sign(keys.TypAccessToken, tokenPayload(c.now(), time.Hour, 7))
		must(t, err)
		real := payloadOf(t, token)
		if v, err := r.Verify(token); err != nil || v.Origin != keys.OriginServer || !bytes.Equal(v.Payload, real) {
			t.Fatal(v.Origin, err)
		}
		change := func(from, to string) []byte {
			changed := strings.Replace(string(real), from, to, 1)
			if changed == string(real) {
				t.Fatalf("%s is not in %s", from, real)
			}
			return []byte(changed)
		}
		jti := regexp.MustCompile(`"jti":"[^"]*"`).FindString(string(real))
		at := func(name string, d time.Duration) (string, string) {
			return fmt.Sprintf(`"%s":%d`, name, c.now().Unix()), fmt.Sprintf(`"%s":%d`, name, c.now().Add(d).Unix())
		}
		iat, later := at("iat", time.Second)
		_, early := at("iat", -time.Minute)
		exp := fmt.Sprintf(`"exp":%d`, c.now().Add(time.Hour).Unix())
		for name, payload := range map[string][]byte{
			"invented jti":      change(jti, `"jti":"AAAAAAAAAAAAAAAAAAAAAA"`),
			"short jti":         change(jti, `"jti":"x"`),
			"no jti":            change(jti+",", ""),
			"two jti":           change(jti, jti+","+jti),
			"jti a number":      change(jti, `"jti":1`),
			"jti escaped":       change(`"jti"`, `"jt\u0069"`),
			"another sub":       change("usr_7", "usr_8"),
			"more scope":        change("read", "admin"),
			"another audience":  change("api.example", "db.example"),
			"another client":    change(`"app"`, `"cli"`),
			"another issuer":    change("auth.example", "else.example"),
			"another login":     change("0000000000000007", "0000000000000008"),
			"another role":      change("{c", "root"),
			"no roles":          change(`,"roles":["a,b","{c"]`, ""),
			"a new claim":       change("}", `,"admin":true}`),
			"a claim twice":     change(iat, iat+`,"sub":"x"`),
			"issued later":      change(iat, later),
			"issued earlier":    change(iat, early),
			"issued in text":    change(iat, `"iat":"x"`),
			"issued long ago":   change(iat, `"iat":-1`),
			"expires later":     change(exp, fmt.Sprintf(`"exp":%d`, c.now().Add(59*time.Minute).Unix())),
			"expires in years":  change(exp, `"exp":99999999999`),
			"expires for ever":  change(exp, `"exp":9223372036854775807`),
			"with a space":      change(`,"sub"`, `, "sub"`),
			"claims run over":   change(`"sub":"usr_7","aud":"`, `"sub":"usr_7\",\"aud\":\"`),
			"an array":          []byte(`["jti"]`),
			"a number":          []byte(`1`),
			"nothing":           []byte(`{}`),
			"brackets left out": []byte(strings.Trim(string(real), "{}")),
		} {
			forged, err := keystest.Forge(s.KID, "at+jwt", payload)
			must(t, err)
			if v, err := r.Verify(forged); err != nil || v.Origin != keys.OriginForged {
				t.Errorf("%s: origin %v, %v", name, v.Origin, err)
			}
		}
	})
}

// ownTokens is a set of tokens that servers made, with the time at which each expires.
type ownTokens struct {
	kids     []string
	payloads [][]byte
	expire   []time.Time
}

// No token that a server made is ever taken for a forgery: over turns of the key, a rewrap, a restart and an upgrade,
// at every replica. KEYTURN_SOAK checks a million tokens of each database.
func TestOwnTokensAreNoForgeries(t *testing.T) {
	t.Parallel()
	turns, each := 8, 300
	if os.Getenv("KEYTURN_SOAK") != "" {
		each = 125_000
	}
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		c.step(700 * time.Millisecond) // the claims have whole seconds
		master := masterOf(t)
		next := filepath.Join(t.TempDir(), "next")
		must(t, keys.CreateMaster(next))
		must(t, keys.CreateMaster(master+"1"))
		must(t, keys.AppendMaster(master, master+"1"))
		open := func() *keys.Ring {
			m, err := keys.ReadMaster(master)
			must(t, err)
			o := c.options(module)
			o.ReadMaster = func() (*keys.Master, error) { return keys.ReadMaster(master) }
			r, err := keys.Open(ctx, storagetest.MustOpen(t, url), m, keystest.Config, o)
			must(t, err)
			must(t, r.LifeCycle().Maintain(ctx))
			return r
		}
		a, b := open(), open()
		made, checked := ownTokens{}, 0
		for turn := range turns {
			made = made.sign(t, a, c.now(), each)
			switch turn {
			case 2: // an upgrade: the version before made no keys of token ids
				storagetest.MustExec(t, storagetest.Raw(t, url), `DELETE FROM secret_keys WHERE purpose = 'jti'`)
				must(t, a.Poll(ctx))
				must(t, b.Poll(ctx))
				old := ownTokens{}.signOld(t, b, c.now(), each) // of a server of the version before
				c.step(time.Minute)
				a = open()
				must(t, b.Poll(ctx))
				old = old.signOld(t, b, c.now(), each)
				old.check(t, a)
				c.step(2 * time.Hour)
				old.check(t, a) // they have expired, and somebody presents them all the same
				must(t, b.Poll(ctx))
			case 4:
				must(t, keys.AppendMaster(master, next))
				to, err := keys.ReadMaster(next)
				must(t, err)
				_, err = a.LifeCycle().Rewrap(ctx, admin, to)
				must(t, err)
			case 6:
				a = open()
			default: // a key and the key of token ids turn
				c.step(keystest.Config.RotationInterval - 90*time.Minute)
				for range 4 {
					must(t, a.LifeCycle().Maintain(ctx))
					must(t, b.Poll(ctx))
					made = made.sign(t, b, c.now(), each/4)
					c.step(40 * time.Minute)
				}
			}
			for _, r := range []*keys.Ring{a, b} {
				must(t, r.LifeCycle().Maintain(ctx))
				checked += made.check(t, r)
			}
		}
		t.Logf("%s: %d tokens, %d checks, no alarm", url[:6], len(made.payloads), checked)
	})
}

// sign makes n tokens. Only their jti is computed, since a signature takes much longer.
func (o ownTokens) sign(t *testing.T, r *keys.Ring, now time.Time, n int) ownTokens {
	t.Helper()
	s, err := r.Signer(ctx, now.Add(time.Hour))
	must(t, err)
	for i := range n {
		life := time.Duration(1+i%3600) * time.Second
		p := tokenPayload(now, life, i)
		must(t, r.Secrets().Stamp(s.KID, p))
		o.kids, o.payloads, o.expire = append(o.kids, s.KID), append(o.payloads, p), append(o.expire, now.Add(life))
	}
	return o
}

// signOld makes n tokens as the version before did, with a random jti.
func (o ownTokens) signOld(t *testing.T, r *keys.Ring, now time.Time, n int) ownTokens {
	t.Helper()
	for i := range n {
		life := time.Duration(1+i%3600) * time.Second
		o.kids, o.expire = append(o.kids, keyOf(t, r)), append(o.expire, now.Add(life))
		o.payloads = append(o.payloads, tokenPayload(now, life, i))
	}
	return o
}

// check fails if a ring takes one of the tokens, alive or not, for a forgery. It returns how many it checked.
func (o ownTokens) check(t *testing.T, r *keys.Ring) int {
	t.Helper()
	for i, p := range o.payloads {
		if origin := r.OriginOf(o.kids[i], p); origin == keys.OriginForged {
			t.Fatalf("token %d (%s) counts as forged", i, p)
		}
	}
	return len(o.payloads)
}

// An upgrade at which the key of refresh tokens is due to turn exempts the tokens from before, too.
func TestUpgradeAtATurn(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, keystest.Module())
		storagetest.MustExec(t, storagetest.Raw(t, url), `DELETE FROM secret_keys WHERE purpose = 'jti'`)
		c.step(keystest.Config.RotationInterval + time.Minute)
		must(t, r.LifeCycle().Maintain(ctx))
		must(t, r.LifeCycle().Maintain(ctx))
		p := tokenPayload(c.now().Add(-time.Minute), time.Hour, 1)
		if origin := r.OriginOf("kid", p); origin != keys.OriginExempt {
			t.Errorf("a token from before the upgrade: %v", origin)
		}
	})
}

// Tokens that were issued in the second in which the key of token ids turns, or by a server whose clock is behind, are
// no forgeries, also after they have expired and their key has been deleted.
func TestEdgesOfTokenKeys(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c := newClock()
		c.step(700 * time.Millisecond)
		r := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, keystest.Module())
		turn := c.now().Add(keystest.Config.RotationInterval)
		c.step(keystest.Config.RotationInterval - 30*time.Minute)
		must(t, r.LifeCycle().Maintain(ctx))
		kid, all := keyOf(t, r), [][]byte{}
		for _, at := range []time.Time{turn.Add(-time.Second), turn, turn.Add(200 * time.Millisecond)} {
			p := tokenPayload(at, time.Minute, 1)
			must(t, r.Secrets().Stamp(kid, p))
			all = append(all, p)
		}
		early := tokenPayload(noon.Add(-2*time.Minute), time.Minute, 1) // before its key was published, by a slow clock
		must(t, r.Secrets().Stamp(kid, early))
		if origin := r.OriginOf(kid, early); origin != keys.OriginServer {
			t.Errorf("by a slow clock: %v", origin)
		}
		for range 6 {
			for i, p := range all {
				if origin := r.OriginOf(kid, p); origin == keys.OriginForged {
					t.Errorf("token %d at %v: forged", i, c.now())
				}
			}
			c.step(time.Hour)
			must(t, r.LifeCycle().Maintain(ctx))
		}
	})
}

// After an upgrade, tokens of unknown origin are exempt for an hour, and then not any more. A new database exempts
// none.
func TestExemption(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		db := storagetest.MustOpen(t, url)
		r := keystest.MustRing(t, db, c.now, module)
		kid := keyOf(t, r)
		origin := func() keys.Origin {
			return r.OriginOf(kid, tokenPayload(c.now().Add(-time.Second), time.Hour, 1))
		}
		if origin() != keys.OriginForged {
			t.Error("a new database exempts a token")
		}
		storagetest.MustExec(t, storagetest.Raw(t, url), `DELETE FROM secret_keys WHERE purpose = 'jti'`)
		c.step(time.Hour)
		must(t, r.Poll(ctx))
		if origin() != keys.OriginExempt {
			t.Error("before the first start of this version, a token counts as forged")
		}
		must(t, r.LifeCycle().Maintain(ctx))
		for _, step := range []struct {
			by   time.Duration
			want keys.Origin
		}{
			{0, keys.OriginExempt},
			{time.Hour - time.Millisecond, keys.OriginExempt},
			{time.Millisecond, keys.OriginForged},
			{90 * 24 * time.Hour, keys.OriginForged},
		} {
			c.step(step.by)
			must(t, r.LifeCycle().Maintain(ctx))
			if got := origin(); got != step.want {
				t.Errorf("%v after the upgrade: %v", c.now().Sub(noon)-time.Hour, got)
			}
		}
		// The time is part of what is sealed.
		storagetest.MustExec(t, storagetest.Raw(t, url),
			`UPDATE secret_keys SET activated_at = activated_at + 1 WHERE purpose = 'jti'`)
		if err := r.Poll(ctx); err == nil {
			t.Error("a key of token ids was moved, and nobody noticed")
		}
	})
}

// A restore keeps the keys of token ids. Only if the backup may lack the newest one are tokens exempt, for an hour.
func TestRestoredTokenKeys(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, keystest.Module())
		anchor := r.Anchor(filepath.Join(t.TempDir(), "anchor"))
		origin := func(lost bool) keys.Origin {
			p := tokenPayload(c.now().Add(-time.Second), time.Hour, 1)
			if !lost {
				must(t, r.Secrets().Stamp("kid", p))
			}
			return r.OriginOf("kid", p)
		}
		_, err := anchor.WriteHeartbeat(ctx)
		must(t, err)
		c.step(keystest.Config.RotationInterval - 2*time.Hour)
		must(t, anchor.RecordRestore(ctx, admin))
		must(t, r.Poll(ctx))
		if origin(false) != keys.OriginServer || origin(true) != keys.OriginForged {
			t.Errorf("after a restore of a new backup: %v, %v", origin(false), origin(true))
		}
		c.step(2 * time.Hour) // a key of token ids may have been made since the backup
		must(t, anchor.RecordRestore(ctx, admin))
		must(t, r.Poll(ctx))
		if origin(false) != keys.OriginServer || origin(true) != keys.OriginExempt {
			t.Errorf("after a restore of an old backup: %v, %v", origin(false), origin(true))
		}
		c.step(time.Hour)
		must(t, r.Poll(ctx))
		if origin(false) != keys.OriginServer || origin(true) != keys.OriginForged {
			t.Errorf("an hour later: %v, %v", origin(false), origin(true))
		}
	})
}

// keyOf returns the kid of the key that signs.
func keyOf(t *testing.T, r *keys.Ring) string {
	t.Helper()
	s, err := r.Signer(ctx, time.Time{})
	must(t, err)
	return s.KID
}

// The jti keeps its form, and no two tokens have the same.
func TestTokenIDForm(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := keystest.MustRing(t, storagetest.MustOpen(t, storagetest.SQLiteURL(t)), c.now, keystest.Module())
	seen := map[string]bool{}
	for range 1000 {
		p := tokenPayload(c.now(), time.Minute, 1)
		must(t, r.Secrets().Stamp("kid", p))
		var claims struct{ JTI string }
		must(t, json.Unmarshal(p, &claims))
		if !regexp.MustCompile(`^[A-Za-z0-9_-]{22}$`).MatchString(claims.JTI) || seen[claims.JTI] {
			t.Fatal(claims.JTI)
		}
		seen[claims.JTI] = true
	}
}

// BenchmarkTokenID is what the jti of one token costs, beside the signature.
func BenchmarkTokenID(b *testing.B) {
	c := newClock()
	db := storagetest.MustOpen(b, storagetest.SQLiteURL(b))
	r := keystest.MustRing(b, db, c.now, keystest.Module())
	p := tokenPayload(c.now(), time.Minute, 1)
	if err := r.Secrets().Stamp("kid", p); err != nil {
		b.Fatal(err)
	}
	b.Run("make", func(b *testing.B) {
		for b.Loop() {
			if err := r.Secrets().Stamp("kid", p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if r.OriginOf("kid", p) != keys.OriginServer {
				b.Fatal("not made here")
			}
		}
	})
}
