package console

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// auditCalls are the requests for the audit trail.
type auditCalls struct{ *call }

func (k auditCalls) listAudit() (any, error) {
	f, err := k.auditFilter()
	if err != nil {
		return nil, err
	}
	p, err := k.reads().Audit().Page(k.r.Context(), f)
	return pageOf(p, decimal), err
}

func (k auditCalls) auditFilter() (admin.AuditFilter, error) {
	q := k.query("after", "type", "actor", "target", "since", "until", "newest")
	f := admin.AuditFilter{
		After:  q.number("after"),
		Type:   q.text("type"),
		Actor:  q.text("actor"),
		Target: q.text("target"),
		Since:  q.moment("since"),
		Until:  q.moment("until"),
		Newest: q.flag("newest"),
	}
	if f.Type != "" && !slices.Contains(admin.AuditTypes, f.Type) {
		q.fail("type %q is unknown: for instance client.update or key.revoke", f.Type)
	}
	return f, q.err
}

func (k auditCalls) verifyAudit() (any, error) {
	n, err := k.verifyTrail()
	return map[string]int64{"records": n}, err
}

// verifyTrail checks the whole trail. One check runs at a time.
func (k auditCalls) verifyTrail() (int64, error) {
	if !k.c.verifying.TryLock() {
		return 0, problem(http.StatusConflict, "running", "somebody verifies the trail already: try again").
			with("Retry-After", "5")
	}
	defer k.c.verifying.Unlock()
	http.NewResponseController(k.w).SetWriteDeadline(time.Now().Add(verifyTimeout)) // a test has no connection
	return k.reads().Audit().Verify(k.r.Context())
}

// verifyTimeout is how long a check of the trail may take.
const verifyTimeout = 10 * time.Minute

// exportTimeout is how long an export may take. Every page extends the time in which the client must read it.
const exportTimeout = time.Minute

// exportAudit writes the whole trail, one JSON object on each line.
func (k auditCalls) exportAudit() error {
	k.w.Header().Set("Content-Type", "application/x-ndjson")
	k.w.Header().Set("Content-Disposition", `attachment; filename="keyturn-audit.ndjson"`)
	lines := json.NewEncoder(k.w)
	lines.SetEscapeHTML(false)
	control := http.NewResponseController(k.w)
	err := k.reads().Audit().Each(k.r.Context(), admin.AuditFilter{}, func(rows []admin.AuditRecord) error {
		control.SetWriteDeadline(time.Now().Add(exportTimeout)) // a test has no connection
		for _, r := range rows {
			if err := lines.Encode(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		k.c.Log.Error("the audit trail was exported in part", "error", err.Error())
		panic(http.ErrAbortHandler) // so that nobody takes it for complete
	}
	k.note("ok")
	return nil
}

func (k auditCalls) auditPage() error {
	k.cleared()
	verify := k.filter.Get("verify") != ""
	k.filter.Del("verify")
	k.filter.Set("newest", "true")
	f, err := k.auditFilter()
	if err != nil {
		return err
	}
	ctx := k.r.Context()
	p, err := k.reads().Audit().Page(ctx, f)
	if err != nil {
		return err
	}
	return list(k.call, "audit", view{Title: "Audit", Nav: "audit"}, p, decimal, func(d *listData) {
		d.Types = admin.AuditTypes
		if !verify {
			return
		}
		n, err := k.verifyTrail()
		if err != nil {
			d.Fault = err.Error()
			return
		}
		d.Verify = plural(n, "record", "records") + ", all unchanged."
	})
}
