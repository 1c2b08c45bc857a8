package storage

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// Actor is who makes a change, and why. The audit trail keeps both.
type Actor struct {
	Name   string // os:NAME, admin:NAME, client:ID, or keyturn for the server itself
	Reason string
	Forced bool // a safety check was overridden; the details of the record say so
	// Saw is what the actor decided on: the revision of a client or user, or the version of the key set. A change of
	// anything else returns ErrChanged. 0: whatever it is.
	Saw int64
	// how and from where somebody comes to the admin API and the console; "" on the command line
	Way, Address string
}

// ErrChanged means that a row is not as the actor saw it. It wraps ErrConflict.
var ErrChanged = fmt.Errorf("%w: it has changed since it was read", ErrConflict)

// Event describes a change in the audit trail.
type Event struct {
	Type    string         // NOUN.VERB, for instance client.create
	Target  string         // the id of the changed object
	Details map[string]any // never a secret
}

// AuditRecord is one link of the audit trail.
type AuditRecord struct {
	Seq      int64  `db:"seq" json:"seq"`
	Time     Time   `db:"time" json:"time"`
	Type     string `db:"type" json:"type"`
	Actor    string `db:"actor" json:"actor"`
	Target   string `db:"target" json:"target"`
	Reason   string `db:"reason" json:"reason"`
	Details  Object `db:"details" json:"details"`
	PrevHash string `db:"prev_hash" json:"prev_hash"`
	Hash     string `db:"hash" json:"hash"`
}

// Audit is the audit trail: its records, and the head of their chain.
type Audit struct{ db *DB }

// Audit returns the audit trail.
func (d *DB) Audit() Audit { return Audit{d} }

// UseKey sets the key of the chain. Without it, no audited change is possible.
func (a Audit) UseKey(key []byte) { a.db.auditKey.Store(&key) }

// Written counts the audit records written since the database was opened. It includes a few of transactions that were
// rolled back.
func (a Audit) Written() int64 { return a.db.audited.Load() }

// entry is the content of a record.
type entry struct {
	by  Actor
	now time.Time
	Event
}

func (e entry) record() (AuditRecord, error) {
	details := []byte("{}")
	if e.by.Forced || e.by.Way != "" {
		e.Details = maps.Clone(e.Details)
		if e.Details == nil {
			e.Details = map[string]any{}
		}
	}
	if e.by.Forced {
		e.Details["forced"] = true
	}
	if e.by.Way != "" {
		e.Details["way"], e.Details["address"] = e.by.Way, e.by.Address
	}
	if e.Details != nil {
		var err error
		if details, err = json.Marshal(e.Details); err != nil {
			return AuditRecord{}, fmt.Errorf("audit: %w", err)
		}
	}
	return AuditRecord{
		Time:    At(e.now),
		Type:    e.Type,
		Actor:   e.by.Name,
		Target:  e.Target,
		Reason:  e.by.Reason,
		Details: details,
	}, nil
}

// audit appends a record in the transaction of its change.
func (t *tx) audit(by Actor, now time.Time, e Event) error { return t.auditAll([]entry{{by, now, e}}) }

// auditAll appends records. The row of audit_head, locked until the transaction ends, puts them in order.
func (t *tx) auditAll(entries []entry) error {
	key := t.db.auditKey.Load()
	if key == nil {
		return errors.New("audit: no key to chain the record with")
	}
	head := struct {
		Seq  int64  `db:"seq"`
		Hash string `db:"hash"`
	}{}
	if err := t.Get(&head, `UPDATE audit_head SET seq = seq + $1 WHERE id = 1 RETURNING seq,
		hash`, len(entries)); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	var values []any
	for i, e := range entries {
		r, err := e.record()
		if err != nil {
			return err
		}
		r.Seq, r.PrevHash = head.Seq-int64(len(entries)-1-i), head.Hash
		r.Hash = r.chain(*key)
		head.Hash = r.Hash
		values = append(values,
			r.Seq,
			r.Time,
			r.Type,
			r.Actor,
			r.Target,
			r.Reason,
			string(r.Details),
			r.PrevHash,
			r.Hash)
	}
	if err := t.insertAudit(values); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	t.db.audited.Add(int64(len(entries)))
	if _, err := t.Change(`UPDATE audit_head SET hash = $1 WHERE id = 1`, head.Hash); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

const auditColumns = 9

// insertAudit inserts rows in batches of a few fixed sizes.
func (t *tx) insertAudit(values []any) error {
	for len(values) > 0 {
		rows := batchSize(len(values) / auditColumns)
		var places []string
		for i := range rows {
			places = append(places, engine.Placeholders(i*auditColumns, auditColumns))
		}
		if _, err := t.Change(`INSERT INTO audit (seq, time, type, actor, target, reason, details, prev_hash, hash)
			VALUES `+strings.Join(places, ", "),
			values[:rows*auditColumns]...); err != nil {
			return err
		}
		values = values[rows*auditColumns:]
	}
	return nil
}

// batchSize returns the largest power of two up to n: a few sizes keep the number of prepared statements small.
func batchSize(n int) int { return 1 << (bits.Len(uint(n)) - 1) }

// chain returns the hash of a record: HMAC-SHA256 over its fields, each preceded by its length, and the previous hash.
func (r AuditRecord) chain(key []byte) string {
	h := hmac.New(sha256.New, key)
	number := make([]byte, 8)
	for _, n := range []int64{r.Seq, r.Time.UnixMilli()} {
		binary.BigEndian.PutUint64(number, uint64(n))
		h.Write(number)
	}
	for _, field := range []string{r.Type, r.Actor, r.Target, r.Reason, string(r.Details), r.PrevHash} {
		binary.BigEndian.PutUint64(number, uint64(len(field)))
		h.Write(number)
		h.Write([]byte(field))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Intact reports whether keyturn wrote a record, and nobody has changed it. It does not check the rest of the chain.
func (a Audit) Intact(r AuditRecord) bool {
	key := a.db.auditKey.Load()
	return key != nil && hmac.Equal([]byte(r.Hash), []byte(r.chain(*key)))
}

// AuditTypes are the types of all records that keyturn writes.
var AuditTypes = []string{
	"admin.add-passkey", "admin.create", "admin.delete", "admin.disable", "admin.link", "admin.refuse",
	"admin.remove-passkey", "admin.sign-in", "admin.sign-out",
	"client.create", "client.delete", "client.disable", "client.enable", "client.revoke-grants",
	"client.rotate-secret", "client.update", "database.copy", "database.restore", "grant.ahead", "grant.late-retry",
	"grant.reuse", "grant.revoke", "grant.revoke-all", "grant.revoke-key", "key.begin", AuditForgery, "key.publish",
	"key.restore",
	"key.retire", "key.revoke", "key.rewrap", "key.rotate", "probe.begin", "probe.end",
	"secret.add", "secret.retire", "secret.rewrap",
	"user.create", "user.delete", "user.disable", "user.enable", "user.import", "user.passwd", "user.revoke-grants",
	"user.unlock", "user.update", "verifier.create", "verifier.delete",
}

// AuditFilter narrows Pages. The zero value selects all records.
type AuditFilter struct {
	After         int64 // number of a record, which comes before the first; 0: none
	Since, Until  time.Time
	Type          string
	Actor, Target string
	Newest        bool // the newest come first
}

// indexed returns the column by which the filter finds records, and its value; "" if by number alone.
func (f AuditFilter) indexed() (column, value string) {
	switch {
	case f.Target != "":
		return "target", f.Target
	case f.Actor != "":
		return "actor", f.Actor
	case f.Type != "":
		return "type", f.Type
	}
	return "", ""
}

const auditSelect = `SELECT seq, time, type, actor, target, reason, details, prev_hash, hash FROM audit `

// Pages hands the records, oldest first and page by page, to do, until that returns an error.
func (a Audit) Pages(ctx context.Context, f AuditFilter, do func([]AuditRecord) error) error {
	for {
		page, next, err := a.Page(ctx, f, engine.PageRows)
		if err != nil {
			return err
		}
		if len(page) > 0 {
			if err := do(page); err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
		f.After = next
	}
}

// Page reads the first records of a filter, at most limit. next is the number to go on after; 0 if there are no more. A
// page may have fewer rows than limit, or none, although there are more: it examines a bounded number of records.
func (a Audit) Page(ctx context.Context, f AuditFilter, limit int) (page []AuditRecord, next int64, err error) {
	since, until := int64(math.MinInt64), int64(math.MaxInt64)
	if !f.Since.IsZero() {
		since = f.Since.UnixMilli()
	}
	if !f.Until.IsZero() {
		until = f.Until.UnixMilli()
	}
	after, order, end := f.After, ` seq > $1`, `MAX`
	if f.Newest {
		after, order, end = cmp.Or(after, math.MaxInt64), ` seq < $1`, `MIN`
	}
	column, value := f.indexed()
	from := ` FROM audit WHERE` + order + ` AND $2 = '' `
	if column != "" {
		from = ` FROM audit WHERE` + order + ` AND ` + column + ` = $2 `
	}
	by := `ORDER BY seq `
	if f.Newest {
		by += `DESC `
	}
	type found struct {
		Last int64 `db:"last"`
		N    int   `db:"n"`
	}
	ends, err := engine.ReadSlowly[found](ctx, a.db.engine, engine.PageTimeout, "audit records",
		`SELECT COALESCE(`+end+`(seq), 0) AS last, COUNT(*) AS n FROM (SELECT seq`+from+by+`LIMIT $3) span`,
		after, value, engine.SparseRows)
	if err != nil || ends[0].N == 0 {
		return nil, 0, err
	}
	low, high := min(after, ends[0].Last), max(after, ends[0].Last)
	page, err = engine.ReadSlowly[AuditRecord](ctx, a.db.engine, engine.PageTimeout, "audit records",
		auditSelect+strings.TrimPrefix(from, ` FROM audit `)+`AND seq >= $3 AND seq <= $4 AND time >= $5 AND time < $6
		AND ($7 = '' OR type = $7) AND ($8 = '' OR actor = $8) AND ($9 = '' OR target = $9) `+by+`LIMIT $10`,
		after, value, low, high, since, until, f.Type, f.Actor, f.Target, limit+1)
	switch {
	case err != nil:
		return nil, 0, err
	case len(page) > limit:
		return page[:limit], page[limit-1].Seq, nil
	case ends[0].N == engine.SparseRows:
		next = ends[0].Last
	}
	return page, next, nil
}

// LastOf returns the newest record of a noun, for instance client, and of a target, unless that is "". ErrNotFound.
func (a Audit) LastOf(ctx context.Context, noun, target string) (r AuditRecord, err error) {
	const newest = ` ORDER BY seq DESC LIMIT 1`
	if target != "" {
		return r, a.db.engine.Get(ctx, "audit record", &r, auditSelect+`WHERE target = $1 AND type LIKE $2`+newest,
			target, noun+".%")
	}
	types, args := []string{}, []any{}
	for _, kind := range AuditTypes {
		if strings.HasPrefix(kind, noun+".") {
			args = append(args, kind)
			types = append(types, fmt.Sprintf("(SELECT MAX(seq) FROM audit WHERE type = $%d)", len(args)))
		}
	}
	return r, a.db.engine.Get(ctx, "audit record", &r, auditSelect+`WHERE seq IN (`+strings.Join(types, ", ")+`)`+
		newest, args...)
}

// Actors lists the different actors of the trail. It reads the whole trail.
func (a Audit) Actors(ctx context.Context) ([]string, error) {
	return engine.ReadSlowly[string](ctx, a.db.engine, engine.PageTimeout, "actors",
		`SELECT DISTINCT actor FROM audit ORDER BY actor LIMIT $1`, engine.PageRows)
}

// maxAlarms bounds the records that Alarms returns.
const maxAlarms = 1000

// Alarms returns the first records of a range of numbers that whoever watches the logs must see: changes of keys, the
// end of all logins, a restore, disabled users, and new admins.
func (a Audit) Alarms(ctx context.Context, after, until int64) (records []AuditRecord, err error) {
	err = a.db.engine.Report(ctx, "audit alarms", &records, auditSelect+`WHERE seq > $1 AND seq <= $2
		AND (type LIKE 'key.%' OR type IN ('database.restore', 'grant.revoke-all', 'user.disable', 'admin.create',
		'admin.link')) ORDER BY seq LIMIT $3`, after, until, maxAlarms)
	return records, err
}

// Head returns the number and the hash of the newest record; 0 if there is none.
func (a Audit) Head(ctx context.Context) (seq int64, hash string, err error) {
	var head AuditRecord
	err = a.db.engine.Get(ctx, "audit head", &head, `SELECT seq, hash FROM audit_head WHERE id = 1`)
	return head.Seq, head.Hash, err
}

// Hash returns the hash of one record. ErrNotFound.
func (a Audit) Hash(ctx context.Context, seq int64) (hash string, err error) {
	return hash, a.db.engine.Get(ctx, "audit record", &hash, `SELECT hash FROM audit WHERE seq = $1`, seq)
}

// HasType reports whether the trail has a record of the type. It may read the whole trail.
func (a Audit) HasType(ctx context.Context, kind string) (bool, error) {
	var seqs []int64
	err := a.db.engine.Report(ctx, "audit record", &seqs,
		`SELECT seq FROM audit WHERE type = $1 ORDER BY seq LIMIT 1`, kind)
	return len(seqs) > 0, err
}

// Each hands every record, oldest first, to do, until that returns an error.
func (a Audit) Each(ctx context.Context, do func(AuditRecord) error) error {
	return a.Pages(ctx, AuditFilter{}, func(page []AuditRecord) error {
		for _, r := range page {
			if err := do(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Verify checks the chain from its first record to its head. It returns how many records are intact, and an error that
// names the first that is not.
func (a Audit) Verify(ctx context.Context) (n int64, err error) {
	key := a.db.auditKey.Load()
	if key == nil {
		return 0, errors.New("audit: no key to check the chain with")
	}
	head, hash, err := a.Head(ctx) // read first: later records follow the head
	if err != nil {
		return 0, err
	}
	previous, passed := "", head == 0 && hash == ""
	err = a.Each(ctx, func(r AuditRecord) error {
		if r.Seq != n+1 || r.PrevHash != previous || !hmac.Equal([]byte(r.Hash), []byte(r.chain(*key))) {
			return fmt.Errorf("audit: record %d is not as it was written, or one before it is missing", r.Seq)
		}
		n, previous = r.Seq, r.Hash
		passed = passed || n == head && previous == hash
		return nil
	})
	if err == nil && !passed {
		err = fmt.Errorf("audit: the trail ends at record %d, its head says %d", n, head)
	}
	return n, err
}
