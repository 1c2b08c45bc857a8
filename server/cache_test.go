package server

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A client is remembered for a second, and yet whatever is changed of it counts at once, at every endpoint and for every answer.
func TestRememberedClientIsAskedAbout(t *testing.T) {
	const another = "another secret of the client, as long"
	each(t, func(t *testing.T, h *harness) {
		h.server.clients.age = clientAge
		tokens := h.login("app")
		live := h.login("other")
		remember := func() {
			for _, client := range []string{"app", "rs"} {
				h.post("/revoke", client, "token", "x")
				if _, ok := h.server.clients.recent(client, h.clock.now()); !ok {
					t.Errorf("%s is not remembered", client)
				}
			}
		}
		requests := map[string]func() response{
			"introspect a live token":    func() response { return h.post("/introspect", "rs", "token", live.AccessToken) },
			"introspect an unknown text": func() response { return h.post("/introspect", "rs", "token", "x") },
			"introspect refresh token":   func() response { return h.post("/introspect", "rs", "token", live.RefreshToken) },
			"refresh": func() response {
				return h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken)
			},
			"refresh with a bad token": func() response { return h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", "x") },
			"login": func() response {
				return h.post("/token", "app", "grant_type", "password", "username", "alice", "password", password)
			},
			"a grant that is none": func() response { return h.post("/token", "app", "grant_type", "implicit") },
			"revoke":               func() response { return h.post("/revoke", "app", "token", tokens.AccessToken) },
			"revoke nothing":       func() response { return h.post("/revoke", "app", "token", "x") },
		}
		both := func(change func(client string)) { change("app"); change("rs") }
		for name, send := range requests {
			remember()
			both(func(client string) { must(0, h.admin.DisableClient(ctx, client)) })
			if r := send(); r.status != 401 || r.code(t) != "invalid_client" {
				t.Errorf("%s, disabled: %d %s", name, r.status, r.body)
			}
			both(func(client string) { must(0, h.admin.EnableClient(ctx, client)) })
			if name == "introspect a live token" {
				if r := send(); r.status != 200 {
					t.Errorf("%s, enabled again: %d %s", name, r.status, r.body)
				}
			}
			if strings.HasPrefix(name, "revoke") {
				continue // an old secret may still end a grant for as long as it is remembered, and do no more
			}
			remember()
			both(func(client string) { must(h.admin.RotateSecret(ctx, client, another, 0)) })
			if r := send(); r.status != 401 {
				t.Errorf("%s, by the old secret: %d %s", name, r.status, r.body)
			}
			both(func(client string) { must(h.admin.RotateSecret(ctx, client, secret, 0)) })
		}
		remember()
		if r := requests["revoke"](); r.status != 200 || h.active("rs", tokens.AccessToken) {
			t.Errorf("a client that was disabled could revoke before: %d %s", r.status, r.body)
		}
	})
}

// A new secret works, and a scope that was taken away is gone, at once; so does a login after all grants of the client were ended.
func TestRememberedClientHasNewRights(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		h.server.clients.age = clientAge
		tokens := h.login("app")
		must(h.admin.RotateSecret(ctx, "other", "another secret of the client, as long", time.Hour))
		r := must(http.NewRequest(http.MethodPost, h.base+"/revoke", strings.NewReader("token=x")))
		r.Header.Set("Content-Type", formMediaType)
		r.Header.Set("Authorization", basic("other", "another secret of the client, as long"))
		if status := h.send(r).status; status != 200 {
			t.Errorf("the new secret: %d", status)
		}
		h.clock.at.Add(int64(time.Millisecond)) // a change has a moment of its own
		must(h.admin.UpdateClient(ctx, "app", func(c *ClientSpec) { c.Scope = "read" }))
		refreshed := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken).tokens(t)
		if refreshed.Scope != "read" {
			t.Errorf("scope %q", refreshed.Scope)
		}
		must(0, h.admin.db.RevokeClientGrants(ctx, h.admin.by, "app", h.clock.now()))
		if h.active("rs", refreshed.AccessToken) {
			t.Error("a grant lives")
		}
		h.login("app")
	})
}

// However many tokens there are, few are remembered, and the newest are among them.
func TestTokenCacheIsBounded(t *testing.T) {
	c := newTokenCache()
	sum := func(i int) (s [sha256.Size]byte) {
		binary.BigEndian.PutUint64(s[:], uint64(i))
		return s
	}
	for i := range 5 * maxVerified {
		c.keep(sum(i), &verified{})
		if c.find(sum(0)) == nil {
			t.Fatal("one that is asked about all the time was forgotten")
		}
	}
	if n := len(c.young) + len(c.old); n > 2*maxVerified {
		t.Errorf("%d tokens", n)
	}
	if c.find(sum(5*maxVerified-1)) == nil || c.find(sum(1)) != nil {
		t.Error("not the newest")
	}
}

// A line waits for a moment, a warning and the end do not wait.
func TestLogLinesWaitForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		log := NewLog(Config{LogLevel: "info"}, &out, false)
		log.Info("first")
		if out.String() != "" {
			t.Error("at once: ", out.String())
		}
		time.Sleep(logDelay)
		synctest.Wait()
		if strings.Count(out.String(), "\n") != 1 {
			t.Errorf("after %v: %s", logDelay, out.String())
		}
		log.Info("second")
		log.Warn("third")
		if strings.Count(out.String(), "\n") != 3 {
			t.Error("a warning waits: ", out.String())
		}
		log.Info("fourth")
		log.Close()
		if strings.Count(out.String(), "\n") != 4 || !strings.HasSuffix(strings.SplitN(out.String(), `","level"`, 2)[0], "Z") {
			t.Error(out.String())
		}
	})
	many := NewLog(Config{LogLevel: "info"}, io.Discard, false)
	for range 10_000 {
		many.Info("a line", "padding", strings.Repeat("x", 100))
	}
	many.lines.mu.Lock()
	defer many.lines.mu.Unlock()
	if n := cap(many.lines.held); n > 4*logBuffer {
		t.Errorf("%d bytes are held", n)
	}
}
