package console

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// keyCalls are the requests for keys.
type keyCalls struct{ *call }

func (k keyCalls) listKeys() (any, error) {
	a := k.reads().Keys()
	return answer{body: page{Items: a.Rows(k.c.liveTokens(k.r.Context()))}, tag: a.Version()}, nil
}

func (k keyCalls) keyStatus() (any, error) {
	a := k.reads().Keys()
	s, err := a.Status(k.r.Context())
	return answer{body: s, tag: a.Version()}, err
}

func (k keyCalls) keyReadiness() (any, error) { return k.reads().Keys().Readiness(k.r.Context()) }

func (k keyCalls) keyTimeline() error {
	q := k.query("from", "to", "incident")
	span := admin.TimelineSpan{From: q.moment("from"), To: q.moment("to"), Incident: q.flag("incident")}
	if q.err != nil {
		return q.err
	}
	lives, view, _, err := k.reads().Keys().Timeline(k.r.Context(), span)
	if err != nil {
		return err
	}
	k.w.Header().Set("Content-Type", "image/svg+xml")
	k.w.Write(TimelineSVG(lives, view))
	k.note("ok")
	return nil
}

// rotation is the body of POST keys/rotate.
type rotation struct {
	change
	DryRun    bool     `json:"dry_run"`
	Force     bool     `json:"force"`
	WhenReady bool     `json:"when_ready"`
	Except    []string `json:"except"`
}

func (o rotation) gate() admin.Gate {
	return admin.Gate{Force: o.Force, WhenReady: o.WhenReady, Except: o.Except}
}

func (o rotation) check() error {
	switch {
	case o.Force && o.WhenReady:
		return problem(http.StatusUnprocessableEntity, "invalid",
			"force and when_ready contradict each other: name one")
	case len(o.Except) > 0 && !o.WhenReady:
		return problem(http.StatusUnprocessableEntity, "invalid", "except needs when_ready")
	}
	return nil
}

func (k keyCalls) rotateKeys() (any, error) {
	var o rotation
	if err := k.readPlan(&o, func() bool { return o.DryRun }); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.DryRun {
		return k.reads().Keys().PlanRotation(k.r.Context(), o.gate())
	}
	return k.rotate(o)
}

// readPlan is readOrder, but a plan changes nothing and needs neither reason nor If-Match.
func (k keyCalls) readPlan(o order, dry func() bool) error {
	err := k.readOrder(o)
	if dry() {
		if p, _ := problemOf(err); err != nil && (p.name == "no-reason" || p.name == "no-if-match") {
			return nil
		}
	}
	return err
}

// rotate makes the next key current.
func (k keyCalls) rotate(o rotation) (answer, error) {
	a, err := k.admin(o.Reason, o.saw)
	if err != nil {
		return answer{}, err
	}
	done, err := a.Keys().Rotate(k.r.Context(), o.gate())
	if err != nil {
		return answer{}, k.changedBy(err, "key", "")
	}
	a.Remember(k.r.Context())
	return answer{body: done, tag: a.Keys().Version()}, nil
}

func (k keyCalls) keyExposure() (any, error) {
	q := k.query("since")
	since := q.moment("since")
	if q.err != nil {
		return nil, q.err
	}
	a := k.reads().Keys()
	kid, err := a.Resolve(k.vars("kid"))
	if err != nil {
		return nil, err
	}
	use, err := a.Use(k.r.Context(), []string{kid}, since, nil)
	return page{Items: use}, err
}

// revocation is the body of POST keys/{kid}/revoke.
type revocation struct {
	change
	KID       string    `json:"kid"` // typed again
	Since     time.Time `json:"since"`
	EndGrants string    `json:"end_grants"`
}

// minTyped is how much of a kid a person must type.
const minTyped = 8

// confirmed requires the kid again, or its beginning: nobody revokes a key by a slip.
func (o revocation) confirmed(kid string, now time.Time) error {
	if len(o.KID) < minTyped || !strings.HasPrefix(kid, o.KID) {
		return problem(http.StatusUnprocessableEntity, "kid-not-typed",
			"type the kid of the key, or at least its first "+
				"%d characters: %s", minTyped, kid[:minTyped])
	}
	if o.Since.After(now) {
		return problem(http.StatusUnprocessableEntity, "invalid", "the time of the leak lies in the future")
	}
	switch o.EndGrants {
	case admin.EndNone, admin.EndAll:
		return nil
	case admin.EndSince:
		if !o.Since.IsZero() {
			return nil
		}
		return problem(http.StatusUnprocessableEntity, "invalid", "to end the logins used since the leak, "+
			"give its time (since)")
	}
	return problem(http.StatusUnprocessableEntity, "invalid", "end_grants: want since or all")
}

func (k keyCalls) revokeKey() (any, error) {
	var o revocation
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	kid, err := k.reads().Keys().Resolve(k.vars("kid"))
	if err != nil {
		return nil, err
	}
	return k.revoke(kid, o)
}

// revocationTimeout bounds a revocation with the logins that it ends.
const revocationTimeout = 10 * time.Minute

// revoke revokes a leaked key.
func (k keyCalls) revoke(kid string, o revocation) (answer, error) {
	if err := o.confirmed(kid, k.c.Now()); err != nil {
		return answer{}, err
	}
	a, err := k.admin(o.Reason, o.saw)
	if err != nil {
		return answer{}, err
	}
	// A revocation goes on if the browser that has begun it goes away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.r.Context()), revocationTimeout)
	defer cancel()
	report, err := a.Keys().Execute(ctx, admin.RevocationOrder{
		KID:       kid,
		Since:     o.Since,
		EndGrants: o.EndGrants,
	}, nil)
	if err != nil && report.RevokedAt.IsZero() {
		return answer{}, k.changedBy(err, "key", "")
	}
	if err != nil {
		k.c.Log.Error("the key is revoked, but not everything else was done", "error", err.Error())
		return answer{}, problem(http.StatusInternalServerError, halfDone, "the key is revoked, but not everything "+
			"else was done: repeat the request")
	}
	return answer{body: report, tag: a.Keys().Version()}, nil
}
