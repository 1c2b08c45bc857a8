package storage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// TokenState is what the database knows about an access token.
type TokenState struct {
	Live     bool   // by its grant, user, client and key
	caller   bool   // the caller is enabled and has the given revision
	ClientID string // of the grant, like the others; "" if the grant is gone
	Sub      string // "" if the user is gone
	Username string
	Scope    string // the whole granted scope
	Audience string // all granted audiences, space-separated
}

// Covers reports whether an access token with these claims can come from the grant, as far as the row says.
func (s TokenState) Covers(clientID, sub, scope, audience string) bool {
	within := func(granted, claimed string) bool {
		words := strings.Fields(granted)
		return !slices.ContainsFunc(strings.Fields(claimed), func(w string) bool { return !slices.Contains(words, w) })
	}
	return s.ClientID == clientID &&
		(s.Sub == sub || s.Sub == "") &&
		within(s.Scope, scope) &&
		within(s.Audience, audience)
}

// tokenKey is an access token, with the time of the question.
type tokenKey struct {
	grant GrantID
	kid   string // of the key that signed it
	now   time.Time

	caller Caller
}

// TokenState returns whether an access token of the grant, signed by the key, is valid at the given time, apart from
// its own expiry. It also reads the key, so that a revoked key counts at once. Concurrent calls share a statement.
// ErrClientChanged if the caller is not as it was read.
func (g Grants) TokenState(
	ctx context.Context, caller Caller, id GrantID, kid string, now time.Time,
) (TokenState, error) {
	s, err := g.db.tokens.Ask(ctx, tokenKey{
		id,
		kid,
		now,
		caller,
	})
	if err == nil && caller.Revision != 0 && !s.caller {
		err = ErrClientChanged
	}
	return s, err
}

// tokenBatches are the sizes of a batch that have a statement.
var tokenBatches = []int{1, 2, 4, 8, 16, 32, engine.MaxBatch}

// batchFor returns the smallest size that n questions fit in.
func batchFor(sizes []int, n int) int {
	return sizes[slices.IndexFunc(sizes, func(size int) bool { return size >= n })]
}

const tokenParams = 4 // of one token

// tokenQueries are the statements, by size.
var tokenQueries = func() map[int]string {
	queries := map[int]string{}
	for _, size := range tokenBatches {
		var values []string
		for i := range size {
			n := 1 + tokenParams*i
			values = append(
				values,
				fmt.Sprintf(
					"(%d, CAST($%d AS BIGINT), CAST($%d AS TEXT), CAST($%d AS TEXT), CAST($%d AS BIGINT))",
					i,
					n+1,
					n+2,
					n+3,
					n+4,
				),
			)
		}
		queries[size] = `WITH t (n, id, kid, caller, revision) AS (VALUES ` + strings.Join(values, ", ") + `)
		SELECT t.n, current_setting('transaction_read_only') = 'on' AS stale,
			COALESCE(g.revoked_at IS NULL AND g.expires_at > $1 AND u.epoch = g.user_epoch AND u.disabled_at IS NULL
				AND c.epoch = g.client_epoch AND c.disabled_at IS NULL
				AND k.state <> '` + string(KeyRevoked) + `', FALSE) AS live,
			EXISTS (SELECT 1 FROM clients c WHERE c.id = t.caller AND c.disabled_at IS NULL
			AND c.revision = t.revision) AS caller,
			COALESCE(g.client_id, '') AS client_id, COALESCE(u.sub, '') AS sub, COALESCE(u.username, '') AS username,
			COALESCE(g.scope, '') AS scope, COALESCE(g.audience, '') AS audience
		FROM t LEFT JOIN grants g ON g.id = t.id LEFT JOIN users u ON u.id = g.user_id LEFT JOIN clients c ON c.id =
		g.client_id
		LEFT JOIN signing_keys k ON k.kid = t.kid WHERE t.id IS NOT NULL`
	}
	return queries
}()

// tokenArgs returns the smallest statement that fits the keys, and its arguments. Unused places are NULL.
func tokenArgs(keys []tokenKey) (query string, args []any) {
	size := batchFor(tokenBatches, len(keys))
	args = make([]any, 1+tokenParams*size)
	var latest time.Time
	for i, k := range keys {
		copy(args[1+tokenParams*i:], []any{int64(k.grant), k.kid, k.caller.ID, k.caller.Revision})
		if k.now.After(latest) {
			latest = k.now
		}
	}
	args[0] = latest.UnixMilli()
	return tokenQueries[size], args
}

// tokenStates reads the states of several access tokens. Its callers may leave; the connection itself ends a wait that
// is too long.
func (g Grants) tokenStates(keys []tokenKey) (states []TokenState, err error) {
	query, args := tokenArgs(keys)
	err = g.db.engine.ReadOn(context.Background(), "token", func(conn *sqlx.Conn) error {
		states, err = readTokenStates(conn, len(keys), query, args)
		return err
	})
	if err == nil && states == nil {
		return nil, g.db.engine.Stale("token")
	}
	return states, err
}

// readTokenStates runs the statement. It returns nil, nil if the database is read-only.
func readTokenStates(conn *sqlx.Conn, n int, query string, args []any) ([]TokenState, error) {
	rows, err := conn.QueryContext(context.Background(), query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	states := make([]TokenState, n)
	for rows.Next() {
		var i int
		var stale bool
		var s TokenState
		err := rows.Scan(&i, &stale, &s.Live, &s.caller, &s.ClientID, &s.Sub, &s.Username, &s.Scope, &s.Audience)
		if err != nil {
			return nil, err
		}
		if stale {
			return nil, nil
		}
		states[i] = s
	}
	return states, rows.Err()
}
