package storage

import (
	"context"
	"time"
)

// ProbeRun is a probe that is running, with the client and the user that exist for it alone.
type ProbeRun struct {
	ID      int64
	Of      string // the resource server that is probed
	Client  Client
	User    User
	Details map[string]any // for the audit record
	Expires time.Time      // a run that is not over then was killed
}

// ProbeReport is what a probe of a resource server found.
type ProbeReport struct {
	ID       int64  `db:"id" json:"id"`
	ClientID string `db:"client_id" json:"client_id"`
	At       Time   `db:"at" json:"at"`
	// the key that signs next, if the API accepted a token of it; else ""
	NextKID  string `db:"next_kid" json:"next_kid"`
	Resource string `db:"resource" json:"resource"` // of the resource server, then
	Report   Object `db:"report" json:"report"`
}

// MaxProbeReports is how many reports of a resource server are kept.
const MaxProbeReports = 10

// Probes are the tables of probes.
type Probes struct{ db *DB }

// Probes returns the tables of probes.
func (d *DB) Probes() Probes { return Probes{d} }

// Begin writes the audit record of a run, and creates its client and its user. It returns the run with their ids.
func (p Probes) Begin(ctx context.Context, by Actor, run ProbeRun, now time.Time) (ProbeRun, error) {
	run.ID, run.User.ID = randomID(), randomID()
	err := p.db.inTx(ctx, "probe", func(t *tx) error {
		if err := t.insertClient(run.Client); err != nil {
			return err
		}
		if err := t.insertUser(run.User); err != nil {
			return err
		}
		if _, err := t.Change(`INSERT INTO probe_runs (id, client_id, user_id, expires_at) VALUES ($1, $2, $3, $4)`,
			run.ID, run.Client.ID, run.User.ID, At(run.Expires)); err != nil {
			return err
		}
		return t.audit(by, now, Event{"probe.begin", run.Of, run.Details})
	})
	return run, err
}

// EndLogin ends a login of a run, as /revoke does, and without an audit record of its own.
func (p Probes) EndLogin(ctx context.Context, id GrantID, now time.Time) error {
	return p.db.inTx(ctx, "probe", func(t *tx) error {
		if _, err := t.endGrants(now, `UPDATE grants SET revoked_at = $1, revoked_reason = 'probe'
			WHERE id = $2 AND revoked_at IS NULL`, At(now), id); err != nil {
			return err
		}
		return t.noteStatusChange()
	})
}

// End writes the audit record of the end of a run, keeps its report, and deletes what existed for the run alone.
func (p Probes) End(
	ctx context.Context, by Actor, run ProbeRun, report ProbeReport, details map[string]any, now time.Time,
) error {
	return p.db.inTx(ctx, "probe", func(t *tx) error {
		if err := t.removeRun(run.ID); err != nil {
			return err
		}
		if _, err := t.Change(`INSERT INTO probe_reports (id, client_id, at, next_kid, resource, report)
			VALUES ($1, $2, $3, $4, $5, $6)`,
			randomID(), run.Of, At(now), report.NextKID, report.Resource, string(report.Report)); err != nil {
			return err
		}
		if _, err := t.Change(`DELETE FROM probe_reports WHERE client_id = $1 AND id NOT IN
			(SELECT id FROM probe_reports WHERE client_id = $1 ORDER BY at DESC, id LIMIT $2)`,
			run.Of, MaxProbeReports); err != nil {
			return err
		}
		return t.audit(by, now, Event{"probe.end", run.Of, details})
	})
}

// removeRun deletes a run, and its client, its user, their logins and their status lists.
func (t *tx) removeRun(id int64) error {
	const client = `(SELECT client_id FROM probe_runs WHERE id = $1)`
	const user = `(SELECT user_id FROM probe_runs WHERE id = $1)`
	const lists = `(SELECT id FROM status_lists WHERE client_id = ` + client + `)`
	for _, statement := range []string{
		`DELETE FROM grants WHERE user_id = ` + user,
		`DELETE FROM users WHERE id = ` + user,
		`DELETE FROM clients WHERE id = ` + client,
		`DELETE FROM status_marks WHERE list IN ` + lists,
		`DELETE FROM status_ranges WHERE list IN ` + lists,
		`DELETE FROM status_lists WHERE client_id = ` + client,
		`DELETE FROM probe_runs WHERE id = $1`,
	} {
		if _, err := t.Change(statement, id); err != nil {
			return err
		}
	}
	return nil
}

// Clean removes what runs that were killed have left.
func (p Probes) Clean(ctx context.Context, now time.Time) error {
	var over []int64
	if err := p.db.engine.AllForUpkeep(ctx, "probes", &over, `SELECT id FROM probe_runs WHERE expires_at < $1
		ORDER BY id LIMIT 100`, At(now)); err != nil || len(over) == 0 {
		return err
	}
	return p.db.inTx(ctx, "clean probes", func(t *tx) error {
		for _, id := range over {
			if err := t.removeRun(id); err != nil {
				return err
			}
		}
		return nil
	})
}

// Reports reads the reports of a resource server, the newest first.
func (p Probes) Reports(ctx context.Context, clientID string) (reports []ProbeReport, err error) {
	return reports, p.db.engine.Report(ctx, "probe reports", &reports, `SELECT id, client_id, at, next_kid, resource,
		report FROM probe_reports WHERE client_id = $1 ORDER BY at DESC, id`, clientID)
}

// Newest reads the newest report of each resource server after an id, ordered by id, at most limit.
func (p Probes) Newest(ctx context.Context, after string, limit int) (reports []ProbeReport, err error) {
	return reports, p.db.engine.Report(ctx, "probe reports", &reports, `SELECT id, client_id, at, next_kid, resource,
		report FROM probe_reports r WHERE client_id > $1 AND id = (SELECT id FROM probe_reports
		WHERE client_id = r.client_id ORDER BY at DESC, id LIMIT 1) ORDER BY client_id LIMIT $2`, after, limit)
}

// Accepted returns the resources whose resource server has accepted a token of a key before it signs, each with the
// last time.
func (p Probes) Accepted(ctx context.Context, kid string) (map[string]time.Time, error) {
	var rows []struct {
		Resource string `db:"resource"`
		At       Time   `db:"at"`
	}
	err := p.db.engine.AllForUpkeep(ctx, "probe reports", &rows, `SELECT resource, MAX(at) AS at FROM probe_reports
		WHERE next_kid = $1 GROUP BY resource`, kid)
	found := map[string]time.Time{}
	for _, row := range rows {
		found[row.Resource] = row.At.UTC()
	}
	return found, err
}
