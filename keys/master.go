package keys

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
)

// MasterSize is the size of a master key in bytes.
const MasterSize = 32

// Labels of the keys that are derived from the master key with HKDF-SHA256 (RFC 5869), one for each use.
const (
	labelID   = "keyturn master key id v1"
	labelWrap = "keyturn wrap v1"
	labelRow  = "keyturn signing key row v1"
)

// ErrWrongMaster says that the master key is not the one under which this database was sealed.
var ErrWrongMaster = errors.New("the master key does not belong to this database")

// Master is the key outside the database that seals all private key material inside it.
type Master struct {
	id   string // 8 bytes of hex that name the key and tell nothing of it
	wrap []byte
	row  []byte
}

// NewMaster derives from the 32 bytes of a master key what is needed of it.
func NewMaster(key []byte) (*Master, error) {
	if len(key) != MasterSize {
		return nil, fmt.Errorf("master key: %d bytes, not %d", len(key), MasterSize)
	}
	derive := func(label string, size int) []byte {
		b, err := hkdf.Key(sha256.New, key, nil, label, size)
		if err != nil {
			panic(err) // a size that HKDF cannot give is a mistake in this file
		}
		return b
	}
	return &Master{id: hex.EncodeToString(derive(labelID, 8)), wrap: derive(labelWrap, 32), row: derive(labelRow, 32)}, nil
}

// ReadMaster reads a master key file: 32 bytes as base64 or hex text, or as they are. A file that others may read is refused.
func ReadMaster(path string) (*Master, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("master key: %s can be read by others (mode %04o): chmod 600 it", path, mode)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	key, ok := decodeMaster(content)
	if !ok {
		return nil, fmt.Errorf("master key: %s holds neither base64 nor hex of 32 bytes: `openssl rand -base64 32` makes one", path)
	}
	return NewMaster(key)
}

func decodeMaster(content []byte) ([]byte, bool) {
	if len(content) == MasterSize {
		return content, true
	}
	text := string(bytes.TrimSpace(content))
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString,
		base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if key, err := decode(text); err == nil && len(key) == MasterSize {
			return key, true
		}
	}
	return nil, false
}

// CreateMaster writes a new random master key to a file that must not exist, with mode 0600, and makes it durable before it returns.
func CreateMaster(path string) error {
	key := make([]byte, MasterSize)
	rand.Read(key)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	return nil
}
