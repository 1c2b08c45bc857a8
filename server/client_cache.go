package server

import (
	"context"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// clientAge is the longest age of a cached client. A client from the cache needs a confirmation: see Server.answer.
	clientAge  = time.Second
	maxClients = 10_000 // in the cache
)

// clientCache holds clients that were read recently.
type clientCache struct {
	db   *storage.DB
	age  time.Duration
	mu   sync.RWMutex
	byID map[string]cachedClient
}

type cachedClient struct {
	client storage.Client
	readAt time.Time
}

func newClientCache(db *storage.DB, age time.Duration) *clientCache {
	return &clientCache{db: db, age: age, byID: map[string]cachedClient{}}
}

// recent returns a client from the cache, if its age permits.
func (c *clientCache) recent(id string, now time.Time) (storage.Client, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	cached, ok := c.byID[id]
	age := now.Sub(cached.readAt)
	fresh := age >= 0 && age < c.age // a clock that was set back makes age negative
	return cached.client, ok && fresh
}

// read reads a client from the database and caches it. The error is ErrNotFound if the id does not exist.
func (c *clientCache) read(ctx context.Context, id string, now time.Time) (storage.Client, error) {
	client, err := c.db.Clients().ByID(ctx, id)
	if err != nil {
		return client, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byID) >= maxClients {
		clear(c.byID)
	}
	c.byID[id] = cachedClient{client, now}
	return client, nil
}
