package keystest

import (
	"crypto/rand"
	"crypto/rsa"
	_ "embed"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"sync"
)

// primesText holds primes of 1024 bits in base64, one per line. Any two of them make a key of readyBits, at a
// thousandth of the cost of a generated key. Such keys are for tests only: two keys may share a prime.
//
//go:embed primes.txt
var primesText string

const readyBits = 2048

// ready are the ready-made keys, which all tests of a binary share.
var ready struct {
	sync.Mutex
	primes []*big.Int
	keys   []*rsa.PrivateKey
	p, q   int // the primes of the next key
}

// Generator returns a function that makes key pairs, each once. Keys of 2048 bits are ready-made while they last; every
// Generator begins with the same ones.
func Generator() func(bits int) (*rsa.PrivateKey, error) {
	used := 0 // ready guards it
	return func(bits int) (*rsa.PrivateKey, error) {
		if bits == readyBits {
			ready.Lock()
			defer ready.Unlock()
			used++
			if k, err := readyKey(used - 1); k != nil || err != nil {
				return k, err
			}
		}
		return rsa.GenerateKey(rand.Reader, bits)
	}
}

// readyKey returns the n-th ready-made key, or nil if there are not so many.
func readyKey(n int) (*rsa.PrivateKey, error) {
	for len(ready.keys) <= n {
		if ready.primes == nil {
			if err := readPrimes(); err != nil {
				return nil, err
			}
		}
		if ready.p++; ready.p >= ready.q {
			ready.p, ready.q = 0, ready.q+1
		}
		if ready.q >= len(ready.primes) {
			return nil, nil
		}
		k, err := keyOf(ready.primes[ready.p], ready.primes[ready.q])
		if err != nil {
			return nil, err
		}
		ready.keys = append(ready.keys, k)
	}
	return ready.keys[n], nil
}

func readPrimes() error {
	for line := range strings.Lines(primesText) {
		p, err := base64.RawStdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil {
			return fmt.Errorf("primes: %w", err)
		}
		ready.primes = append(ready.primes, new(big.Int).SetBytes(p))
	}
	return nil
}

// keyOf makes the key of two primes.
func keyOf(p, q *big.Int) (*rsa.PrivateKey, error) {
	const e = 65537
	one := big.NewInt(1)
	totient := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: e},
		D:         new(big.Int).ModInverse(big.NewInt(e), totient),
		Primes:    []*big.Int{p, q},
	}
	k.Precompute()
	return k, k.Validate()
}
