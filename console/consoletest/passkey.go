package consoletest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// Passkey is an authenticator with one credential, in software (WebAuthn, ES256, attestation none).
type Passkey struct {
	ID      []byte
	Handle  []byte
	Counter uint32
	// Unverified: it does not say that it has verified the person
	Unverified bool
	Origin     string
	key        *ecdsa.PrivateKey
	host       string
}

var b64 = base64.RawURLEncoding

// Name is the id of the passkey in URLs.
func (p *Passkey) Name() string { return b64.EncodeToString(p.ID) }

// authData is the authenticator data. With attested, it has the new credential.
func (p *Passkey) authData(attested bool) []byte {
	flags := byte(0x01)
	if !p.Unverified {
		flags |= 0x04
	}
	if attested {
		flags |= 0x40
	}
	hash := sha256.Sum256([]byte(p.host))
	data := binary.BigEndian.AppendUint32(append(hash[:], flags), p.Counter)
	if !attested {
		return data
	}
	data = append(data, make([]byte, 16)...)
	data = binary.BigEndian.AppendUint16(data, uint16(len(p.ID)))
	data = append(data, p.ID...)
	x, y := make([]byte, 32), make([]byte, 32)
	point := Must(p.key.PublicKey.Bytes())
	copy(x, point[1:33])
	copy(y, point[33:])
	return append(data, Must(cbor.Marshal(map[int]any{1: 2, 3: -7, -1: 1, -2: x, -3: y}))...)
}

func (p *Passkey) clientData(kind, challenge string) []byte {
	return Must(json.Marshal(map[string]any{
		"type":        kind,
		"challenge":   challenge,
		"origin":      p.Origin,
		"crossOrigin": false,
	}))
}

// begun is what the console answers at the beginning of a ceremony.
type begun struct {
	Ceremony string `json:"ceremony"`
	Options  struct {
		Challenge string `json:"challenge"`
		User      struct {
			ID string `json:"id"`
		} `json:"user"`
	} `json:"options"`
}

func (c *Client) begin(t testing.TB, path string) (b begun, a Answer) {
	t.Helper()
	if a = c.Do("POST", path, "{}", "application/json"); a.Status != http.StatusOK {
		return b, a
	}
	if err := json.Unmarshal([]byte(a.Body), &b); err != nil {
		t.Fatal(err)
	}
	return b, a
}

// Register registers a new passkey for whoever is signed in.
func (c *Client) Register(label string) (*Passkey, Answer) {
	c.t.Helper()
	b, a := c.begin(c.t, "/passkeys/options")
	if a.Status != http.StatusOK {
		return nil, a
	}
	host := Must(url.Parse(c.Base))
	p := &Passkey{
		ID:     make([]byte, 32),
		Handle: Must(b64.DecodeString(b.Options.User.ID)),
		Origin: c.Base,
		key:    Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		host:   host.Hostname(),
	}
	rand.Read(p.ID)
	object := Must(cbor.Marshal(map[string]any{
		"fmt":      "none",
		"attStmt":  map[string]any{},
		"authData": p.authData(true),
	}))
	body := map[string]any{"ceremony": b.Ceremony, "label": label, "credential": map[string]any{
		"id":                      b64.EncodeToString(p.ID),
		"rawId":                   b64.EncodeToString(p.ID),
		"type":                    "public-key",
		"authenticatorAttachment": "platform",
		"clientExtensionResults":  map[string]any{},
		"response": map[string]any{
			"clientDataJSON":    b64.EncodeToString(p.clientData("webauthn.create", b.Options.Challenge)),
			"attestationObject": b64.EncodeToString(object),
			"transports":        []string{"internal"},
		},
	}}
	return p, c.Do("POST", "/passkeys", string(Must(json.Marshal(body))), "application/json")
}

// Assertion answers a new challenge, and returns the body for /sign-in/passkey.
func (c *Client) Assertion(p *Passkey) string {
	c.t.Helper()
	b, a := c.begin(c.t, "/sign-in/options")
	if a.Status != http.StatusOK {
		c.t.Fatalf("%d %s", a.Status, a.Body)
	}
	p.Counter++
	data, client := p.authData(false), p.clientData("webauthn.get", b.Options.Challenge)
	hash := sha256.Sum256(client)
	signed := sha256.Sum256(append(append([]byte{}, data...), hash[:]...))
	signature := Must(ecdsa.SignASN1(rand.Reader, p.key, signed[:]))
	return string(Must(json.Marshal(map[string]any{"ceremony": b.Ceremony, "next": "/keys",
		"credential": map[string]any{
			"id":                      b64.EncodeToString(p.ID),
			"rawId":                   b64.EncodeToString(p.ID),
			"type":                    "public-key",
			"authenticatorAttachment": "platform",
			"clientExtensionResults":  map[string]any{},
			"response": map[string]any{
				"clientDataJSON":    b64.EncodeToString(client),
				"authenticatorData": b64.EncodeToString(data),
				"signature":         b64.EncodeToString(signature),
				"userHandle":        b64.EncodeToString(p.Handle),
			},
		}})))
}

// SignIn signs in with a passkey.
func (c *Client) SignIn(p *Passkey) Answer {
	c.t.Helper()
	c.Form = ""
	a := c.Do("POST", "/sign-in/passkey", c.Assertion(p), "application/json")
	if a.Status == http.StatusOK {
		c.ReadToken()
	}
	return a
}
