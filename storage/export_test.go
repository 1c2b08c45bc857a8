package storage

import "context"

// AnnounceKeys tells others that the keys have changed.
func (d *DB) AnnounceKeys(ctx context.Context) { d.announceKeys(ctx) }
