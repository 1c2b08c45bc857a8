package keys

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/storage"
)

// sealVersion begins every sealed text: VERSION.MASTER-ID.BASE64URL(nonce, ciphertext, tag).
const sealVersion = "v1"

// binding is the associated data of a sealed text (AES-GCM). With it, nobody can move a sealed text to another row or
// use it for another purpose.
type binding struct {
	Version string
	Master  string
	Purpose string
	ID      string // kid, or number of the secret key
	Public  string // SHA-256 of the public half, if there is one
}

// aead returns AES-GCM. It does not use [cipher.NewGCMWithRandomNonce], which does not accept the AES of BoringCrypto.
func (k masterKey) aead() cipher.AEAD {
	block, err := aes.NewCipher(k.wrap)
	if err == nil {
		var gcm cipher.AEAD
		if gcm, err = cipher.NewGCM(block); err == nil {
			return gcm
		}
	}
	panic(err) // the size of the wrapping key is a constant
}

// box encrypts under a random nonce, and puts the nonce first.
func (k masterKey) box(secret, bound []byte) []byte {
	gcm := k.aead()
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce)
	return gcm.Seal(nonce, nonce, secret, bound)
}

func (k masterKey) unbox(box, bound []byte) ([]byte, error) {
	gcm := k.aead()
	if len(box) < gcm.NonceSize() {
		return nil, errors.New("too short")
	}
	return gcm.Open(nil, box[:gcm.NonceSize()], box[gcm.NonceSize():], bound)
}

func (k masterKey) bind(purpose, id string, public []byte) []byte {
	b := binding{Version: sealVersion, Master: k.id, Purpose: purpose, ID: id}
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
	k := m.keys[0]
	box := k.box(secret, k.bind(purpose, id, public))
	return sealVersion + "." + k.id + "." + base64.RawURLEncoding.EncodeToString(box)
}

// open decrypts what seal made under any of the keys.
func (m *Master) open(purpose, id string, public []byte, sealed string) ([]byte, error) {
	version, rest, _ := strings.Cut(sealed, ".")
	master, text, ok := strings.Cut(rest, ".")
	if !ok || version != sealVersion {
		return nil, fmt.Errorf("sealed %s %s: not in a form that this keyturn knows", purpose, id)
	}
	k := m.byID(master)
	if k == nil {
		return nil, fmt.Errorf("sealed %s %s: %w", purpose, id, ErrWrongMaster)
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("sealed %s %s: %w", purpose, id, err)
	}
	secret, err := k.unbox(box, k.bind(purpose, id, public))
	if err != nil {
		return nil, fmt.Errorf("sealed %s %s: it was altered, or it belongs to another row", purpose, id)
	}
	return secret, nil
}

// sealedUnder returns the id of the master key of a sealed text or a MAC.
func sealedUnder(text string) string {
	text = strings.TrimPrefix(text, sealVersion+".")
	id, _, _ := strings.Cut(text, ".")
	return id
}

// isMasterID reports whether a text has the form of the id of a master key.
func isMasterID(text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && len(b) == masterIDSize
}

func mac(k *masterKey, key []byte, fields []any) string {
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err) // strings and numbers
	}
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return k.id + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// rowMAC returns the MAC over all columns that decide the state of a signing key.
func (m *Master) rowMAC(k storage.SigningKey) string { return m.keys[0].rowMAC(k) }

// wrote reports whether the MAC of the row is right under this key.
func (k *masterKey) wrote(row storage.SigningKey) bool {
	return hmac.Equal([]byte(row.MAC), []byte(k.rowMAC(row)))
}

func (k *masterKey) rowMAC(row storage.SigningKey) string {
	moment := func(t *storage.Time) int64 {
		if t == nil {
			return -1
		}
		return t.UnixMilli()
	}
	fields := []any{
		row.KID,
		row.State,
		row.Alg,
		row.Bits,
		row.PublicKey,
		row.PrivateKey,
		row.PublishedAt.UnixMilli(),
		moment(row.ActivatedAt),
		moment(row.DeactivatedAt),
		moment(row.RetiresAt),
		moment(row.RevokedAt),
		row.Reason,
	}
	if !ofFirstSchema(row) {
		fields = append(fields, row.SafeFrom.UnixMilli(), moment(row.RetiredAt), moment(row.ExposedUntil))
	}
	return mac(k, k.row, fields)
}

// ofFirstSchema reports whether the row was written before the set had a MAC, and not changed since.
func ofFirstSchema(row storage.SigningKey) bool { return row.SafeFrom.UnixMilli() == 0 }

// setMAC returns the MAC over the version and the MACs of all rows, so that no row can be added, removed or put back.
func (m *Master) setMAC(version int64, rows []storage.SigningKey) string {
	return m.keys[0].setMAC(version, rows)
}

func (k *masterKey) setMAC(version int64, rows []storage.SigningKey) string {
	sorted := slices.SortedFunc(
		slices.Values(rows),
		func(a, b storage.SigningKey) int { return cmp.Compare(a.KID, b.KID) },
	)
	fields := []any{version}
	for _, row := range sorted {
		fields = append(fields, row.MAC)
	}
	return mac(k, k.set, fields)
}

// AlteredError means that the rows of the signing keys are not as keyturn wrote them.
type AlteredError struct {
	Problems      []string
	UnknownMaster bool // a row names a master key that this host does not have: a rewrap may be under way
}

// Error lists the problems.
func (e *AlteredError) Error() string { return "signing keys: " + strings.Join(e.Problems, "; ") }

// checkSet checks the MACs of all rows and of the set. It returns an *AlteredError if one is wrong, or ErrWrongMaster
// if the master key of one is missing.
func (m *Master) checkSet(set storage.KeySet) error {
	var altered AlteredError
	first := true
	for _, row := range set.Keys {
		k := m.byID(sealedUnder(row.MAC))
		if k == nil && isMasterID(sealedUnder(row.MAC)) {
			return fmt.Errorf("signing key %s: %w", row.KID, ErrWrongMaster)
		}
		if k == nil || !k.wrote(row) || ofFirstSchema(row) && (row.RetiredAt != nil || row.ExposedUntil != nil) {
			altered.Problems = append(
				altered.Problems,
				fmt.Sprintf("the row of key %s was altered outside keyturn", row.KID),
			)
		}
		first = first && ofFirstSchema(row)
	}
	switch k := m.byID(sealedUnder(set.MAC)); {
	case set.Version == 0:
		if set.MAC != "" || !first {
			altered.Problems = append(altered.Problems, "the version of the set was altered outside keyturn")
		}
	case k == nil && isMasterID(sealedUnder(set.MAC)):
		return fmt.Errorf("set of signing keys: %w", ErrWrongMaster)
	case k == nil || !hmac.Equal([]byte(set.MAC), []byte(k.setMAC(set.Version, set.Keys))):
		altered.Problems = append(altered.Problems, "a row was added, removed or put back outside keyturn")
	}
	if altered.Problems != nil {
		return &altered
	}
	return nil
}
