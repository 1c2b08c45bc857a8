package storage

import "context"

// AnnounceKeys tells others that the keys have changed.
func (d *DB) AnnounceKeys(ctx context.Context) { d.announceKeys(ctx) }

// MigrateTo makes a database as a keyturn of before had it.
func MigrateTo(ctx context.Context, databaseURL string, version int64) error {
	db, err := connect(Options{URL: databaseURL, Create: true})
	if err != nil {
		return err
	}
	defer db.Close()
	p, err := db.migrations()
	if err == nil {
		_, err = p.UpTo(ctx, version)
	}
	return err
}
