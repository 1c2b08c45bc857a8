package storage

import (
	"context"
	"time"
)

// KeepRequests is how long the answer to an Idempotency-Key is kept.
const KeepRequests = 24 * time.Hour

// AdminRequest is a request of the admin API with an Idempotency-Key.
type AdminRequest struct {
	Actor       string `db:"actor"`
	KeyHash     string `db:"key_hash"`
	RequestHash string `db:"request_hash"` // of method, path and body
	Status      int    `db:"status"`
	Answer      string `db:"answer"` // sealed; "" while the request runs
	BegunAt     Time   `db:"begun_at"`
}

// AdminRequests is the table of requests with an Idempotency-Key.
type AdminRequests struct{ db *DB }

// AdminRequests returns the table of requests with an Idempotency-Key.
func (d *DB) AdminRequests() AdminRequests { return AdminRequests{d} }

// Begin inserts a request. If the actor has used the key before, it returns that request instead.
func (a AdminRequests) Begin(ctx context.Context, r AdminRequest) (before *AdminRequest, err error) {
	n, err := a.db.engine.Change(ctx, "request", `INSERT INTO admin_requests (actor, key_hash, request_hash, status,
		answer, begun_at) VALUES ($1, $2, $3, 0, '', $4) ON CONFLICT (actor, key_hash) DO NOTHING`,
		r.Actor, r.KeyHash, r.RequestHash, r.BegunAt)
	if err != nil || n == 1 {
		return nil, err
	}
	before = &AdminRequest{}
	return before, a.db.engine.Get(ctx, "request", before, `SELECT actor, key_hash, request_hash, status, answer,
		begun_at FROM admin_requests WHERE actor = $1 AND key_hash = $2`, r.Actor, r.KeyHash)
}

// Finish keeps the answer to a request.
func (a AdminRequests) Finish(ctx context.Context, r AdminRequest) error {
	_, err := a.db.engine.Change(ctx, "request", `UPDATE admin_requests SET status = $1, answer = $2
		WHERE actor = $3 AND key_hash = $4`, r.Status, r.Answer, r.Actor, r.KeyHash)
	return err
}

// Forget deletes a request that changed nothing, so that it may be repeated.
func (a AdminRequests) Forget(ctx context.Context, r AdminRequest) error {
	_, err := a.db.engine.Change(ctx, "request", `DELETE FROM admin_requests WHERE actor = $1 AND key_hash = $2`,
		r.Actor, r.KeyHash)
	return err
}
