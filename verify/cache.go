package verify

import (
	"crypto/sha256"
	"sync"
)

// maxCached is the largest number of tokens in each of two generations. A token takes about 2 KiB.
const maxCached = 4096

// cache holds verified tokens by their SHA-256. When the young generation is full, it replaces the old one.
type cache struct {
	mu         sync.RWMutex
	young, old map[[sha256.Size]byte]*Token
}

func newCache() *cache { return &cache{young: map[[sha256.Size]byte]*Token{}} }

func (c *cache) find(sum [sha256.Size]byte) *Token {
	c.mu.RLock()
	t, old := c.young[sum], c.old[sum]
	c.mu.RUnlock()
	if t == nil && old != nil {
		t = old
		c.keep(sum, t)
	}
	return t
}

func (c *cache) keep(sum [sha256.Size]byte, t *Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= maxCached {
		c.old, c.young = c.young, make(map[[sha256.Size]byte]*Token, maxCached)
	}
	c.young[sum] = t
}
