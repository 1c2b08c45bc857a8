package console

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// incident is the bar of a leak: until its exposure is over, and for as long as a registered verifier trusts a revoked
// key.
type incident struct {
	admin.KeyIncident
	KIDs      []string // revoked keys whose exposure lasts; else the last one
	Verifiers []admin.Aftermath
	Unread    bool     // who still trusts the keys could not be read
	Undecided []string // leaked keys whose logins nobody has ended
}

// incidentMemory is how long after a revocation the bar asks who still trusts the key: fetches are kept as long.
const incidentMemory = 30 * 24 * time.Hour

// incident returns the incident that lasts; nil if there is none.
func (k *call) incident() *incident {
	a, now := k.reads().Keys(), k.c.Now()
	last := a.Incident()
	if last == nil || now.Sub(last.RevokedAt) > incidentMemory {
		return nil
	}
	i := &incident{KeyIncident: *last}
	var newest string
	for _, key := range a.List() {
		if key.RevokedAt != nil && key.RevokedAt.Equal(last.RevokedAt) {
			newest = key.KID
		}
		if key.RevokedAt != nil && key.ExposedUntil != nil && key.ExposedUntil.After(now) {
			i.KIDs = append(i.KIDs, key.KID)
		}
	}
	if len(i.KIDs) == 0 {
		i.KIDs = []string{newest}
	}
	for _, kid := range i.KIDs {
		if k.endingOf(kid) == nil {
			i.Undecided = append(i.Undecided, kid)
		}
	}
	var err error
	i.Verifiers, err = a.StillTrusting(k.r.Context(), newest)
	i.Unread = err != nil
	trusting := slices.ContainsFunc(i.Verifiers, func(v admin.Aftermath) bool { return v.Trusts })
	if last.Over && !trusting {
		return nil
	}
	return i
}

// endingOf returns the audit record of the end of the logins of a key; nil if there is none, or it could not be read.
func (k *call) endingOf(kid string) *admin.AuditRecord {
	p, err := k.reads().Audit().Page(k.r.Context(), admin.AuditFilter{
		Type:   "grant.revoke-key",
		Target: kid,
		Newest: true,
	})
	if err != nil || len(p.Rows) == 0 {
		return nil
	}
	return &p.Rows[0]
}

// keysData is the input of the page of the keys.
type keysData struct {
	Status    admin.KeyStatus
	Rows      []admin.KeyRow
	Lives     map[string]admin.KeyLife
	Timeline  template.HTML
	Readiness *admin.Readiness // nil: unknown
	Altered   string           // why the rows are not used
	Version   int64
	RotateNow string // why a rotation is refused now; "": it is not
	Forcible  bool   // force would override that
	Unready   string // registered verifiers that are not ready
}

func (k keyCalls) keysPage() error {
	a, ctx := k.reads().Keys(), k.r.Context()
	d := keysData{Version: a.Version(), Lives: map[string]admin.KeyLife{}}
	status, err := a.Status(ctx)
	if err != nil {
		return err
	}
	d.Status = status
	d.Rows = a.Rows(k.c.liveTokens(ctx))
	for _, l := range a.Lives() {
		d.Lives[l.KID] = l
	}
	if err := a.Intact(); err != nil {
		d.Altered = err.Error()
	} else if d.Timeline, err = k.timeline(nil); err != nil {
		return err
	}
	if r, err := a.Readiness(ctx); err == nil {
		d.Readiness, d.Unready = &r, unready(r)
	} else {
		k.say("Who has the next key could not be read.")
	}
	if _, err := a.PlanRotation(ctx, admin.Gate{}); err != nil {
		p, _ := problemOf(err)
		d.RotateNow, d.Forcible = p.Detail, admin.ErrRefused(err)
	}
	d.Status.Sentence = k.shortened(d.Status.Sentence, d.Rows)
	d.RotateNow = k.shortened(d.RotateNow, d.Rows)
	return k.show("keys", view{Title: "Keys", Nav: "keys", Data: d, Live: k.fingerprint(d)})
}

// shortened shortens the kids in a text: the table has them whole.
func (k keyCalls) shortened(text string, rows []admin.KeyRow) string {
	for _, row := range rows {
		text = strings.ReplaceAll(text, row.KID, admin.ShortKID(row.KID))
	}
	return text
}

// unready lists the registered verifiers that are not ready, with the verdict on each.
func unready(r admin.Readiness) string {
	var names []string
	for _, v := range r.Verifiers {
		if v.Verdict != admin.VerdictReady {
			names = append(names, fmt.Sprintf("%s (%s)", v.Name, v.Verdict))
		}
	}
	return strings.Join(names, ", ")
}

// fingerprint changes when the page of the keys shows something else, apart from its clocks.
func (k keyCalls) fingerprint(d keysData) string {
	h := sha256.New()
	e := json.NewEncoder(h)
	e.Encode(d.Version)
	e.Encode(d.Status)
	if d.Readiness != nil {
		for _, v := range d.Readiness.Verifiers {
			e.Encode([]string{v.Name, string(v.Verdict)})
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// live says whether a page still shows what is so. It does not keep the session alive.
func (k keyCalls) live() error {
	a, ctx := k.reads().Keys(), k.r.Context()
	now := map[string]string{"version": decimal(a.Version())}
	if k.r.URL.Query().Has("keys") {
		d := keysData{Version: a.Version()}
		var err error
		if d.Status, err = a.Status(ctx); err != nil {
			return err
		}
		if r, err := a.Readiness(ctx); err == nil {
			d.Readiness = &r
		}
		d.Status.Sentence = k.shortened(d.Status.Sentence, a.Rows(nil))
		now["live"] = k.fingerprint(d)
	}
	body, err := json.Marshal(now)
	if err != nil {
		return err
	}
	k.writeJSON(http.StatusOK, body)
	return nil
}

// timeline draws the keys for a page. lives are those to draw; nil: the present ones.
func (k keyCalls) timeline(lives []admin.KeyLife) (template.HTML, error) {
	present, v, _, err := k.reads().Keys().Timeline(k.r.Context(), admin.TimelineSpan{})
	if err != nil {
		return "", err
	}
	if lives == nil {
		lives = present
	} else {
		v = admin.WholeView(lives, k.c.Now())
	}
	svg := bytes.Replace(TimelineSVG(lives, v), []byte("<svg "), []byte(`<svg class="timeline" `), 1)
	return template.HTML(svg), nil
}

// rotateData is the input of the page of a rotation.
type rotateData struct {
	Version int64
	Plan    *admin.PlannedRotation // nil: refused
	Refused string                 // why a rotation is refused without force
	Forced  bool                   // force would help
	Unready string                 // registered verifiers that are not ready
	Before  template.HTML
	After   template.HTML
}

func (k keyCalls) rotatePage() error {
	a, ctx := k.reads().Keys(), k.r.Context()
	d := rotateData{Version: a.Version()}
	plan, err := a.PlanRotation(ctx, admin.Gate{})
	if err != nil {
		p, internal := problemOf(err)
		if internal {
			return err
		}
		d.Refused, d.Forced = p.Detail, admin.ErrRefused(err)
		if d.Forced {
			plan, err = a.PlanRotation(ctx, admin.Gate{Force: true})
		}
	}
	if err == nil {
		d.Plan = &plan
		if d.After, err = k.timeline(plan.Lives); err != nil {
			return err
		}
	}
	if d.Before, err = k.timeline(nil); err != nil {
		return err
	}
	if r, err := a.Readiness(ctx); err == nil {
		d.Unready = unready(r)
	}
	return k.show("rotate", view{Title: "Rotate", Nav: "keys", Data: d})
}

// formChange reads what every form of a change has: its reason, and the revision that its page has shown.
func (k *call) formChange() (c change, err error) {
	if k.r.PostForm == nil {
		if err := k.parseForm(); err != nil {
			return c, err
		}
	}
	c.Reason = k.r.PostForm.Get("reason")
	if err := checkReason(c.Reason); err != nil {
		return c, err
	}
	c.saw, err = strconv.ParseInt(k.r.PostForm.Get("revision"), 10, 64)
	if err != nil || c.saw <= 0 {
		return c, problem(http.StatusBadRequest, "bad-form", "the form has no revision: open the page again")
	}
	return c, nil
}

func (k keyCalls) rotateForm() error {
	c, err := k.formChange()
	if err != nil {
		return err
	}
	o := rotation{change: c}
	switch k.r.PostForm.Get("gate") {
	case "ready":
		o.WhenReady = true
	case "force":
		o.Force = true
	}
	if _, err := k.rotate(o); err != nil {
		return err
	}
	return k.goTo("/keys", "rotated")
}

// revokeData is the input of the page of a revocation.
type revokeData struct {
	Version   int64
	Key       admin.SigningKey
	Plan      *admin.PlannedRevocation // nil: unknown
	Use       []admin.KeyUse
	Total     int64 // grants
	Tokens    int64
	Uncounted string
	Ending    *admin.AuditRecord // of the end of its logins; nil: nobody has ended them
}

// Typed is how much of the kid a person must type.
func (d revokeData) Typed() string { return d.Key.KID[:minTyped] }

func (d *revokeData) count(use []admin.KeyUse) {
	d.Use = use
	for _, u := range use {
		d.Total, d.Tokens = d.Total+u.Grants, d.Tokens+u.Tokens
	}
}

func (k keyCalls) revokePage() error {
	a, ctx := k.reads().Keys(), k.r.Context()
	kid, err := a.Resolve(k.vars("kid"))
	if err != nil {
		return err
	}
	d := revokeData{Version: a.Version()}
	for _, key := range a.List() {
		if key.KID == kid {
			d.Key = key
		}
	}
	if use, err := a.Use(ctx, []string{kid}, time.Time{}, nil); err != nil {
		d.Uncounted = "The use of the key could not be counted. Revoke it nevertheless if it has leaked."
		if errors.Is(err, admin.ErrTooSlow) {
			d.Uncounted = "The use of the key could not be counted in time. Revoke it nevertheless if it has leaked."
		}
	} else {
		d.count(use)
	}
	if plan, err := a.PlanRevocation(ctx, kid); err == nil || !plan.RevokedAt.IsZero() {
		d.Plan = &plan
	}
	d.Ending = k.endingOf(kid)
	return k.show("revoke", view{Title: "Revoke " + admin.ShortKID(kid), Nav: "keys", Data: d})
}

func (k keyCalls) revokeForm() error {
	c, err := k.formChange()
	if err != nil {
		return err
	}
	o := revocation{change: c, KID: k.r.PostForm.Get("kid"), EndGrants: k.r.PostForm.Get("end_grants")}
	if o.Since, err = sinceText(k.r.PostForm.Get("since"), k.c.Now()); err != nil {
		return err
	}
	kid, err := k.reads().Keys().Resolve(k.vars("kid"))
	if err != nil {
		return err
	}
	if _, err := k.revoke(kid, o); err != nil {
		return err
	}
	return k.goTo("/keys/"+url.PathEscape(kid)+"/revoke", "revoked")
}
