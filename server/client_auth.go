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

// presented is what a request says of its client, before anything of it is believed.
type presented struct {
	id, secret string
	method     string // api.AuthBasic, api.AuthPost or api.AuthNone; "" if nothing usable was sent
}

// paramClientAssertion is the parameter of an authentication method that this server does not have (RFC 7521 §4.2).
const paramClientAssertion = "client_assertion"

// errClient is the one answer to every failed client authentication: an unknown client, a disabled one and a wrong
// secret look alike (RFC 6749 §5.2).
var errClient = fail(api.InvalidClient, "client authentication failed")

// readClient finds the credentials of the client in header or form (RFC 6749 §2.3). More than one method is an invalid
// request.
func readClient(h http.Header, f form) (presented, error) {
	authorization := h.Values("Authorization")
	id, secret := f[api.ParamClientID], f[api.ParamClientSecret]
	assertion := f[paramClientAssertion] + f[paramClientAssertion+"_type"]
	methods := len(authorization)
	for _, given := range []bool{secret != "", assertion != ""} {
		if given {
			methods++
		}
	}
	if methods > 1 {
		return presented{}, fail(api.InvalidRequest, "more than one client authentication method")
	}
	if len(authorization) == 0 {
		switch {
		case id == "", assertion != "": // RFC 7523 is none of the methods of this server
			return presented{}, nil
		case secret == "":
			return presented{id: id, method: api.AuthNone}, nil
		}
		return presented{id: id, secret: secret, method: api.AuthPost}, nil
	}
	p, ok := parseBasic(authorization[0])
	if ok && id != "" && id != p.id {
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

// authenticate tells which client sent the request: by what was read of it a moment ago, and, where the credentials
// fail by that, by what it is today, so that a new secret works at once.
func (s *Server) authenticate(ctx context.Context, q *request) error {
	p, err := readClient(q.header, q.form)
	if err != nil {
		return err
	}
	if q.form[api.ParamGrantType] != api.GrantPassword { // a hash costs so much that a look at the client does not matter
		c, ok := s.clients.recent(p.id, s.now())
		if ok && s.judgeClient(c, p) == nil {
			q.client, q.known, q.remembered = c, c.ID, true
			return nil
		}
	}
	return s.authenticateToday(ctx, q, p)
}

// authenticateAnew is authenticate for a client that was remembered, by what it is today.
func (s *Server) authenticateAnew(ctx context.Context, q *request) error {
	p, err := readClient(q.header, q.form)
	if err != nil {
		return err
	}
	return s.authenticateToday(ctx, q, p)
}

// authenticateToday judges the credentials first: right ones are never refused for what others did. Whoever keeps
// failing, as a client at an address or as an address, meets 429.
func (s *Server) authenticateToday(ctx context.Context, q *request, p presented) error {
	q.client, q.remembered = storage.Client{}, false
	c, err := s.clientOf(ctx, p)
	q.known = c.ID
	if errors.Is(err, errClient) {
		if wait := s.clientFailures.wait(p.id, q.from, s.now()); wait > 0 {
			s.throttledEvent(q, "client authentication", "client")
			return tooMany(wait)
		}
		s.clientFailures.spend(p.id, q.from, s.now())
		s.event(q, "client authentication", "failed")
	}
	if err == nil {
		q.client = c
	}
	return err
}

// clientOf reads the client and judges its credentials. With errClient it returns the client as well, if there is one
// of that id.
func (s *Server) clientOf(ctx context.Context, p presented) (storage.Client, error) {
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
func (s *Server) judgeClient(c storage.Client, p presented) error {
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
func (s *Server) secretMatches(c storage.Client, secret string) bool {
	hash := s.ring.Secrets().HashClientSecret(secret)
	current := hmac.Equal([]byte(hash), []byte(c.SecretHash))
	previous := hmac.Equal([]byte(hash), []byte(c.PreviousSecretHash))
	live := c.PreviousExpiresAt != nil && s.now().Before(c.PreviousExpiresAt.Time)
	return current || previous && live
}
