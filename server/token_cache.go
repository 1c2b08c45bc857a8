package server

import (
	"crypto/sha256"
	"sync"
)

// maxVerified bounds each of the two generations of tokens that a replica remembers; one takes about a kilobyte.
const maxVerified = 4096

// tokenCache remembers access tokens whose signature was verified, by their SHA-256. What it holds never changes;
// whether a token is alive is asked of the database each time, and whether its key may be trusted of the ring. When a
// generation is full, the one before it is forgotten.
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
