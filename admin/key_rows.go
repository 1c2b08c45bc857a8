package admin

import "github.com/keyturn/keyturn/storage"

// KeyRow is a signing key with its live tokens.
type KeyRow struct {
	SigningKey
	LiveTokens *int64 `json:"live_tokens"` // null: unknown
	Uncounted  bool   `json:"live_tokens_uncounted"`
}

// Rows lists all signing keys, newest first, with their live tokens; nil if those could not be counted.
func (a Keys) Rows(tokens map[string]int64) []KeyRow {
	rows := []KeyRow{}
	for _, key := range a.List() {
		row := KeyRow{SigningKey: key, Uncounted: tokens == nil}
		if n := tokens[key.KID]; key.State == storage.KeyRevoked {
			row.LiveTokens, row.Uncounted = new(int64), false // introspection refuses all of them
		} else if tokens != nil {
			row.LiveTokens = &n
		}
		rows = append(rows, row)
	}
	return rows
}

// Version returns the version of the key set. Every change of the keys increments it.
func (a Keys) Version() int64 { return a.ring.Version() }
