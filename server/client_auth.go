package server

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// clientAuth authenticates clients.
type clientAuth struct {
	*core
	clients  *clientCache
	failures clientFailures
}

// presented holds the client credentials of a request, unverified.
type presented struct {
	id, secret string
	method     string // api.AuthBasic, api.AuthPost or api.AuthNone; "": no usable credentials
}

// errClient is the answer to every failed client authentication (RFC 6749 §5.2). It does not reveal whether the client
// exists, is disabled, or has another secret.
var errClient = fail(api.InvalidClient, "client authentication failed")

// readClient finds the client credentials in the header or the form (RFC 6749 §2.3).
func readClient(h http.Header, f sender) (presented, error) {
	authorization := h.Values("Authorization")
	methods := len(authorization)
	for _, given := range []bool{f.secret != "", f.asserts} {
		if given {
			methods++
		}
	}
	// RFC 6749 §2.3: at most one method in each request.
	if methods > 1 {
		return presented{}, fail(api.InvalidRequest, "more than one client authentication method")
	}
	if len(authorization) == 0 {
		switch {
		case f.id == "", f.asserts: // this server has no client assertions (RFC 7523)
			return presented{}, nil
		case f.secret == "":
			return presented{id: f.id, method: api.AuthNone}, nil
		}
		return presented{id: f.id, secret: f.secret, method: api.AuthPost}, nil
	}
	p, ok := parseBasic(authorization[0])
	differs := f.id != "" && f.id != p.id
	if ok && differs {
		return presented{}, fail(
			api.InvalidRequest,
			"client_id in the body is another than that of the Authorization header",
		)
	}
	return p, nil
}

// parseBasic parses Basic credentials, whose two parts are form-urlencoded (RFC 6749 §2.3.1, RFC 7617 §2).
func parseBasic(header string) (presented, bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return presented{}, false
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(strings.TrimLeft(encoded, " "))
	if err != nil {
		return presented{}, false
	}
	rawID, rawSecret, ok := strings.Cut(string(decoded), ":")
	if !ok {
		return presented{}, false
	}
	id, err1 := url.QueryUnescape(rawID)
	secret, err2 := url.QueryUnescape(rawSecret)
	if err1 != nil ||
		err2 != nil ||
		id == "" ||
		!api.IsLine(id) ||
		!api.IsLine(secret) {
		return presented{}, false
	}
	return presented{id: id, secret: secret, method: api.AuthBasic}, true
}

// authenticateFromCache authenticates the client from the cache. It reports false if the client is not in the cache or
// the credentials are wrong. The caller then reads the client.
func (s *clientAuth) authenticateFromCache(req *request) bool {
	if strings.HasSuffix(req.route, api.PathToken) && req.repeats == "" {
		return false // a password login: reading the client costs little beside the hash
	}
	p, err := readClient(req.header, req.sender)
	if err != nil {
		return false
	}
	c, ok := s.clients.recent(p.id, s.now())
	if !ok || s.checkCredentials(c, p) != nil {
		return false
	}
	req.client, req.known, req.cached = c, c.ID, true
	return true
}

// authenticate reads the client from the database and checks its credentials. After too many failures of a client at an
// address, or of an address, further failures get 429. Correct credentials always succeed.
func (s *clientAuth) authenticate(ctx context.Context, req *request) error {
	p, err := readClient(req.header, req.sender)
	if err != nil {
		return err
	}
	c, err := s.clientOf(ctx, p)
	req.known = c.ID
	if errors.Is(err, errClient) {
		if wait := s.failures.wait(p.id, req.from, s.now()); wait > 0 {
			s.throttledEvent(req, "client authentication", throttledClient)
			return tooMany(wait)
		}
		s.failures.spend(p.id, req.from, s.now())
		s.event(req, "client authentication", "failed")
	}
	if err == nil {
		req.client = c
	}
	return err
}

// clientOf reads the client and checks its credentials. With errClient it also returns the client, if the id exists.
func (s *clientAuth) clientOf(ctx context.Context, p presented) (storage.Client, error) {
	if p.method == "" {
		return storage.Client{}, errClient
	}
	reading, read := s.span(ctx, "read client")
	c, err := s.clients.read(reading, p.id, s.now())
	read(err)
	if errors.Is(err, storage.ErrNotFound) {
		s.secretMatches(c, p.secret) // so that an unknown client takes as long
		return c, errClient
	}
	if err != nil {
		return storage.Client{}, err
	}
	return c, s.checkCredentials(c, p)
}

// checkCredentials returns errClient unless the credentials belong to the client and it is enabled.
func (s *clientAuth) checkCredentials(c storage.Client, p presented) error {
	right := s.secretMatches(c, p.secret)
	switch {
	case c.DisabledAt != nil:
		return errClient
	case c.Public && p.method == api.AuthNone:
		return nil
	case c.Public: // RFC 6749 §2.3.1: a public client has no secret, so a request with one is misconfigured
		return errClient
	case p.method == api.AuthNone || !right:
		return errClient
	}
	return nil
}

// secretMatches compares the secret with the current and the previous one, in constant time.
func (s *clientAuth) secretMatches(c storage.Client, secret string) bool {
	hash := s.ring.Secrets().HashClientSecret(secret)
	current := hmac.Equal([]byte(hash), []byte(c.SecretHash))
	previous := hmac.Equal([]byte(hash), []byte(c.PreviousSecretHash))
	if c.PreviousExpiresAt == nil || !s.now().Before(c.PreviousExpiresAt.Time) {
		return current
	}
	return current || previous
}
