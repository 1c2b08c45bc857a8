package probe

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"time"
)

// Signer signs tokens as the issuer, and nothing but tokens of a probe. Their jti is one of the issuer.
type Signer interface {
	// Sign makes a compact JWS of claims. It replaces the jti.
	Sign(h Header, claims map[string]any) (string, error)
	// KID names the key.
	KID() string
	// Public is the key that verifies.
	Public() *rsa.PublicKey
}

// Header is what a Signer may vary in the header of a token.
type Header struct {
	Typ      string // typAccessToken, JWT, TypOther, or "" for none
	Critical bool   // crit names an extension that nobody knows
}

// Names that only tokens of a probe have.
const (
	OtherAudience = "urn:keyturn:probe:other-audience" // audiences that are not the probed one begin so
	OtherIssuer   = "https://issuer.keyturn-probe.invalid"
	TypOther      = "keyturn-probe+jwt"
	CriticalName  = "https://keyturn-probe.invalid/extension"

	ownKID         = "keyturn-probe-own-key"
	typAccessToken = "at+jwt" // RFC 9068 §2.1
	typJWT         = "JWT"
)

// MaxLifetime is the longest time until a token of a probe expires.
const MaxLifetime = 60 * time.Second

const lifetime = int64(MaxLifetime / time.Second)

// SampleID has the length of the jti that a Signer puts in its place.
const SampleID = "AAAAAAAAAAAAAAAAAAAAAA"

// Identity is the subject, the client and a login that exist for one run alone.
type Identity struct {
	Issuer, Resource string
	Subject, Client  string
	Alive, Ended     Session // the second has ended
}

// Session is a login of a run.
type Session struct {
	ID     string
	Status any // claim status; nil: tokens have none
}

// in sets the claims of a session.
func (s Session) in(c claims) {
	c["sid"] = s.ID
	delete(c, "status")
	if s.Status != nil {
		c["status"] = s.Status
	}
}

type claims = map[string]any

// mint makes the tokens of a run.
type mint struct {
	Identity
	scope        string
	signer, next Signer
	decoy        *decoy
	own          *rsa.PrivateKey // of somebody else than the issuer; nil: not made yet
	now          func() time.Time
	generate     func(bits int) (*rsa.PrivateKey, error)
}

// good returns the claims of a good token.
func (m *mint) good() claims {
	now := m.now().Unix()
	c := claims{
		"iss":       m.Issuer,
		"sub":       m.Subject,
		"aud":       m.Resource,
		"client_id": m.Client,
		"exp":       now + lifetime,
		"iat":       now,
		"jti":       SampleID,
		"scope":     m.scope,
		"auth_time": now,
	}
	m.Alive.in(c)
	return c
}

// goodToken returns a good token of a session.
func (m *mint) goodToken(s Session) (string, error) {
	c := m.good()
	s.in(c)
	return m.signer.Sign(Header{Typ: typAccessToken}, c)
}

// part encodes a part of a JWS (RFC 7515 §7.1).
func part(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // values of the program
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// header returns a header as the issuer writes it, with additions.
func (m *mint) header(alg string, more claims) claims {
	h := claims{"alg": alg, "typ": typAccessToken, "kid": m.signer.KID()}
	for name, value := range more {
		h[name] = value
	}
	return h
}

// keyBits is the size of the key of somebody else.
const keyBits = 2048

// ownKey returns the key of somebody else.
func (m *mint) ownKey() (key *rsa.PrivateKey, err error) {
	if m.own == nil {
		m.own, err = m.generate(keyBits)
	}
	return m.own, err
}

// forge signs a good token by the key of somebody else.
func (m *mint) forge(more claims) (string, error) {
	own, err := m.ownKey()
	if err != nil {
		return "", err
	}
	text := part(m.header("RS256", more)) + "." + part(m.good())
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, own, crypto.SHA256, sum[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

func unsigned(alg string) func(*mint) (string, error) {
	return func(m *mint) (string, error) { return part(m.header(alg, nil)) + "." + part(m.good()) + ".", nil }
}

// keyed signs by HMAC under the public key, as if it were a secret.
func keyed(secret func(*rsa.PublicKey) []byte) func(*mint) (string, error) {
	return func(m *mint) (string, error) {
		text := part(m.header("HS256", nil)) + "." + part(m.good())
		mac := hmac.New(sha256.New, secret(m.signer.Public()))
		mac.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
	}
}

func asDER(key *rsa.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err) // an RSA key has a form
	}
	return der
}

func asPEM(key *rsa.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: asDER(key)})
}

func asModulus(key *rsa.PublicKey) []byte { return key.N.Bytes() }

func (m *mint) otherKey() (string, error) { return m.forge(nil) }

func (m *mint) unknownKID() (string, error) {
	return m.forge(claims{"kid": "keyturn-probe-" + rand.Text()})
}

// jwk returns the public half of a key as a JWK (RFC 7517 §4). Its kid is not that of the issuer: a cache by kid would
// lose the key of the issuer.
func (m *mint) jwk(own *rsa.PrivateKey) claims {
	encode := base64.RawURLEncoding.EncodeToString
	return claims{
		"kty": "RSA",
		"use": "sig",
		"alg": "RS256",
		"kid": ownKID,
		"n":   encode(own.N.Bytes()),
		"e":   encode(big.NewInt(int64(own.E)).Bytes()),
	}
}

func (m *mint) keyInHeader() (string, error) {
	own, err := m.ownKey()
	if err != nil {
		return "", err
	}
	return m.forge(claims{"kid": ownKID, "jwk": m.jwk(own)})
}

func (m *mint) keyAtURL() (string, error) {
	return m.forge(claims{"kid": ownKID, "jku": m.decoy.keysURL()})
}

func (m *mint) certificateAtURL() (string, error) {
	return m.forge(claims{"kid": ownKID, "x5u": m.decoy.certificateURL()})
}

func (m *mint) critical() (string, error) {
	return m.signer.Sign(Header{Typ: typAccessToken, Critical: true}, m.good())
}

// altered changes a good token after it was signed.
func altered(change func(head, payload, signature string) string) func(*mint) (string, error) {
	return func(m *mint) (string, error) {
		token, err := m.goodToken(m.Alive)
		if err != nil {
			return "", err
		}
		parts := strings.SplitN(token, ".", 3)
		return change(parts[0], parts[1], parts[2]), nil
	}
}

func emptySignature(head, payload, _ string) string { return head + "." + payload + "." }

func cutSignature(head, payload, signature string) string {
	return head + "." + payload + "." + signature[:len(signature)/2]
}

func otherPayload(head, payload, signature string) string {
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	var c claims
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		panic(err) // the Signer has written it
	}
	c["scope"] = "keyturn-probe-scope"
	return head + "." + part(c) + "." + signature
}

// otherSpelling changes the last bits of a signature, which a lax decoder ignores.
func otherSpelling(head, payload, signature string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, signature[len(signature)-1])
	return head + "." + payload + "." + signature[:len(signature)-1] + alphabet[last^1:][:1]
}
