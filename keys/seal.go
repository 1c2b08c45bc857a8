package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/keyturn/keyturn/storage"
)

// sealVersion begins every sealed text: VERSION.MASTER-ID.BASE64URL(nonce, ciphertext, tag).
const sealVersion = "v1"

// binding is what a sealed text belongs to. It is authenticated with the text (AES-GCM associated data), so that sealed texts can be
// neither swapped between rows nor used for another purpose.
type binding struct {
	Version string
	Master  string
	Purpose string
	ID      string // kid, or number of the secret key
	Public  string // SHA-256 of the public half, if there is one
}

func (m *Master) aead() cipher.AEAD {
	block, err := aes.NewCipher(m.wrap)
	if err == nil {
		var gcm cipher.AEAD
		if gcm, err = cipher.NewGCMWithRandomNonce(block); err == nil {
			return gcm
		}
	}
	panic(err) // the size of the wrapping key is a constant
}

func (m *Master) bind(purpose, id string, public []byte) []byte {
	b := binding{Version: sealVersion, Master: m.id, Purpose: purpose, ID: id}
	if public != nil {
		sum := sha256.Sum256(public)
		b.Public = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // a struct of strings
	}
	return text
}

// seal encrypts a secret for one purpose and id.
func (m *Master) seal(purpose, id string, public, secret []byte) string {
	box := m.aead().Seal(nil, nil, secret, m.bind(purpose, id, public))
	return sealVersion + "." + m.id + "." + base64.RawURLEncoding.EncodeToString(box)
}

// open decrypts what seal made, or tells why it cannot.
func (m *Master) open(purpose, id string, public []byte, sealed string) ([]byte, error) {
	version, rest, _ := strings.Cut(sealed, ".")
	master, text, ok := strings.Cut(rest, ".")
	if !ok || version != sealVersion {
		return nil, fmt.Errorf("sealed %s %s: not in a form that this keyturn knows", purpose, id)
	}
	if master != m.id {
		return nil, fmt.Errorf("sealed %s %s: %w", purpose, id, ErrWrongMaster)
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("sealed %s %s: %w", purpose, id, err)
	}
	secret, err := m.aead().Open(nil, nil, box, m.bind(purpose, id, public))
	if err != nil {
		return nil, fmt.Errorf("sealed %s %s: it was altered, or it belongs to another row", purpose, id)
	}
	return secret, nil
}

// rowMAC authenticates all columns that decide the state of a signing key.
func (m *Master) rowMAC(k storage.SigningKey) string {
	moment := func(t *storage.Time) int64 {
		if t == nil {
			return -1
		}
		return t.UnixMilli()
	}
	text, err := json.Marshal([]any{k.KID, k.State, k.Alg, k.Bits, k.PublicKey, k.PrivateKey, k.PublishedAt.UnixMilli(), moment(k.ActivatedAt),
		moment(k.DeactivatedAt), moment(k.RetiresAt), moment(k.RevokedAt), k.Reason})
	if err != nil {
		panic(err) // strings and numbers
	}
	mac := hmac.New(sha256.New, m.row)
	mac.Write(text)
	return m.id + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (m *Master) rowIntact(k storage.SigningKey) bool {
	return hmac.Equal([]byte(k.MAC), []byte(m.rowMAC(k)))
}
