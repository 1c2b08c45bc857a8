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

// What is changed of a client counts for its authentication within a second, and for its grants at once.
func TestClientIsRememberedForASecond(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		h.server.clients.age = clientAge
		tokens := h.login("app")
		if !h.active("rs", tokens.AccessToken) {
			t.Fatal("not active")
		}
		must(0, h.admin.DisableClient(ctx, "app"))
		must(0, h.admin.DisableClient(ctx, "rs"))
		if h.active("rs", tokens.AccessToken) {
			t.Error("the token of a disabled client is active")
		}
		if r := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken); r.code(t) != "invalid_grant" {
			t.Errorf("%d %s", r.status, r.body)
		}
		h.step(clientAge)
		for _, path := range []string{"/token", "/introspect"} {
			if r := h.post(path, "rs", "token", tokens.AccessToken, "grant_type", "refresh_token"); r.status != 401 {
				t.Errorf("%s: %d %s", path, r.status, r.body)
			}
		}
	})
}

// A new secret works at once, and so does a client that is enabled again.
func TestNewSecretWorksAtOnce(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		h.server.clients.age = clientAge
		h.login("app")
		must(h.admin.RotateSecret(ctx, "app", "another secret of the app, as long", time.Hour))
		revoke := func(secret string) int {
			r := must(http.NewRequest(http.MethodPost, h.base+"/revoke", strings.NewReader("token=x")))
			r.Header.Set("Content-Type", formMediaType)
			r.Header.Set("Authorization", basic("app", secret))
			return h.send(r).status
		}
		if status := revoke("another secret of the app, as long"); status != 200 {
			t.Errorf("the new secret: %d", status)
		}
		must(0, h.admin.DisableClient(ctx, "app"))
		h.step(clientAge)
		if status := revoke(secret); status != 401 {
			t.Errorf("disabled: %d", status)
		}
		must(0, h.admin.EnableClient(ctx, "app"))
		if status := revoke(secret); status != 200 {
			t.Errorf("enabled again: %d", status)
		}
	})
}

// A login that meets a client that has changed lets it be read again, so that the next one succeeds.
func TestChangedClientIsReadAgain(t *testing.T) {
	each(t, func(t *testing.T, h *harness) {
		h.server.clients.age = clientAge
		h.login("app")
		must(0, h.admin.db.RevokeClientGrants(ctx, h.admin.by, "app", h.clock.now()))
		form := []string{"grant_type", "password", "username", "alice", "password", password}
		if r := h.post("/token", "app", form...); r.code(t) != "invalid_grant" {
			t.Errorf("%d %s", r.status, r.body)
		}
		h.post("/token", "app", form...).tokens(t)
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
