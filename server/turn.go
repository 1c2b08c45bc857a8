package server

import (
	"context"
	"fmt"

	"github.com/keyturn/keyturn/storage"
)

// turn is a lock for work that waits for the database. Whoever waits for the lock gives up when its context ends.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the lock. The error is storage.ErrUnavailable.
func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another caller waits for the database: %w: %w", storage.ErrUnavailable, ctx.Err())
	}
}

func (t turn) pass() { <-t }
