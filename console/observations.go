package console

import (
	"slices"

	"github.com/keyturn/keyturn/admin"
)

// observationCalls are the requests for verifiers and probe reports.
type observationCalls struct{ *call }

func (k observationCalls) listVerifiers() (any, error) {
	q := k.query("after")
	after := q.text("after")
	if q.err != nil {
		return nil, q.err
	}
	p, err := k.reads().Verifiers().Page(k.r.Context(), after)
	return pageOf(p, itself), err
}

func (k observationCalls) listProbeReports() (any, error) {
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

// verifiersData is the input of the page of verifiers and probe reports.
type verifiersData struct {
	listData
	Readiness *admin.Readiness // nil: unknown
	Reports   []admin.ProbeReport
}

// Reading returns what is known of a verifier; nil if nothing is.
func (d verifiersData) Reading(name string) *admin.VerifierReading {
	if d.Readiness == nil {
		return nil
	}
	i := slices.IndexFunc(d.Readiness.Verifiers, func(v admin.VerifierReading) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &d.Readiness.Verifiers[i]
}

func (k observationCalls) verifiersPage() error {
	k.cleared()
	q := k.query("after")
	after := q.text("after")
	if q.err != nil {
		return q.err
	}
	ctx := k.r.Context()
	p, err := k.reads().Verifiers().Page(ctx, after)
	if err != nil {
		return err
	}
	d := verifiersData{listData: listData{Rows: p.Rows, Empty: len(p.Rows) == 0, Next: k.nextURL(p.Next)}}
	if r, err := k.reads().Keys().Readiness(ctx); err == nil {
		d.Readiness = &r
	} else {
		k.say("Who has the next key could not be read.")
	}
	reports, err := k.reads().Probes().Newest(ctx, "")
	if err != nil {
		return err
	}
	d.Reports = reports.Rows
	return k.show("verifiers", view{Title: "Verifiers", Nav: "verifiers", Data: d})
}

func (k observationCalls) probePage() error {
	reports, err := k.reads().Probes().Reports(k.r.Context(), k.vars("id"))
	if err != nil {
		return err
	}
	return k.show("probe", view{Title: "Probe of " + k.vars("id"), Nav: "verifiers", Data: map[string]any{
		"ID":      k.vars("id"),
		"Reports": reports,
	}})
}
