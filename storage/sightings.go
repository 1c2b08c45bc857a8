package storage

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// SightingKind is a kind of thing that servers see.
type SightingKind string

// The kinds of sightings.
const (
	SawIntrospection SightingKind = "introspection" // of a client, by its id
	SawAudience      SightingKind = "audience"      // in an access token that was issued
)

// Sighting is when something was last seen.
type Sighting struct {
	Kind   SightingKind `db:"kind"`
	Name   string       `db:"name"`
	SeenAt Time         `db:"seen_at"`
}

// Sightings is the table of sightings.
type Sightings struct{ db *DB }

// Sightings returns the table of sightings.
func (d *DB) Sightings() Sightings { return Sightings{d} }

// MaxSightingRows is the largest number of rows that See writes.
const MaxSightingRows = 200

// See writes sightings, at most MaxSightingRows, in one statement. A later sighting stays.
func (s Sightings) See(ctx context.Context, seen []Sighting) error {
	if len(seen) == 0 {
		return nil
	}
	seen = slices.SortedFunc(slices.Values(seen), func(a, b Sighting) int { // as in Fetches.Add
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	var places []string
	var values []any
	for _, row := range seen {
		places = append(places, engine.Placeholders(len(values), 3))
		values = append(values, row.Kind, row.Name, row.SeenAt)
	}
	_, err := s.db.engine.Change(ctx, "sightings", `INSERT INTO sightings AS s (kind, name, seen_at) VALUES `+
		strings.Join(places, ", ")+` ON CONFLICT (kind, name) DO UPDATE SET
		seen_at = CASE WHEN excluded.seen_at < s.seen_at THEN s.seen_at ELSE excluded.seen_at END`, values...)
	return err
}

// Introspects returns the resources whose resource servers have introspected since a time, each with the last time.
func (s Sightings) Introspects(ctx context.Context, since time.Time) (map[string]time.Time, error) {
	var rows []Sighting
	err := s.db.engine.AllForUpkeep(ctx, "sightings", &rows, `SELECT s.kind, c.resource AS name,
		MAX(s.seen_at) AS seen_at FROM sightings s JOIN clients c ON c.id = s.name AND c.resource <> ''
		WHERE s.kind = $1 AND s.seen_at >= $2 GROUP BY s.kind, c.resource`, SawIntrospection, At(since))
	found := map[string]time.Time{}
	for _, row := range rows {
		found[row.Name] = row.SeenAt.Time
	}
	return found, err
}

// UnnamedAudiences returns the audiences of access tokens since a time that no registered verifier has as its resource.
func (s Sightings) UnnamedAudiences(ctx context.Context, since time.Time) ([]string, error) {
	return engine.ReadSlowly[string](ctx, s.db.engine, engine.PageTimeout, "sightings", `SELECT name FROM sightings
		WHERE kind = $1 AND seen_at >= $2 AND name NOT IN (SELECT resource FROM verifiers) ORDER BY name`,
		SawAudience, At(since))
}

// Clean deletes up to limit sightings from before a time. It returns how many.
func (s Sightings) Clean(ctx context.Context, before time.Time, limit int) (int64, error) {
	return s.db.engine.Change(ctx, "clean sightings", `DELETE FROM sightings WHERE (kind, name) IN
		(SELECT kind, name FROM sightings WHERE seen_at < $1 LIMIT $2)`, At(before), limit)
}
