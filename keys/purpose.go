package keys

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/storage"
)

// metaStamp marks a database that `keyturn dev` has made. `keyturn serve` refuses it.
const (
	metaStamp = "stamp"
	stampDev  = "dev"
)

// UnfitError means that a database must not be used. Its text names the database to use instead.
type UnfitError struct{ why string }

// Error implements error.
func (e *UnfitError) Error() string { return "database: " + e.why }

// StampDev marks a database as made by `keyturn dev`. It changes nothing if the database has keys.
func (s Store) StampDev(ctx context.Context) error {
	if len(s.Ring.Rows()) > 0 {
		return nil
	}
	_, err := s.DB.Meta().SetOnce(ctx, metaStamp, stampDev)
	return err
}

// CheckPurpose returns an error if the database must not be served: only `keyturn dev` may serve a database that it has
// made, and it may serve no other. The error is *UnfitError for a dev database, and for one that was copied elsewhere.
func (s Store) CheckPurpose(ctx context.Context, dev bool) error {
	stamp, err := s.DB.Meta().Value(ctx, metaStamp)
	if errors.Is(err, storage.ErrNotFound) {
		stamp, err = "", nil
	}
	if err != nil {
		return err
	}
	if err := s.CheckMoved(ctx); err != nil {
		return err
	}
	switch {
	case stamp == stampDev && !dev:
		return &UnfitError{"it was made by `keyturn dev`, so everybody knows its secrets: use another database"}
	case stamp != stampDev && dev:
		return errors.New(
			"database: it was not made by `keyturn dev`, which would add a demo user to it: use another folder",
		)
	}
	return nil
}

// CheckMoved returns an *UnfitError if the database was copied to another one: changes here would be lost.
func (s Store) CheckMoved(ctx context.Context) error {
	moved, err := s.DB.Meta().Value(ctx, storage.MetaMoved)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return &UnfitError{fmt.Sprintf(
		"it was copied to %s and lacks all later changes: use that one; to go back to this one, use `keyturn restore "+
			"--confirm`, which ends every login", moved,
	)}
}
