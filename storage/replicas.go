package storage

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// Replica is a server that uses the database.
type Replica struct {
	ID        string `db:"id" json:"-"`
	Name      string `db:"name" json:"name"` // host and public listener
	Version   string `db:"version" json:"version"`
	StartedAt Time   `db:"started_at" json:"started_at"`
	SeenAt    Time   `db:"seen_at" json:"seen_at"` // of its last heartbeat
}

// Replicas is the table of the servers. A server writes its row with each heartbeat, and deletes it when it stops.
type Replicas struct{ db *DB }

// Replicas returns the table of the servers.
func (d *DB) Replicas() Replicas { return Replicas{d} }

// See writes the row of a server that runs, and deletes the rows of servers that were last seen before gone.
func (r Replicas) See(ctx context.Context, replica Replica, gone time.Time) error {
	if _, err := r.db.engine.Change(ctx, "replica", `INSERT INTO replicas (id, name, version, started_at, seen_at)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at`,
		replica.ID, replica.Name, replica.Version, replica.StartedAt, replica.SeenAt); err != nil {
		return err
	}
	_, err := r.db.engine.Change(ctx, "replica", `DELETE FROM replicas WHERE seen_at < $1`, At(gone))
	return err
}

// Leave deletes the row of a server that stops.
func (r Replicas) Leave(ctx context.Context, id string) error {
	_, err := r.db.engine.Change(ctx, "replica", `DELETE FROM replicas WHERE id = $1`, id)
	return err
}

// Since lists the servers that were seen at or after a time, by name.
func (r Replicas) Since(ctx context.Context, since time.Time) ([]Replica, error) {
	return engine.ReadSlowly[Replica](ctx, r.db.engine, engine.PageTimeout, "replicas",
		`SELECT id, name, version, started_at, seen_at FROM replicas WHERE seen_at >= $1 ORDER BY name, id`, At(since))
}

// metaRollCall names the value by which a command asks all servers to write their rows now.
const metaRollCall = "roll call"

// CallRoll asks all servers to write their rows. They do so within about a second.
func (r Replicas) CallRoll(ctx context.Context) error {
	return r.db.Meta().Set(ctx, metaRollCall, timestampText(time.Now()))
}

// metaAlarmed names the number of the newest audit record whose alarm a server has logged.
const metaAlarmed = "alarmed"

// Alarmed returns the number of the newest audit record whose alarm a server has logged. If no server has logged one,
// it begins with the given number.
func (r Replicas) Alarmed(ctx context.Context, begin int64) (int64, error) {
	text, err := r.db.Meta().SetOnce(ctx, metaAlarmed, seqText(begin))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// SetAlarmed advances that number, never back.
func (r Replicas) SetAlarmed(ctx context.Context, seq int64) error {
	_, err := r.db.engine.Change(ctx, "alarmed", setTimestamp, metaAlarmed, seqText(seq))
	return err
}

// seqText has leading zeros, so that numbers compare as text.
func seqText(seq int64) string { return fmt.Sprintf("%019d", seq) }

// News is what a server looks for regularly.
type News struct {
	AuditSeq  int64  `db:"seq"`       // of the newest audit record
	AuditHash string `db:"hash"`      // of the same
	Change    string `db:"change"`    // changes with ends of grants that have no audit record
	RollCall  string `db:"roll_call"` // changes when a command calls the roll
}

// News reads the news.
func (r Replicas) News(ctx context.Context) (n News, err error) {
	return n, r.db.engine.GetForUpkeep(ctx, "news", &n, `SELECT seq, hash,
		COALESCE((SELECT value FROM meta WHERE name = '`+metaRollCall+`'), '') AS roll_call,
		COALESCE((SELECT value FROM meta WHERE name = '`+metaStatusChange+`'), '') AS change
		FROM audit_head WHERE id = 1`)
}
