package server

import (
	"crypto/sha256"
	"sync"
)

// maxVerified is the largest number of tokens in each of the two generations. A token takes about 1 KiB.
const maxVerified = 4096

// tokenCache holds access tokens with a verified signature, by their SHA-256. Its entries never become wrong: the
// database decides each time whether a token is alive, and the ring whether its key is trusted. When the young
// generation is full, it replaces the old one.
type tokenCache struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]*verified
}

func newTokenCache() *tokenCache {
	return &tokenCache{young: map[[sha256.Size]byte]*verified{}}
}

func (c *tokenCache) find(sum [sha256.Size]byte) *verified {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.young[sum]
	if v == nil {
		if v = c.old[sum]; v != nil {
			c.put(sum, v)
		}
	}
	return v
}

func (c *tokenCache) keep(sum [sha256.Size]byte, v *verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(sum, v)
}

func (c *tokenCache) put(sum [sha256.Size]byte, v *verified) {
	if len(c.young) >= maxVerified {
		c.old, c.young = c.young, make(map[[sha256.Size]byte]*verified, maxVerified)
	}
	c.young[sum] = v
}
