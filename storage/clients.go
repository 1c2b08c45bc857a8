package storage

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// ErrClientChanged means that a statement did not confirm a client from a cache. The client may have changed since it
// was read. Read it, and repeat the call with Revision 0.
var ErrClientChanged = errors.New("a client from a cache was not confirmed")

// Caller names the client on whose behalf a statement runs.
type Caller struct {
	ID       string
	Revision int64 // of a client from a cache: the statement takes effect only if it still has it; 0: not compared
}

// Client is an application, or a resource server if Resource is set.
type Client struct {
	ID                 string `db:"id" json:"client_id"`
	Public             bool   `db:"public" json:"public"`
	SecretHash         string `db:"secret_hash" json:"-"`
	PreviousSecretHash string `db:"previous_secret_hash" json:"-"`
	// when the previous secret stops working
	PreviousExpiresAt *Time  `db:"previous_expires_at" json:"previous_expires_at"`
	Grants            List   `db:"grants" json:"grants"`       // RFC 6749 grant types
	Scope             string `db:"scope" json:"scope"`         // space-separated, RFC 6749 §3.3
	Audiences         List   `db:"audiences" json:"audiences"` // the first is the default
	// of a resource server: its audience; otherwise ""
	Resource  string   `db:"resource" json:"resource"`
	AccessTTL Duration `db:"access_ttl" json:"access_ttl"` // 0: the default of the server
	// typ header of its access tokens: at+jwt or JWT
	TokenTyp string `db:"token_typ" json:"token_typ"`
	// false: the refresh token of a grant stays the same, and its reuse cannot be detected (RFC 9700 §4.14.2)
	RefreshRotation bool `db:"refresh_rotation" json:"refresh_rotation"`
	// claims of its access tokens besides the usual ones: ClaimUsername
	Claims List `db:"claims" json:"claims"`
	// of a resource server: scheme, host and port of its API, where `keyturn probe` may send tokens; "" for none
	ProbeOrigin string `db:"probe_origin" json:"probe_origin"`
	// incremented to end all grants of the client
	Epoch int64 `db:"epoch" json:"-"`
	// above 0; random at first, incremented by every change
	Revision   int64 `db:"revision" json:"-"`
	CreatedAt  Time  `db:"created_at" json:"created_at"`
	UpdatedAt  Time  `db:"updated_at" json:"updated_at"`
	DisabledAt *Time `db:"disabled_at" json:"disabled_at"`
}

// ClaimUsername in Client.Claims puts the username into access tokens, as preferred_username (RFC 9068 §2.2.2).
const ClaimUsername = "username"

const clientColumns = `id, public, secret_hash, previous_secret_hash, previous_expires_at, grants, scope, audiences,
	resource, access_ttl, token_typ, refresh_rotation, claims, probe_origin, epoch, revision, created_at, updated_at,
	disabled_at`

// Clients is the table of clients.
type Clients struct{ db *DB }

// Clients returns the table of clients.
func (d *DB) Clients() Clients { return Clients{d} }

// Create inserts the client with a random revision. Its epoch is the time of its creation, so that no grant of a
// deleted client of the same id becomes valid again. ErrConflict if the id is taken.
func (c Clients) Create(ctx context.Context, by Actor, client Client) error {
	return c.db.inTx(ctx, "create client", func(t *tx) error {
		if err := t.insertClient(client); err != nil {
			return err
		}
		return t.audit(by, client.CreatedAt.Time, Event{"client.create", client.ID, client.details()})
	})
}

func (t *tx) insertClient(client Client) error {
	_, err := t.Change(`INSERT INTO clients (`+clientColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
		$11, $12, $13, $14, $15, $16, $17, $18, $19)`,
		client.ID,
		client.Public,
		client.SecretHash,
		client.PreviousSecretHash,
		client.PreviousExpiresAt,
		client.Grants,
		client.Scope,
		client.Audiences,
		client.Resource,
		client.AccessTTL,
		client.TokenTyp,
		client.RefreshRotation,
		client.Claims,
		client.ProbeOrigin,
		client.CreatedAt.UnixMilli(),
		randomID(),
		client.CreatedAt,
		client.UpdatedAt,
		client.DisabledAt)
	return err
}

// details returns what the audit trail keeps of a client.
func (c Client) details() map[string]any {
	return map[string]any{
		"public":     c.Public,
		"grants":     c.Grants,
		"scope":      c.Scope,
		"audiences":  c.Audiences,
		"resource":   c.Resource,
		"access_ttl": c.AccessTTL,
		"token_typ":  c.TokenTyp,

		"refresh_rotation": c.RefreshRotation,
		"claims":           c.Claims,
		"probe_origin":     c.ProbeOrigin,
	}
}

// NamesUser reports whether the client's access tokens have the username.
func (c Client) NamesUser() bool { return slices.Contains(c.Claims, ClaimUsername) }

// ChangedSince returns the former details that differ from those of c.
func (c Client) ChangedSince(before Client) map[string]any {
	now, changed := c.details(), map[string]any{}
	for key, value := range before.details() {
		if !reflect.DeepEqual(value, now[key]) {
			changed[key] = value
		}
	}
	return changed
}

// ByID reads one client. ErrNotFound. Concurrent calls share a statement, so that a flood of invented ids costs the
// database little.
func (c Clients) ByID(ctx context.Context, id string) (Client, error) {
	client, err := c.db.clients.Ask(ctx, id)
	if err == nil && client == nil {
		return Client{}, fmt.Errorf("client: %w", ErrNotFound)
	}
	if err != nil {
		return Client{}, err
	}
	return *client, nil
}

// clientBatches are the sizes of a batch that have a statement. Concurrent callers ask for few different clients.
var clientBatches = []int{1, 8, engine.MaxBatch}

// clientQueries are the statements, by the size of the batch.
var clientQueries = func() map[int]string {
	queries := map[int]string{}
	for _, size := range clientBatches {
		queries[size] = `SELECT ` + clientColumns + ` FROM clients WHERE id IN ` + engine.Placeholders(0, size)
	}
	return queries
}()

// read reads several clients in one statement; nil for an unknown id.
func (c Clients) read(ids []string) ([]*Client, error) {
	different := slices.Compact(slices.Sorted(slices.Values(ids)))
	size := batchFor(clientBatches, len(different))
	args := make([]any, size)
	for i := range args {
		args[i] = different[min(i, len(different)-1)]
	}
	var rows []Client
	if err := c.db.engine.All(context.Background(), "client", &rows, clientQueries[size], args...); err != nil {
		return nil, err
	}
	found := make([]*Client, len(ids))
	for i, id := range ids {
		if n := slices.IndexFunc(rows, func(row Client) bool { return row.ID == id }); n >= 0 {
			found[i] = &rows[n]
		}
	}
	return found, nil
}

// Pages hands the clients after an id, ordered by id and page by page, to do, until that returns an error.
func (c Clients) Pages(ctx context.Context, after string, do func([]Client) error) error {
	return engine.InPages(func(last *Client) ([]Client, error) {
		if last != nil {
			after = last.ID
		}
		return c.After(ctx, after, engine.PageRows)
	}, do)
}

// After reads the first clients after an id, at most limit.
func (c Clients) After(ctx context.Context, id string, limit int) ([]Client, error) {
	return engine.ReadSlowly[Client](ctx, c.db.engine, engine.PageTimeout, "clients",
		`SELECT `+clientColumns+` FROM clients WHERE id > $1 ORDER BY id LIMIT $2`, id, limit)
}

// Near lists ids around an id, for suggestions.
func (c Clients) Near(ctx context.Context, id string) ([]string, error) {
	return near(ctx, c.db, "clients", "id", id)
}

// Scopes returns the different scope texts of enabled clients.
func (c Clients) Scopes(ctx context.Context) (scopes []string, err error) {
	return engine.ReadSlowly[string](ctx, c.db.engine, engine.PageTimeout, "scopes",
		`SELECT DISTINCT scope FROM clients WHERE disabled_at IS NULL AND grants <> '[]' ORDER BY scope LIMIT $1`,
		maxScopes)
}

// maxScopes bounds the different scope texts that Scopes reads.
const maxScopes = 10_000

// Update writes what ClientSpec describes. The audit record has the new values, and, as "before", the former values of
// what has changed. ErrConflict if the client has changed since it was read.
func (c Clients) Update(ctx context.Context, by Actor, before, client Client, now time.Time) error {
	details := client.details()
	details["before"] = client.ChangedSince(before)
	return c.db.inTx(ctx, "update client", func(t *tx) error {
		if err := t.ChangeAsRead(
			`UPDATE clients SET grants = $1, scope = $2, audiences = $3, resource = $4, access_ttl = $5,
			token_typ = $6, refresh_rotation = $7, claims = $8, probe_origin = $9, updated_at = $10,
			revision = revision + 1 WHERE id = $11 AND revision = $12`,
			client.Grants,
			client.Scope,
			client.Audiences,
			client.Resource,
			client.AccessTTL,
			client.TokenTyp,
			client.RefreshRotation,
			client.Claims,
			client.ProbeOrigin,
			At(now),
			client.ID,
			client.Revision,
		); err != nil {
			return err
		}
		return t.audit(by, now, Event{"client.update", client.ID, details})
	})
}

// Disable ends all grants of the client and blocks its authentication.
func (c Clients) Disable(ctx context.Context, by Actor, id string, now time.Time) error {
	return c.change(ctx, by, now, Event{"client.disable", id, nil}, func(t *tx) error {
		if err := t.ChangeOne(
			`UPDATE clients SET disabled_at = COALESCE(disabled_at, $1), epoch = epoch + 1, revision = revision + 1
			WHERE id = $2`, At(now), id); err != nil {
			return err
		}
		return t.endClient(id, EndedClientDisabled, false, now)
	})
}

// Enable undoes Disable. The grants stay ended.
func (c Clients) Enable(ctx context.Context, by Actor, id string, now time.Time) error {
	return c.change(ctx, by, now, Event{"client.enable", id, nil}, func(t *tx) error {
		return t.ChangeOne(`UPDATE clients SET disabled_at = NULL, revision = revision + 1 WHERE id = $1`, id)
	})
}

// Delete removes the client, which also ends its grants.
func (c Clients) Delete(ctx context.Context, by Actor, id string, now time.Time) error {
	return c.change(ctx, by, now, Event{"client.delete", id, nil}, func(t *tx) error {
		if err := t.endClient(id, EndedClientDeleted, true, now); err != nil {
			return err
		}
		if _, err := t.Change(`DELETE FROM probe_reports WHERE client_id = $1`, id); err != nil {
			return err
		}
		return t.ChangeOne(`DELETE FROM clients WHERE id = $1`, id)
	})
}

// SecretRotation is a new secret of a client.
type SecretRotation struct {
	ID        string
	Hash      string // of the new secret
	Revision  int64  // of the client, as it was read
	KeepUntil time.Time
}

// RotateSecret sets a new secret. The present one works until KeepUntil, older ones stop working. ErrConflict if the
// client has changed since it was read.
func (c Clients) RotateSecret(ctx context.Context, by Actor, r SecretRotation, now time.Time) error {
	details := map[string]any{"previous_expires_at": At(r.KeepUntil)}
	return c.change(ctx, by, now, Event{"client.rotate-secret", r.ID, details}, func(t *tx) error {
		return t.ChangeAsRead(`UPDATE clients SET previous_secret_hash = secret_hash, previous_expires_at = $1,
			secret_hash = $2, revision = revision + 1 WHERE id = $3 AND NOT public AND revision = $4`,
			At(r.KeepUntil), r.Hash, r.ID, r.Revision)
	})
}

// RevokeGrants ends all grants of a client by incrementing its epoch. ErrNotFound.
func (c Clients) RevokeGrants(ctx context.Context, by Actor, id string, now time.Time) error {
	return c.change(ctx, by, now, Event{"client.revoke-grants", id, nil}, func(t *tx) error {
		if err := t.ChangeOne(
			`UPDATE clients SET epoch = epoch + 1, revision = revision + 1 WHERE id = $1`, id); err != nil {
			return err
		}
		return t.endClient(id, EndedClient, false, now)
	})
}

// change makes a change with its audit record.
func (c Clients) change(ctx context.Context, by Actor, now time.Time, e Event, change func(*tx) error) error {
	return c.db.inTx(ctx, e.Type, func(t *tx) error {
		if by.Saw != 0 { // the row stays locked
			n, err := t.Change(`UPDATE clients SET revision = revision WHERE id = $1 AND revision = $2`,
				e.Target, by.Saw)
			if err == nil && n == 0 {
				err = ErrChanged
			}
			if err != nil {
				return err
			}
		}
		if err := change(t); err != nil {
			return err
		}
		return t.audit(by, now, e)
	})
}
