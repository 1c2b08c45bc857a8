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

// presented is what a request says of its client, before anything of it is believed.
type presented struct {
	id, secret string
	method     string // api.AuthBasic, api.AuthPost or api.AuthNone; "" if nothing usable was sent
}

// errClient is the one answer to every failed client authentication: an unknown client, a disabled one and a wrong
// secret look alike (RFC 6749 §5.2).
var errClient = fail(api.InvalidClient, "client authentication failed")

// readClient finds the credentials of the client in header or form (RFC 6749 §2.3). More than one method is an invalid
// request.
func readClient(h http.Header, f sender) (presented, error) {
	authorization := h.Values("Authorization")
	methods := len(authorization)
	for _, given := range []bool{f.secret != "", f.asserts} {
		if given {
			methods++
		}
	}
	if methods > 1 {
		return presented{}, fail(api.InvalidRequest, "more than one client authentication method")
	}
	if len(authorization) == 0 {
		switch {
		case f.id == "", f.asserts: // RFC 7523 is none of the methods of this server
			return presented{}, nil
		case f.secret == "":
			return presented{id: f.id, method: api.AuthNone}, nil
		}
		return presented{id: f.id, secret: f.secret, method: api.AuthPost}, nil
	}
	p, ok := parseBasic(authorization[0])
	if ok && f.id != "" && f.id != p.id {
		return presented{}, fail(api.InvalidRequest, "client_id in the body is another than that of the Authorization header")
	}
	return p, nil
}

// parseBasic reads Basic credentials whose two parts are form-urlencoded (RFC 6749 §2.3.1, RFC 7617 §2).
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
	if err1 != nil || err2 != nil || id == "" || !api.IsLine(id) || !api.IsLine(secret) {
		return presented{}, false
	}
	return presented{id: id, secret: secret, method: api.AuthBasic}, true
}

// authenticateFromCache authenticates the client of an introspection as it was read a moment ago. It reports false if
// that does not suffice: the client is not in the cache, or its credentials fail.
func (s *clientAuth) authenticateFromCache(req *request) bool {
	if !strings.HasSuffix(req.route, api.PathIntrospect) {
		return false
	}
	p, err := readClient(req.header, req.sender)
	if err != nil {
		return false
	}
	c, ok := s.clients.recent(p.id, s.now())
	if !ok || s.judgeClient(c, p) != nil {
		return false
	}
	req.client, req.known = c, c.ID
	return true
}

// authenticate reads the client that sent the request and judges its credentials. Right ones are never refused for what
// others did. Whoever keeps failing, as a client at an address or as an address, meets 429.
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

// clientOf reads the client and judges its credentials. With errClient it returns the client as well, if there is one
// of that id.
func (s *clientAuth) clientOf(ctx context.Context, p presented) (storage.Client, error) {
	if p.method == "" {
		return storage.Client{}, errClient
	}
	reading, read := s.span(ctx, "read client")
	c, err := s.clients.today(reading, p.id, s.now())
	read(err)
	if errors.Is(err, storage.ErrNotFound) {
		s.secretMatches(c, p.secret) // which takes its time
		return c, errClient
	}
	if err != nil {
		return storage.Client{}, err
	}
	return c, s.judgeClient(c, p)
}

// judgeClient tells whether the credentials are those of the client.
func (s *clientAuth) judgeClient(c storage.Client, p presented) error {
	right := s.secretMatches(c, p.secret)
	switch {
	case c.DisabledAt != nil:
		return errClient
	case c.Public && p.method == api.AuthNone:
		return nil
	case c.Public: // it has no secret to send (RFC 6749 §2.3.1); sending one means that it takes itself for another
		return errClient
	case p.method == api.AuthNone || !right:
		return errClient
	}
	return nil
}

// secretMatches compares with both live secrets of the client, in the same time whatever comes of it.
func (s *clientAuth) secretMatches(c storage.Client, secret string) bool {
	hash := s.ring.Secrets().HashClientSecret(secret)
	current := hmac.Equal([]byte(hash), []byte(c.SecretHash))
	previous := hmac.Equal([]byte(hash), []byte(c.PreviousSecretHash))
	live := c.PreviousExpiresAt != nil && s.now().Before(c.PreviousExpiresAt.Time)
	return current || previous && live
}
