package keys

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/storage"
)

// metaStamp marks a database that `keyturn dev` has made, which `keyturn serve` refuses.
const (
	metaStamp = "stamp"
	stampDev  = "dev"
)

// UnfitError means that a database must not be used. Its text says what to use instead.
type UnfitError struct{ why string }

// Error implements error.
func (e *UnfitError) Error() string { return "database: " + e.why }

// StampDev marks the database as one of `keyturn dev`, if it has no keys yet.
func (s Store) StampDev(ctx context.Context) error {
	if len(s.Ring.Rows()) > 0 {
		return nil
	}
	_, err := s.DB.Meta().SetOnce(ctx, metaStamp, stampDev)
	return err
}

// CheckPurpose returns an error if the database must not be served. It is an *UnfitError if `keyturn dev` has made the
// database and dev is not set, or if it was copied to another one.
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
		return &UnfitError{"it was made by `keyturn dev`, its secrets are known to everybody: use another one"}
	case stamp != stampDev && dev:
		return errors.New(
			"database: it was not made by `keyturn dev`, which would add a demo user to it: use another folder",
		)
	}
	return nil
}

// CheckMoved returns an *UnfitError if the database was copied to another one: nobody would see changes in it.
func (s Store) CheckMoved(ctx context.Context) error {
	moved, err := s.DB.Meta().Value(ctx, storage.MetaMoved)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return &UnfitError{fmt.Sprintf(
		"it was copied to %s, and what has happened there since is not in it: use that one; to go back to this one, "+
			"`keyturn restore --confirm` ends every login", moved,
	)}
}
