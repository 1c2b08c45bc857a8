package console

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/keyturn/keyturn/admin"
)

func (k *call) listClients() (any, error) {
	q := k.query("after")
	after := q.text("after")
	if q.err != nil {
		return nil, q.err
	}
	p, err := k.reads().Clients().Page(k.r.Context(), after)
	return pageOf(p, itself), err
}

func (k *call) showClient() (any, error) {
	c, err := k.reads().Clients().Details(k.r.Context(), k.vars("id"))
	return answer{body: c, tag: c.Revision}, err
}

func (k *call) listUsers() (any, error) {
	f, err := k.userFilter()
	if err != nil {
		return nil, err
	}
	p, err := k.reads().Users().Page(k.r.Context(), f)
	return pageOf(p, itself), err
}

func (k *call) userFilter() (admin.UserFilter, error) {
	q := k.query("after", "prefix", "role", "disabled")
	f := admin.UserFilter{
		After:    q.text("after"),
		Prefix:   q.text("prefix"),
		Role:     q.text("role"),
		Disabled: q.flag("disabled"),
	}
	return f, q.err
}

func (k *call) showUser() (any, error) {
	u, err := k.reads().Users().Details(k.r.Context(), k.vars("name"))
	return answer{body: u, tag: u.Revision}, err
}

func (k *call) listGrants() (any, error) {
	f, err := k.grantFilter()
	if err != nil {
		return nil, err
	}
	p, err := k.reads().Grants().Page(k.r.Context(), f)
	return pageOf(p, grantKey), err
}

func (k *call) grantFilter() (f admin.GrantFilter, err error) {
	q := k.query("after", "user", "client", "active", "ended", "since")
	f = admin.GrantFilter{
		Username: q.text("user"),
		ClientID: q.text("client"),
		Active:   q.flag("active"),
		Ended:    q.flag("ended"),
		Since:    q.moment("since"),
	}
	if f.Active && f.Ended {
		q.fail("active and ended exclude each other")
	}
	if after := q.text("after"); after != "" {
		if f.After, err = admin.ParseGrantID(after); err != nil {
			return f, err
		}
	}
	return f, q.err
}

func (k *call) showGrant() (any, error) {
	g, err := k.reads().Grants().Find(k.r.Context(), k.vars("id"))
	return answer{body: g, tag: grantTag(g)}, err
}

// grantTag is the revision of a grant for If-Match: it changes when the grant ends.
func grantTag(g admin.Grant) int64 {
	if g.EndedReason != nil {
		return 2
	}
	return 1
}

func (k *call) listVerifiers() (any, error) {
	q := k.query("after")
	after := q.text("after")
	if q.err != nil {
		return nil, q.err
	}
	p, err := k.reads().Verifiers().Page(k.r.Context(), after)
	return pageOf(p, itself), err
}

func (k *call) listProbeReports() (any, error) {
	q := k.query("after", "client")
	after, client := q.text("after"), q.text("client")
	if q.err != nil {
		return nil, q.err
	}
	if client != "" {
		reports, err := k.reads().Probes().Reports(k.r.Context(), client)
		return pageOf(admin.Page[admin.ProbeReport, string]{Rows: reports}, itself), err
	}
	p, err := k.reads().Probes().Newest(k.r.Context(), after)
	return pageOf(p, itself), err
}

func (k *call) listAudit() (any, error) {
	f, err := k.auditFilter()
	if err != nil {
		return nil, err
	}
	p, err := k.reads().Audit().Page(k.r.Context(), f)
	return pageOf(p, decimal), err
}

func (k *call) auditFilter() (admin.AuditFilter, error) {
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
	return f, q.err
}

func (k *call) verifyAudit() (any, error) {
	n, err := k.verifyTrail()
	return map[string]int64{"records": n}, err
}

// verifyTrail checks the whole trail. One check runs at a time.
func (k *call) verifyTrail() (int64, error) {
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
func (k *call) exportAudit() error {
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
