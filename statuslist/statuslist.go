// Package statuslist makes Token Status Lists (draft-ietf-oauth-status-list-20): one bit for each token, set once the
// token is no longer valid.
package statuslist

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"fmt"
	"time"
)

const (
	// Size is the number of places of a list. An index is below it.
	Size = 1 << indexBits
	// MediaType is that of a Status List Token in a response (§8.1).
	MediaType = "application/statuslist+jwt"
	// TTL is how long a verifier may use a list before it asks again.
	TTL = 15 * time.Second
	// Lifetime is how long a Status List Token is valid.
	Lifetime = 5 * time.Minute

	indexBits = 20
)

// Claims are the payload of a Status List Token (§5.1). Times are unix seconds.
type Claims struct {
	Subject  string `json:"sub"` // the URI of the list
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	TTL      int64  `json:"ttl"` // seconds
	List     List   `json:"status_list"`
}

// List is a compressed list (§4.2).
type List struct {
	Bits int    `json:"bits"` // for each place: always 1
	List string `json:"lst"`  // base64url of the list, compressed by zlib
}

// Marked returns a list with the bits of the given indexes set. The first place is the lowest bit of the first byte
// (§4.1).
func Marked(indexes []int64) (List, error) {
	places := make([]byte, Size/8)
	for _, i := range indexes {
		if i < 0 || i >= Size {
			return List{}, fmt.Errorf("status list: there is no place %d", i)
		}
		places[i/8] |= 1 << (i % 8)
	}
	return compress(places)
}

// AllMarked returns a list with every bit set.
func AllMarked() (List, error) { return compress(bytes.Repeat([]byte{0xff}, Size/8)) }

// compress uses the default level. The best one, which §4.2 recommends, takes ten times as long and saves a tenth.
func compress(places []byte) (List, error) {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write(places); err != nil {
		return List{}, err
	}
	if err := w.Close(); err != nil {
		return List{}, err
	}
	return List{Bits: 1, List: base64.RawURLEncoding.EncodeToString(b.Bytes())}, nil
}
