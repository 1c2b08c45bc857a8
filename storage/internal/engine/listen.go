package engine

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/lib/pq"
)

const (
	listenCheck = 30 * time.Second // how often the connection is checked
	listenRetry = time.Second
	listenCalm  = time.Minute // after PostgreSQL has refused it
)

// Listen sends a value soon after another process has notified the channel, until the context ends. It misses
// notifications while its connection is down. On SQLite, and where connections are scarce, it never sends.
func (d *DB) Listen(ctx context.Context, channel string) <-chan struct{} {
	if d.kind != Postgres {
		return nil
	}
	changes := make(chan struct{}, 1)
	go func() {
		for wait := time.Duration(0); ; {
			pause(ctx, wait)
			if ctx.Err() != nil {
				return
			}
			wait = listenRetry
			if !d.sessions.listen(ctx, channel, changes) {
				wait = listenCalm
			}
		}
	}()
	return changes
}

// listen listens on its own connection until that breaks. It returns false if there is no connection to spare.
func (p *sessions) listen(ctx context.Context, channel string, changes chan<- struct{}) (spare bool) {
	p.mu.Lock()
	spare = !p.scarce() && !p.closed
	p.mu.Unlock()
	if !spare {
		return false
	}
	s, err := p.hosts.connect()
	if err != nil {
		return false
	}
	defer s.connection.Close()
	p.mu.Lock()
	p.listener = s.wire
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.listener = nil
	}()
	defer context.AfterFunc(ctx, func() { s.wire.Close() })()
	pq.SetNotificationHandler(driver.Conn(s.connection), func(*pq.Notification) {
		select {
		case changes <- struct{}{}:
		default: // one is pending already
		}
	})
	query := "LISTEN " + channel
	for {
		if _, err := s.connection.ExecContext(context.Background(), query, nil); err != nil {
			return true
		}
		query = ";" // lib/pq looks for notifications while it waits for an answer
		if err := s.wire.await(listenCheck); err != nil {
			return true
		}
	}
}
