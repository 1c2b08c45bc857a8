package server

import (
	"context"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// clientAge is how long a replica goes by what it has read of a client: as long as by what it has read of the keys. What was changed of a
	// client decides on its grants at once; on its authentication within this time.
	clientAge  = time.Second
	maxClients = 10_000 // that are remembered
)

// clientCache is clients as they were read a moment ago.
type clientCache struct {
	db   *storage.DB
	age  time.Duration
	mu   sync.RWMutex
	read map[string]clientRead
}

type clientRead struct {
	client storage.Client
	at     time.Time
}

func newClientCache(db *storage.DB, age time.Duration) *clientCache {
	return &clientCache{db: db, age: age, read: map[string]clientRead{}}
}

// client is a client as it was at most the age of the cache before now. ErrNotFound if there is none of that id, which is always asked.
func (c *clientCache) client(ctx context.Context, id string, now time.Time) (storage.Client, error) {
	c.mu.RLock()
	r, ok := c.read[id]
	c.mu.RUnlock()
	if since := now.Sub(r.at); ok && since >= 0 && since < c.age {
		return r.client, nil
	}
	client, err := c.db.Client(ctx, id)
	if err != nil {
		return client, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.read) >= maxClients {
		clear(c.read)
	}
	c.read[id] = clientRead{client, now}
	return client, nil
}

// forget lets the client be read again: what was remembered of it has turned out to be old.
func (c *clientCache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.read, id)
}
