package server

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/statuslist"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// placeOf returns the place of an access token; zero if it has none.
func placeOf(token string) api.StatusReference {
	var claims api.AccessToken
	Must(0, json.Unmarshal(Must(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])), &claims))
	if claims.Status == nil {
		return api.StatusReference{}
	}
	return claims.Status.List
}

// openStatusList returns the claims and the bits of a Status List Token, after a check of its signature.
func openStatusList(t testing.TB, h *Harness, token string) (claims statuslist.Claims, bits []byte) {
	t.Helper()
	var set jose.JSONWebKeySet
	Must(0, json.Unmarshal([]byte(h.Get("/.well-known/jwks.json").Body), &set))
	jws := Must(jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256}))
	if typ := jws.Signatures[0].Header.ExtraHeaders[jose.HeaderType]; typ != "statuslist+jwt" {
		t.Errorf("typ %v", typ)
	}
	payload, err := jws.Verify(&set.Key(jws.Signatures[0].Header.KeyID)[0])
	if err != nil {
		t.Fatal(err)
	}
	Must(0, json.Unmarshal(payload, &claims))
	r := Must(zlib.NewReader(bytes.NewReader(Must(base64.RawURLEncoding.DecodeString(claims.List.List)))))
	return claims, Must(io.ReadAll(r))
}

// marked asks for the list of an access token as a verifier does, and reports whether its bit is set.
func (h *Harness) marked(token string) bool {
	h.T.Helper()
	place := placeOf(token)
	r := h.Get(strings.TrimPrefix(place.URI, issuer))
	if r.Status != 200 {
		h.T.Fatalf("%s: %d %s", place.URI, r.Status, r.Body)
	}
	claims, bits := openStatusList(h.T, h, r.Body)
	now := h.Clock.Now().Unix()
	if claims.Subject != place.URI || claims.TTL != 15 || claims.Expires-claims.IssuedAt != 300 ||
		claims.IssuedAt > now || claims.Expires <= now {
		h.T.Errorf("%+v at %d", claims, now)
	}
	return bits[place.Index/8]>>(place.Index%8)&1 == 1
}

// withStatus runs a test on both databases, with status lists.
func withStatus(t *testing.T, test func(t *testing.T, h *Harness)) {
	Each(t, func(t *testing.T, h *Harness) {
		c := h.Config
		c.StatusList = "on"
		test(t, OpenHarness(t, c, h.Clock))
	})
}

// lookAll lets replicas look at the database, as they do each second.
func lookAll(all ...*Harness) {
	for _, h := range all {
		h.Clock.at.Add(int64(time.Millisecond))
		h.Server.lookForNews(ctx)
		Must(0, h.Server.ring.Poll(ctx))
		Must(0, h.Server.lists.look(ctx, false))
	}
}

// However a login ends, its bit is set at every replica, and no other bit of a live login.
func TestEveryEndingIsMarked(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(h *Harness, tokens api.TokenResponse, sid string) error{
		"revoked by its refresh token": func(h *Harness, tokens api.TokenResponse, _ string) error {
			return wantOK(h.Post("/revoke", "app", "token", tokens.RefreshToken))
		},
		"revoked by its access token": func(h *Harness, tokens api.TokenResponse, _ string) error {
			return wantOK(h.Post("/revoke", "app", "token", tokens.AccessToken))
		},
		"reuse": func(h *Harness, tokens api.TokenResponse, _ string) error {
			h.Refresh("app", h.Refresh("app", tokens.RefreshToken).Tokens(h.T).RefreshToken)
			if r := h.Refresh("app", tokens.RefreshToken); r.Status != 400 {
				return fmt.Errorf("reuse: %d", r.Status)
			}
			return nil
		},
		"revoked by an administrator": func(h *Harness, _ api.TokenResponse, sid string) error {
			return h.Admin.Grants().Revoke(ctx, sid)
		},
		"its key is revoked with its logins": func(h *Harness, tokens api.TokenResponse, _ string) error {
			_, err := h.Admin.Keys().EndGrants(ctx, kidOf(h.T, tokens.AccessToken), time.Time{})
			return err
		},
		"user disabled": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Users().Disable(ctx, "alice")
		},
		"user deleted": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Users().Delete(ctx, "alice")
		},
		"password changed": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Users().SetPassword(ctx, "alice", "another "+password)
		},
		"all logins of the user": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Grants().RevokeOfUser(ctx, "alice")
		},
		"client disabled": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Clients().Disable(ctx, "app")
		},
		"client deleted": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Clients().Delete(ctx, "app")
		},
		"all logins of the client": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Grants().RevokeOfClient(ctx, "app")
		},
		"all logins": func(h *Harness, _ api.TokenResponse, _ string) error {
			return h.Admin.Grants().RevokeAll(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withStatus(t, func(t *testing.T, h *Harness) {
				twin := OpenHarness(t, h.Config, h.Clock)
				Must(h.Admin.Users().Create(ctx, "bob", password, nil))
				tokens := h.Login("app")
				other := h.loginAs("other", "bob").AccessToken
				lookAll(h, twin)
				for _, r := range []*Harness{h, twin} {
					if r.marked(tokens.AccessToken) || r.marked(other) {
						t.Error("a live login is marked")
					}
				}
				sid := claimsOf(tokens.AccessToken)["sid"].(string)
				Must(0, end(h, tokens, sid))
				lookAll(h, twin)
				ofAll := name == "all logins" || strings.HasPrefix(name, "its key")
				for _, r := range []*Harness{h, twin} {
					if !r.marked(tokens.AccessToken) || r.marked(other) != ofAll {
						t.Errorf("marked: %v, the other login: %v", r.marked(tokens.AccessToken), r.marked(other))
					}
				}
				h.Step(time.Hour)
				lookAll(h)
				if r := h.Get(strings.TrimPrefix(placeOf(other).URI, issuer)); name != "all logins" && r.Status != 200 {
					t.Errorf("the list of the other client: %d", r.Status)
				}
			})
		})
	}
}

// loginAs logs a user in.
func (h *Harness) loginAs(client, user string) api.TokenResponse {
	h.T.Helper()
	return h.Post("/token", client, "grant_type", "password", "username", user, "password", password).Tokens(h.T)
}

func wantOK(r Reply) error {
	if r.Status != 200 {
		return fmt.Errorf("%d %s", r.Status, r.Body)
	}
	return nil
}

// The list of a client whose logins have all ended has every bit set, until the last access token is over. Then it is
// gone, and deleted.
func TestListOfAnEndedClient(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		path := strings.TrimPrefix(placeOf(h.Login("app").AccessToken).URI, issuer)
		Must(0, h.Admin.Grants().RevokeOfClient(ctx, "app"))
		after := h.Login("app").AccessToken
		lookAll(h)
		if _, bits := openStatusList(t, h, h.Get(path).Body); !bytes.Equal(bits, bytes.Repeat([]byte{0xff}, 1<<17)) {
			t.Error("a bit is not set")
		}
		if h.marked(after) {
			t.Error("a login of the new epoch is marked")
		}
		all := func() string { return h.Get("/status").Body }
		if n := strings.Count(all(), issuer+"/status/"); n != 2 {
			t.Errorf("%s", all())
		}
		h.Step(time.Hour)
		lookAll(h)
		if r := h.Get(path); r.Status != 200 {
			t.Errorf("after an hour: %d", r.Status)
		}
		h.Step(2 * time.Minute)
		if r := h.Get(path); r.Status != 404 {
			t.Errorf("after the last token: %d", r.Status)
		}
		if n := strings.Count(all(), issuer+"/status/"); n != 1 {
			t.Errorf("%s", all())
		}
		Must(0, h.Server.cleanUpOnce(ctx))
		if n := len(Must(h.Server.db.StatusLists().All(ctx))); n != 1 {
			t.Errorf("%d lists are left", n)
		}
	})
}

// A mark is dropped once no access token of the login lives, and its list becomes empty again.
func TestMarksAreDropped(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		h.Post("/revoke", "app", "token", tokens.RefreshToken)
		lookAll(h)
		if !h.marked(tokens.AccessToken) {
			t.Fatal("not marked")
		}
		h.Step(time.Hour)
		if lookAll(h); !h.marked(tokens.AccessToken) {
			t.Error("dropped while a token may live")
		}
		h.Step(5 * time.Minute)
		Must(0, h.Server.cleanUpOnce(ctx))
		if lookAll(h); h.marked(tokens.AccessToken) {
			t.Error("kept after the last token")
		}
		left := 0
		count := func(page []storage.StatusMark) { left += len(page) }
		Must(0, h.Server.db.StatusMarks().Pages(ctx, time.Unix(0, 0), count))
		if left != 0 {
			t.Errorf("%d marks are left", left)
		}
	})
}

// All tokens of a login have the same place, also after refreshes and retries, and no two logins have the same.
func TestPlacesOfLogins(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		twin := OpenHarness(t, h.Config, h.Clock)
		seen := map[api.StatusReference]bool{}
		for i := range 40 {
			r := []*Harness{h, twin}[i%2]
			tokens := r.Login([]string{"app", "other"}[i/2%2])
			place := placeOf(tokens.AccessToken)
			if place.URI == "" || seen[place] {
				t.Fatalf("login %d: %+v", i, place)
			}
			seen[place] = true
			if i/2%2 == 0 {
				for _, again := range []*Harness{h, twin, h} {
					next := again.Refresh("app", tokens.RefreshToken).Tokens(t)
					if placeOf(next.AccessToken) != place {
						t.Fatalf("after a refresh: %+v, want %+v", placeOf(next.AccessToken), place)
					}
				}
			}
		}
	})
}

// Logins from before the lists were turned on get a place at their next refresh, and keep it. Turned off again, tokens
// have no status, but the lists are served.
func TestStatusIsTurnedOn(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		if p := placeOf(tokens.AccessToken); p.URI != "" {
			t.Errorf("off, and a token has a status: %+v", p)
		}
		if strings.Contains(h.Get(api.PathMetadata).Body, "status_list") {
			t.Error("off, and the metadata names the lists")
		}
		c := h.Config
		c.StatusList = "on"
		on := OpenHarness(t, c, h.Clock)
		if !strings.Contains(on.Get(api.PathMetadata).Body, `"status_list_aggregation_endpoint":"`+issuer+`/status"`) {
			t.Error("on, and the metadata does not name the lists")
		}
		first := on.Refresh("app", tokens.RefreshToken).Tokens(t)
		second := on.Refresh("app", first.RefreshToken).Tokens(t)
		place := placeOf(first.AccessToken)
		if place.URI == "" || placeOf(second.AccessToken) != place {
			t.Errorf("%+v, then %+v", place, placeOf(second.AccessToken))
		}
		last := h.Refresh("app", second.RefreshToken).Tokens(t)
		if placeOf(last.AccessToken).URI != "" {
			t.Error("turned off, and a token has a status")
		}
		h.Post("/revoke", "app", "token", last.RefreshToken)
		if lookAll(h); !h.marked(second.AccessToken) {
			t.Error("turned off, and an ended login is not marked")
		}
	})
}

// What the endpoint answers: conditional requests, compression, HEAD, other origins, times of the past.
func TestStatusList(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		twin := OpenHarness(t, h.Config, h.Clock)
		token := h.Login("app").AccessToken
		path := strings.TrimPrefix(placeOf(token).URI, issuer)
		lookAll(h, twin)
		get := func(method, path string, header ...string) Reply {
			r := Must(http.NewRequest(method, h.Base+path, nil))
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			return h.Send(r)
		}
		plain := get("GET", path, "Accept-Encoding", "identity")
		if plain.Status != 200 || plain.Header.Get("Content-Type") != "application/statuslist+jwt" ||
			plain.Header.Get("Access-Control-Allow-Origin") != "*" || plain.Header.Get("Content-Encoding") != "" {
			t.Errorf("%+v", plain)
		}
		zipped := get("GET", path, "Accept-Encoding", "br, gzip;q=0.5")
		r := Must(gzip.NewReader(strings.NewReader(zipped.Body)))
		if zipped.Header.Get("Content-Encoding") != "gzip" || string(Must(io.ReadAll(r))) != plain.Body ||
			zipped.Header.Get("ETag") == plain.Header.Get("ETag") {
			t.Errorf("%+v", zipped.Header)
		}
		if r := get("GET", path, "Accept-Encoding", "gzip;q=0"); r.Header.Get("Content-Encoding") != "" {
			t.Error("compressed for a client that refuses it")
		}
		for _, known := range []Reply{plain, zipped} {
			r := get("GET", path, "If-None-Match", known.Header.Get("ETag"),
				"Accept-Encoding", cmp.Or(known.Header.Get("Content-Encoding"), "identity"))
			if r.Status != 304 || r.Body != "" {
				t.Errorf("%d %s", r.Status, r.Body)
			}
		}
		if r := get("HEAD", path, "Accept-Encoding", "identity"); r.Status != 200 || r.Body != "" ||
			r.Header.Get("ETag") != plain.Header.Get("ETag") {
			t.Errorf("HEAD: %+v", r)
		}
		if r := twin.Get(path); r.Body != plain.Body {
			t.Error("two replicas serve different bytes")
		}
		for _, path := range []string{"/status/0000000000000001", "/status/x", "/status/" + strings.Repeat("f", 16),
			strings.ToUpper(path), path + "/", "/status/"} {
			if r := get("GET", path); r.Status != 404 {
				t.Errorf("%s: %d", path, r.Status)
			}
		}
		if r := get("GET", path+"?time=1686925000"); r.Status != 501 {
			t.Errorf("a time: %d", r.Status)
		}
		// A Status List Token is no access token, and no forgery.
		if r := h.Post("/introspect", "rs", "token", plain.Body); r.Body != "{\"active\":false}\n" ||
			len(h.forgeryRecords()) != 0 {
			t.Errorf("introspection of a list: %s", r.Body)
		}
		h.Step(time.Minute)
		lookAll(h)
		if r := get("GET", path, "If-None-Match", plain.Header.Get("ETag")); r.Status != 200 || h.marked(token) {
			t.Errorf("an unchanged list is not signed again: %d", r.Status)
		}
	})
}

// Ends of a key's logins that come in many batches, with one audit record, are all seen.
func TestBatchesOfEndingsAreMarked(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		var all []string
		for range 3 {
			all = append(all, h.Login("app").AccessToken)
		}
		lookAll(h)
		c := storage.KeyGrants{KID: kidOf(t, all[0])}
		record, after, ended := map[string]any{"grants": 3}, storage.GrantID(0), int64(0)
		for range 3 {
			next, n, err := h.Server.db.Grants().EndKeyGrants(ctx, storage.Actor{Name: "os:test"}, c, record, after, 1,
				h.Clock.Now())
			Must(0, err)
			after, record, ended = next, nil, ended+n
			h.Step(time.Minute)
			lookAll(h)
			marked := int64(0)
			for _, token := range all {
				if h.marked(token) {
					marked++
				}
			}
			if marked != ended || ended == 0 {
				t.Errorf("%d ended, %d marked", ended, marked)
			}
		}
	})
}

// A server reads more marks than one statement returns, and a new one reads all.
func TestManyMarks(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		list := Must(storage.ParseStatusListID(strings.TrimPrefix(placeOf(tokens.AccessToken).URI, issuer+"/status/")))
		h.Post("/revoke", "app", "token", tokens.RefreshToken)
		const more = 25_000
		h.Exec(fmt.Sprintf(`INSERT INTO status_marks (list, place_index, expires_at) WITH RECURSIVE n (i) AS
			(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT %d, i, %d FROM n WHERE TRUE
			ON CONFLICT (list, place_index) DO NOTHING`, more, list, h.Clock.Now().Add(time.Hour).UnixMilli()))
		for _, r := range []*Harness{h, OpenHarness(t, h.Config, h.Clock)} {
			lookAll(r)
			_, bits := openStatusList(t, r, r.Get(strings.TrimPrefix(placeOf(tokens.AccessToken).URI, issuer)).Body)
			set := 0
			for i := range int64(more) + 1 {
				set += int(bits[i/8] >> (i % 8) & 1)
			}
			if set < more || !r.marked(tokens.AccessToken) {
				t.Errorf("%d of %d marks", set, more)
			}
		}
	})
}

// A read of the marks that fails halfway loses none: what it has read is new to the next.
func TestReadOfMarksFailsHalfway(t *testing.T) {
	t.Parallel()
	c := ConfigFor(SQLiteURL(t)) // which lets a test write a row that cannot be read
	c.StatusList = "on"
	h := OpenHarness(t, c, nil)
	h.Provision()
	tokens, other := h.Login("app"), h.Login("other")
	if lookAll(h); h.marked(tokens.AccessToken) {
		t.Fatal("marked")
	}
	h.Post("/revoke", "app", "token", tokens.RefreshToken)
	list := Must(storage.ParseStatusListID(strings.TrimPrefix(placeOf(other.AccessToken).URI, issuer+"/status/")))
	h.Exec(fmt.Sprintf(`INSERT INTO status_marks (list, place_index, expires_at) WITH RECURSIVE n (i) AS
		(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
		SELECT %d, CASE i WHEN 10000 THEN 'x' ELSE i END, %d + i FROM n`,
		list, h.Clock.Now().Add(2*time.Hour).UnixMilli()))
	if err := h.Server.lists.look(ctx, false); err == nil {
		t.Fatal("the read did not fail")
	}
	h.Exec(`DELETE FROM status_marks WHERE place_index = 'x'`)
	if lookAll(h); !h.marked(tokens.AccessToken) {
		t.Error("not marked")
	}
}

// Nobody waits behind a look or a signature that hangs for longer than its own time: the last list is served.
func TestNobodyWaitsBehindALook(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		token := h.Login("app").AccessToken
		id := Must(storage.ParseStatusListID(strings.TrimPrefix(placeOf(token).URI, issuer+"/status/")))
		over, cancel := context.WithCancel(ctx)
		cancel()
		lists := h.Server.lists
		Must(0, lists.looking.take(ctx))
		if _, _, err := lists.find(over, id); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("behind a look: %v", err)
		}
		lists.looking.pass()
		lookAll(h)
		l, v, err := lists.find(ctx, id)
		Must(0, err)
		Must(0, l.signing.take(ctx))
		if _, err := lists.serve(over, l, v); !errors.Is(err, errNoList) {
			t.Errorf("behind the first signature: %v", err)
		}
		l.signing.pass()
		first := Must(lists.serve(ctx, l, v))
		Must(0, l.signing.take(ctx))
		h.Step(statusSlot)
		if got, err := lists.sign(over, l, &statusSnapshot{v.lists, h.Clock.Now()}); got != first || err != nil {
			t.Errorf("behind a later signature: %v", err)
		}
	})
}

// Whoever asks for lists that do not exist costs little, and is refused when it is too much; good requests are not.
func TestStrangersAskForLists(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		token := h.Login("app").AccessToken
		lookAll(h)
		counts := map[int]int{}
		for i := range 200 {
			counts[h.Get(fmt.Sprintf("/status/%016x", i+1)).Status]++
		}
		if counts[404] != 100 || counts[503] != 100 {
			t.Errorf("%v", counts)
		}
		if h.marked(token) {
			t.Error("a live login is marked")
		}
		h.Step(time.Second)
		if r := h.Get("/status/0000000000000001"); r.Status != 404 {
			t.Errorf("a second later: %d", r.Status)
		}
	})
}

// While the database is away, the last list is served until it expires, and not longer. A list that this replica never
// read gets 503.
func TestStatusListWithoutADatabase(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		token := h.Login("app").AccessToken
		path := strings.TrimPrefix(placeOf(token).URI, issuer)
		unread := strings.TrimPrefix(placeOf(h.Login("other").AccessToken).URI, issuer)
		lookAll(h)
		h.Get(path)
		h.Post("/revoke", "app", "token", h.Login("app").RefreshToken)
		lookAll(h) // the list has changed just before
		restore := func() {}
		if IsSQLite(h.Config.Database) {
			h.Server.Close()
		} else {
			restore = storagetest.CutOff(t, h.Config.Database)
		}
		for range 9 {
			if h.marked(token) {
				t.Error("marked")
			}
			h.Clock.at.Add(int64(30 * time.Second))
		}
		h.Clock.at.Add(int64(30 * time.Second))
		for _, p := range []string{path, unread, "/status/0000000000000001"} {
			if r := h.Get(p); r.Status != 503 || r.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %d", p, r.Status)
			}
		}
		if restore(); IsSQLite(h.Config.Database) {
			return
		}
		h.Step(2 * time.Second)
		if lookAll(h); h.marked(token) {
			t.Error("marked")
		}
	})
}

// A login that was judged before all logins of its user ended, and written after it, is marked within a second.
func TestLateLoginIsMarked(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		token := h.Login("app").AccessToken
		Must(0, h.Admin.Grants().RevokeOfUser(ctx, "alice"))
		h.Exec(`DELETE FROM status_marks`) // as if the row of the login had come later
		h.Step(time.Second)
		if lookAll(h); !h.marked(token) {
			t.Error("not marked")
		}
	})
}

// After a failover that lost the range of a replica, another takes its places. No two logins share one.
func TestLostRange(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		twin := OpenHarness(t, h.Config, h.Clock)
		h.Login("app")
		h.Exec(`DELETE FROM grants`)
		h.Exec(`DELETE FROM status_ranges`)
		h.Exec(`UPDATE status_lists SET taken = 0`)
		seen := map[api.StatusReference]bool{}
		for i := range 6 {
			place := placeOf([]*Harness{twin, h}[i%2].Login("app").AccessToken)
			if seen[place] {
				t.Fatalf("login %d shares %+v", i, place)
			}
			seen[place] = true
		}
	})
}

// modelLogin is a login of the model.
type modelLogin struct{ client, user, access, refresh string }

// statusModel logs in, ends logins, restarts replicas, cleans up, restores and fails over, in any order. No token that
// introspection calls active is ever marked, and the token of every ended login is.
type statusModel struct {
	*Harness
	random   *rand.Rand
	replicas []*Harness
	names    []string
	live     []modelLogin
	ended    []modelLogin // by somebody, so that a row says so
}

func TestStatusModel(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		seed := rand.Uint64()
		m := &statusModel{Harness: h, random: rand.New(rand.NewPCG(seed, 0)), names: []string{"alice"}}
		t.Log("seed", seed)
		m.replicas = []*Harness{h, OpenHarness(t, h.Config, h.Clock)}
		for i := range 3 {
			m.names = append(m.names, fmt.Sprint("user", i))
			Must(h.Admin.Users().Create(ctx, m.names[i+1], password, nil))
		}
		steps := 60
		if os.Getenv("KEYTURN_SOAK") != "" {
			steps = 2000
		}
		for range steps {
			at := m.replicas[m.random.IntN(2)]
			m.step(at)
			lookAll(m.replicas...)
			m.check(m.replicas[m.random.IntN(2)])
		}
	})
}

// end moves the logins that a condition selects to the ended ones.
func (m *statusModel) end(which func(modelLogin) bool) {
	var still []modelLogin
	for _, l := range m.live {
		if which(l) {
			m.ended = append(m.ended, l)
		} else {
			still = append(still, l)
		}
	}
	m.live = still
}

func (m *statusModel) step(at *Harness) {
	client, user := []string{"app", "other"}[m.random.IntN(2)], m.names[m.random.IntN(len(m.names))]
	switch m.random.IntN(15) {
	default:
		tokens := at.loginAs(client, user)
		m.live = append(m.live, modelLogin{client, user, tokens.AccessToken, tokens.RefreshToken})
	case 0, 1, 2:
		if len(m.live) > 0 {
			l := m.live[m.random.IntN(len(m.live))]
			Must(0, wantOK(at.Post("/revoke", l.client, "token", l.refresh)))
			m.end(func(other modelLogin) bool { return other == l })
		}
	case 3:
		Must(0, m.Admin.Grants().RevokeOfUser(ctx, user))
		m.end(func(l modelLogin) bool { return l.user == user })
	case 4:
		Must(0, m.Admin.Grants().RevokeOfClient(ctx, client))
		m.end(func(l modelLogin) bool { return l.client == client })
	case 5: // kill -9: a new process knows nothing of the old one's ranges
		m.replicas[1] = OpenHarness(m.T, m.Config, m.Clock)
	case 6:
		Must(0, at.Server.cleanUpOnce(ctx))
	case 7:
		m.failOver(at)
	case 8:
		Must(0, m.Server.db.RecordRestore(ctx, storage.Actor{Name: "os:test"}, m.Clock.Now()))
		m.end(func(modelLogin) bool { return true })
	}
}

// failOver loses the newest commits: some logins, some ends, and ranges of places that replicas still hold.
func (m *statusModel) failOver(at *Harness) {
	tables := []string{"grants", "users", "clients", "endings", "status_lists", "status_ranges", "status_marks",
		"audit", "audit_head"}
	for _, table := range tables {
		m.Exec(`CREATE TABLE kept_` + table + ` AS SELECT * FROM ` + table)
	}
	liveThen, endedThen := slices.Clone(m.live), slices.Clone(m.ended)
	for range 3 {
		m.stepOfUsers(at)
	}
	for _, table := range tables {
		m.Exec(`DELETE FROM ` + table)
		m.Exec(`INSERT INTO ` + table + ` SELECT * FROM kept_` + table)
		m.Exec(`DROP TABLE kept_` + table)
	}
	m.live, m.ended = liveThen, endedThen
}

// stepOfUsers is a login or an end.
func (m *statusModel) stepOfUsers(at *Harness) {
	tokens := at.loginAs("app", "alice")
	if m.random.IntN(2) == 0 {
		Must(0, wantOK(at.Post("/revoke", "app", "token", tokens.RefreshToken)))
	}
	if len(m.live) > 0 {
		l := m.live[m.random.IntN(len(m.live))]
		Must(0, wantOK(at.Post("/revoke", l.client, "token", l.refresh)))
	}
}

// check compares the marks with what introspection says, at one replica.
func (m *statusModel) check(at *Harness) {
	m.T.Helper()
	places := map[api.StatusReference]bool{}
	for _, l := range m.live {
		if !at.Active("rs", l.access) {
			m.T.Fatalf("a live login of %s at %s is not active", l.user, l.client)
		}
		if at.marked(l.access) {
			m.T.Fatalf("a live login of %s at %s is marked", l.user, l.client)
		}
		if places[placeOf(l.access)] {
			m.T.Fatalf("two live logins share %+v", placeOf(l.access))
		}
		places[placeOf(l.access)] = true
	}
	for _, l := range m.ended {
		if at.Active("rs", l.access) || !at.marked(l.access) {
			m.T.Fatalf("an ended login of %s at %s is not marked", l.user, l.client)
		}
	}
}

// A flood of logins at several replicas never shares an index. KEYTURN_SOAK takes a million.
func TestIndexesAreApart(t *testing.T) {
	t.Parallel()
	withStatus(t, func(t *testing.T, h *Harness) {
		n := 5000
		if os.Getenv("KEYTURN_SOAK") != "" {
			n = 1_000_000
		}
		var mu sync.Mutex
		seen := map[[2]int64]bool{}
		var all sync.WaitGroup
		for range 4 {
			places := newStatusPlaces(h.Server.core)
			all.Go(func() {
				c := storage.Client{ID: "app", Epoch: 1}
				for i := range n / 4 {
					if i%5000 == 4999 { // a restart
						places = newStatusPlaces(h.Server.core)
					}
					p, err := places.next(context.Background(), c, noon.Add(time.Hour))
					if err != nil {
						t.Error(err)
						return
					}
					key := [2]int64{int64(p.List), p.Index}
					mu.Lock()
					if seen[key] {
						t.Errorf("shared: %v", key)
					}
					seen[key] = true
					mu.Unlock()
				}
			})
		}
		all.Wait()
		t.Logf("%d logins, %d places", n, len(seen))
	})
}
