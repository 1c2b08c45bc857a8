package server

import (
	"context"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// clientAge is how long a replica takes a client for what it has read of it. Nothing is answered by that alone: see
	// answer.
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

// recent is a client as it was at most the age of the cache before now, if it was read since.
func (c *clientCache) recent(id string, now time.Time) (storage.Client, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r, ok := c.read[id]
	since := now.Sub(r.at)
	return r.client, ok && since >= 0 && since < c.age
}

// today is a client as it is now. ErrNotFound if there is none of that id.
func (c *clientCache) today(ctx context.Context, id string, now time.Time) (storage.Client, error) {
	client, err := c.db.Clients().ByID(ctx, id)
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
