package statuslist

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// Scatter maps the numbers below Size to the numbers below Size, each to another one, in an order that depends on a
// secret. An index then does not show when its login was made.
type Scatter struct{ block cipher.Block }

// SeedSize is the size of the secret of a Scatter in bytes.
const SeedSize = 16

// rounds of the Feistel network. Four make a pseudorandom permutation (Luby and Rackoff); its halves are small here.
const rounds = 10

// NewScatter returns the Scatter of a secret of SeedSize bytes.
func NewScatter(seed []byte) (Scatter, error) {
	if len(seed) != SeedSize {
		return Scatter{}, fmt.Errorf("status list: the seed has %d bytes, not %d", len(seed), SeedSize)
	}
	block, err := aes.NewCipher(seed)
	return Scatter{block}, err
}

// Index returns the index of the n-th place of a list.
func (s Scatter) Index(n int64) int64 {
	const half, mask = indexBits / 2, 1<<(indexBits/2) - 1
	left, right := uint64(n>>half)&mask, uint64(n)&mask
	var b [aes.BlockSize]byte
	for round := range uint64(rounds) {
		binary.BigEndian.PutUint64(b[:], round)
		binary.BigEndian.PutUint64(b[8:], right)
		s.block.Encrypt(b[:], b[:])
		left, right = right, left^binary.BigEndian.Uint64(b[:])&mask
	}
	return int64(left<<half | right)
}
