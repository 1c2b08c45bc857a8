package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/agnivade/levenshtein"
)

// MissingError reports a name that does not exist. It is an ErrNotFound.
type MissingError struct {
	What    string // for instance client
	Name    string
	Similar string // a name that exists; "": none is similar
}

// Error implements error.
func (e *MissingError) Error() string {
	text := fmt.Sprintf("%s %q not found", e.What, e.Name)
	if e.Similar != "" {
		text += fmt.Sprintf("; did you mean %q?", e.Similar)
	}
	return text
}

// Unwrap returns ErrNotFound.
func (e *MissingError) Unwrap() error { return ErrNotFound }

// missing turns ErrNotFound into a MissingError with a suggestion. It returns every other error, and nil, unchanged.
func (a *core) missing(ctx context.Context, what, name string, err error) error {
	var missing *MissingError
	if !errors.Is(err, ErrNotFound) || errors.As(err, &missing) {
		return err
	}
	var known []string
	switch what {
	case "client":
		known, _ = a.db.Clients().Near(ctx, name) // without names there is no suggestion
	case "verifier":
		known, _ = a.db.Verifiers().Near(ctx, name)
	case "admin":
		known, _ = a.db.Admins().Near(ctx, name)
	case "user":
		known, _ = a.db.Users().Near(ctx, name)
	}
	return &MissingError{what, name, Nearest(name, known)}
}

// Nearest returns the known name that is most similar to a word, or "" if none is similar.
func Nearest(word string, known []string) string {
	best, most := "", min(2, len(word)/2)
	for _, name := range known {
		if d := levenshtein.ComputeDistance(word, name); d <= most {
			best, most = name, d-1
		}
	}
	return best
}
