package servertest

import (
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Settle repeats the requests without an answer, once the server works again.
func (c *Crowd) Settle(within time.Duration) {
	end := time.Now().Add(within)
	for _, s := range c.sessions {
		for s.inDoubt() {
			if time.Now().After(end) {
				c.report("requests are still without an answer after %v", within)
				return
			}
			if s.ending {
				c.revoke(s)
			} else {
				c.renew(s)
			}
		}
	}
}

// Check calls Settle, and then checks the server against all journals.
func (c *Crowd) Check(t testing.TB) {
	t.Helper()
	c.Settle(20 * time.Second)
	kids := c.kids()
	if len(kids) == 0 {
		c.report("the JWKS is empty")
	}
	for i, s := range c.sessions {
		if s.ended {
			c.checkEnded(s)
			continue
		}
		for _, a := range s.access {
			if time.Now().Before(a.expires) && !kids[kidOf(a.text)] {
				c.report("the key of a live token is not in the JWKS")
			}
		}
		c.introspect(s)
		if c.renew(s); s.pending {
			c.report("a refresh has no answer after all faults have ended")
		}
		if i%3 == 0 {
			c.checkReuse(s)
		}
	}
	if c.Answers.Load() == 0 {
		c.report("no request was answered")
	}
	for _, b := range c.broken {
		t.Error(b)
	}
	t.Logf(
		"%d sessions, %d answers, %d times 503, %d times no answer, the slowest after %v",
		len(c.sessions),
		c.Answers.Load(),
		c.Refusals.Load(),
		c.Losses.Load(),
		time.Duration(c.slowest.Load()).Round(time.Millisecond),
	)
	if n := c.lost.Load(); n > int64(len(c.sessions)) {
		t.Errorf("%d promises are broken: more than a loss of the last commits explains", n)
	} else if n > 0 {
		t.Logf("%d promises went with lost commits", n)
	}
}

// checkEnded checks that the tokens of a revoked grant are dead.
func (c *Crowd) checkEnded(s *session) {
	if a := c.send(s.refresh); a.status != http.StatusBadRequest {
		c.gone("a refresh token of a revoked grant: %d", a.status)
	}
	c.introspect(s)
}

// checkReuse sends a token that was replaced long ago. The server must refuse it and end the grant (RFC 9700 §4.14.2).
func (c *Crowd) checkReuse(s *session) {
	if len(s.used) < 2 {
		return
	}
	if a := c.send(s.used[0]); a.status != http.StatusBadRequest {
		c.report("a used refresh token: %d", a.status)
	}
	if a := c.send(s.refresh); a.status != http.StatusBadRequest {
		c.gone("the grant survives the reuse: %d", a.status)
	}
}

// kids returns the key ids in the JWKS of all replicas.
func (c *Crowd) kids() map[string]bool {
	kids := map[string]bool{}
	for _, base := range c.Bases {
		res, err := c.client().Get(base + "/.well-known/jwks.json")
		if err != nil {
			c.report("JWKS: %v", err)
			continue
		}
		var set struct{ Keys []struct{ KID string } }
		if err := json.NewDecoder(res.Body).Decode(&set); err != nil {
			c.report("JWKS: %v", err)
		}
		res.Body.Close()
		for _, k := range set.Keys {
			kids[k.KID] = true
		}
	}
	return kids
}

// kidOf returns the kid in the header of a token, or "".
func kidOf(token string) string {
	head, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	var h struct{ KID string }
	if err != nil || json.Unmarshal(text, &h) != nil {
		return ""
	}
	return h.KID
}

// SQLiteIsWhole returns an error unless a database file passes the integrity check of SQLite.
func SQLiteIsWhole(file string) error {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath())
	if err != nil {
		return err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		return fmt.Errorf("%s: %s, %v", file, verdict, err)
	}
	return nil
}
