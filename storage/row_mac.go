package storage

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrAltered means that a row was written outside keyturn: its MAC does not match.
var ErrAltered = errors.New("the row was changed outside keyturn")

// macKeyOf derives the key of the MACs of rows from the key of the audit trail.
func macKeyOf(auditKey []byte) []byte { return hmacOf(auditKey, "keyturn rows") }

// hmacOf returns HMAC-SHA256 over fields, each preceded by its length.
func hmacOf(key []byte, fields ...string) []byte {
	h := hmac.New(sha256.New, key)
	number := make([]byte, 8)
	for _, field := range fields {
		binary.BigEndian.PutUint64(number, uint64(len(field)))
		h.Write(number)
		h.Write([]byte(field))
	}
	return h.Sum(nil)
}

// rowMAC returns the MAC of a row: the name of its table, and its fields.
func (d *DB) rowMAC(table string, fields ...string) (string, error) {
	key := d.auditKey.Load()
	if key == nil {
		return "", errors.New("no key for the MAC of a row")
	}
	return base64.RawURLEncoding.EncodeToString(hmacOf(macKeyOf(*key), append([]string{table}, fields...)...)), nil
}

// checkMAC returns ErrAltered if a MAC is not that of a row.
func (d *DB) checkMAC(mac, table string, fields ...string) error {
	want, err := d.rowMAC(table, fields...)
	if err == nil && !hmac.Equal([]byte(mac), []byte(want)) {
		err = fmt.Errorf("%s: %w", table, ErrAltered)
	}
	return err
}
