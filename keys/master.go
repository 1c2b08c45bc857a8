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
	"path/filepath"
	"slices"
)

// MasterSize is the size of a master key in bytes.
const MasterSize = 32

// masterIDSize is the size of the id of a master key in bytes.
const masterIDSize = 8

// Labels of the keys that are derived from the master key with HKDF-SHA256 (RFC 5869), one for each use.
const (
	labelID   = "keyturn master key id v1"
	labelWrap = "keyturn wrap v1"
	labelRow  = "keyturn signing key row v1"
	labelSet  = "keyturn signing key set v1"
)

// ErrWrongMaster means that a value was sealed under a master key that this process does not have.
var ErrWrongMaster = errors.New("sealed under another master key")

// Master is the master key, which seals the secrets in the database and is kept outside it. During a rewrap it is
// several keys: all of them open, and the database names the one that seals. It is immutable.
type Master struct {
	keys []masterKey // at least one
}

// masterKey holds what is derived from the 32 bytes of one master key.
type masterKey struct {
	id   string // masterIDSize bytes as hex, which reveal nothing about the key
	wrap []byte
	row  []byte
	set  []byte
}

// NewMaster makes a Master of one or more keys of 32 bytes each.
func NewMaster(keys ...[]byte) (*Master, error) {
	m := &Master{}
	for _, key := range keys {
		if len(key) != MasterSize {
			return nil, fmt.Errorf("master key: %d bytes, not %d", len(key), MasterSize)
		}
		derive := func(label string, size int) []byte {
			b, err := hkdf.Key(sha256.New, key, nil, label, size)
			if err != nil {
				panic(err) // HKDF supports all sizes that this file asks for
			}
			return b
		}
		k := masterKey{
			id:   hex.EncodeToString(derive(labelID, masterIDSize)),
			wrap: derive(labelWrap, 32),
			row:  derive(labelRow, 32),
			set:  derive(labelSet, 32),
		}
		if m.byID(k.id) == nil {
			m.keys = append(m.keys, k)
		}
	}
	if len(m.keys) == 0 {
		return nil, errors.New("master key: there is none")
	}
	return m, nil
}

// byID returns the key with the id, or nil.
func (m *Master) byID(id string) *masterKey {
	for i := range m.keys {
		if m.keys[i].id == id {
			return &m.keys[i]
		}
	}
	return nil
}

// sealing returns m with the key with the id first, so that it seals.
func (m *Master) sealing(id string) *Master {
	ordered := &Master{keys: slices.Clone(m.keys)}
	slices.SortStableFunc(ordered.keys, func(a, b masterKey) int {
		switch {
		case a.id == id && b.id != id:
			return -1
		case b.id == id && a.id != id:
			return 1
		}
		return 0
	})
	return ordered
}

// without returns m without the keys with the ids, or nil if no key is left.
func (m *Master) without(ids map[string]bool) *Master {
	rest := slices.DeleteFunc(slices.Clone(m.keys), func(k masterKey) bool { return ids[k.id] })
	if len(rest) == 0 {
		return nil
	}
	return &Master{keys: rest}
}

// with returns m with the keys of another Master.
func (m *Master) with(other *Master) *Master {
	all := &Master{keys: slices.Clone(m.keys)}
	for _, k := range other.keys {
		if all.byID(k.id) == nil {
			all.keys = append(all.keys, k)
		}
	}
	return all
}

// ID returns the id of the key that seals. It reveals nothing about the key.
func (m *Master) ID() string { return m.keys[0].id }

// Single reports whether m is one key.
func (m *Master) Single() bool { return len(m.keys) == 1 }

// Holds reports whether m has all keys of another Master.
func (m *Master) Holds(other *Master) bool { return len(m.with(other).keys) == len(m.keys) }

// ReadMaster reads a master key file: one key per line, 32 bytes as base64 or hex, or the 32 bytes of one key. It
// refuses a file that other users may read.
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
	keys, ok := decodeMaster(content)
	if !ok {
		return nil, fmt.Errorf(
			"master key: %s holds neither base64 nor hex of 32 bytes: `openssl rand -base64 32` makes one",
			path,
		)
	}
	return NewMaster(keys...)
}

func decodeMaster(content []byte) (keys [][]byte, ok bool) {
	if len(content) == MasterSize {
		return [][]byte{content}, true
	}
	for line := range bytes.Lines(content) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		key, ok := decodeMasterLine(string(line))
		if !ok {
			return nil, false
		}
		keys = append(keys, key)
	}
	return keys, len(keys) > 0
}

func decodeMasterLine(text string) ([]byte, bool) {
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

// CreateMaster writes a new random master key to a file that must not exist, with mode 0600, and syncs it. The file
// gets its name when it is complete.
func CreateMaster(path string) error {
	key := make([]byte, MasterSize)
	rand.Read(key)
	text := base64.StdEncoding.EncodeToString(key) + "\n"
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("master key: %w", &os.PathError{Op: "create", Path: path, Err: os.ErrExist})
	}
	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, ".keyturn-master-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(f.Close(), writeMaster(f.Name(), 0, text)); err != nil {
		return err
	}
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, os.ErrExist) { // a file system without links
		return writeMaster(path, os.O_CREATE|os.O_EXCL, text)
	}
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	return syncFolder(folder)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// CheckWritable returns an error if the master key file cannot be written, as in a read-only mount of an orchestrator.
// It changes nothing.
func CheckWritable(path string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("master key: %w: nothing was changed. Add the new key as a second line where the file comes "+
			"from (the Secret, the secret of the compose file), wait until this host sees it, and repeat the command",
			err)
	}
	return f.Close()
}

// AppendMaster appends the keys in the file from to the file to, which keeps its owner and mode. Servers that read that
// file then open what is sealed under either key.
func AppendMaster(to, from string) error {
	old, err := os.ReadFile(to)
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	if len(old) == MasterSize {
		return fmt.Errorf(
			"master key: %s holds the bytes of one key as they are, to which no line can be added: write them as "+
				"base64",
			to,
		)
	}
	keys, ok := decodeMaster(content)
	if !ok {
		return fmt.Errorf("master key: %s holds no master key", from)
	}
	var lines string
	if len(old) > 0 && old[len(old)-1] != '\n' {
		lines = "\n"
	}
	for _, key := range keys {
		lines += base64.StdEncoding.EncodeToString(key) + "\n"
	}
	return writeMaster(to, os.O_APPEND, lines)
}

func writeMaster(path string, flag int, text string) error {
	f, err := os.OpenFile(path, flag|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("master key: %w", err)
	}
	return nil
}
