package admin

import (
	"context"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// Verifiers acts on registered verifiers: resource servers that fetch the JWKS under a name of their own.
type Verifiers struct{ *core }

// Verifiers acts on registered verifiers.
func (a *Admin) Verifiers() Verifiers { return Verifiers(*a) }

// Verifier is a registered verifier with the URL from which it fetches the keys.
type Verifier struct {
	storage.Verifier
	JWKSURI string `json:"jwks_uri"` // without the issuer if that is not known
}

// maxNote is the maximum number of characters of a note.
const maxNote = 200

// Create registers a verifier. It returns ErrInvalid, or ErrConflict if the name is taken.
func (a Verifiers) Create(ctx context.Context, name, resource, note string) (Verifier, error) {
	if !api.IsClientID(name) {
		return Verifier{}, invalid("verifier %q: want at most 128 letters, digits and . _ ~ : / @ + -", name)
	}
	if !api.IsText(resource) || !api.IsResource(resource) {
		return Verifier{}, invalid("resource %q: want an absolute URI without fragment, as in `client create "+
			"--resource`", resource)
	}
	if !isLine(note) || utf8.RuneCountInString(note) > maxNote {
		return Verifier{}, invalid("note: want at most %d characters on one line", maxNote)
	}
	v := storage.Verifier{
		Name:      name,
		Handle:    storage.NewHandle(),
		Resource:  resource,
		Note:      note,
		CreatedAt: storage.At(a.now()),
	}
	err := a.db.Verifiers().Create(ctx, a.by, v)
	switch {
	case errors.Is(err, storage.ErrFull):
		return Verifier{}, fmt.Errorf("verifier %q: there are %d already: delete some", name, storage.MaxVerifiers)
	case errors.Is(err, ErrConflict):
		return Verifier{}, fmt.Errorf("verifier %q: %w: the name is taken", name, ErrConflict)
	}
	return a.withURI(v), err
}

// isLine reports whether a text fits one line.
func isLine(text string) bool {
	for _, r := range text {
		if unicode.IsControl(r) {
			return false
		}
	}
	return api.IsText(text)
}

func (a *core) withURI(v storage.Verifier) Verifier {
	return Verifier{v, a.config.Issuer + api.PathJWKS + "?v=" + v.Handle}
}

// List calls do with the verifiers after a name, ordered by name, page by page, until do returns an error.
func (a Verifiers) List(ctx context.Context, after string, do func([]Verifier) error) error {
	return a.db.Verifiers().Pages(ctx, after, func(page []storage.Verifier) error {
		rows := make([]Verifier, len(page))
		for i, v := range page {
			rows[i] = a.withURI(v)
		}
		return do(rows)
	})
}

// Find returns one verifier. ErrNotFound suggests a similar name.
func (a Verifiers) Find(ctx context.Context, name string) (Verifier, error) {
	v, err := a.db.Verifiers().ByName(ctx, name)
	return a.withURI(v), a.missing(ctx, "verifier", name, err)
}

// Delete deletes a verifier, with what was observed of it. Its URL still works. It may return ErrNotFound.
func (a Verifiers) Delete(ctx context.Context, name string) error {
	return a.missing(ctx, "verifier", name, a.db.Verifiers().Delete(ctx, a.by, name, a.now()))
}
