package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/probe"
	"github.com/keyturn/keyturn/statuslist"
	"github.com/keyturn/keyturn/storage"
)

// Probes acts on probes: questions to an API, over HTTP, which tokens it accepts.
type Probes struct{ *core }

// Probes acts on probes.
func (a *Admin) Probes() Probes { return Probes(*a) }

// ProbeSpec describes a probe.
type ProbeSpec struct {
	ID         string // of the resource server
	URL        string // of its API, where a good token is accepted
	Scope      string // of the good token
	Next       bool   // with a token of the next key
	Revocation bool   // also end a login, and measure how long its token is accepted
	Endless    bool   // with a token without exp

	Transport func() *http.Transport                  // nil: one with the authorities of the system
	Pause     time.Duration                           // between requests; 0: half a second
	Settle    time.Duration                           // until servers have written who fetched the keys; 0: 11 s
	Generate  func(bits int) (*rsa.PrivateKey, error) // nil: rsa.GenerateKey
}

// ProbeReport is the report of a probe.
type ProbeReport struct {
	ClientID string       `json:"client_id"`
	At       storage.Time `json:"at"`
	probe.Report
	Promise EndedLogin `json:"ended_login_accepted_for"` // by the settings, beside the measured revocation
	// keys readiness counts the accepted token of the next key: the URL is at the recorded origin
	Booked bool `json:"counts_for_readiness"`
}

const (
	probeSpan    = 5 * time.Minute  // after it, a run was killed
	probeMargin  = 30 * time.Second // before it, a run that is too slow is broken off
	probePrefix  = "keyturn-probe-"
	probeEnd     = 10 * time.Second // the time limit of the end of a run
	otherTargets = "urn:keyturn:probe:"
)

// Run probes an API. It returns ErrNotFound if there is no such resource server, and ErrRefused if a guard refuses:
// then the API has got no token. The report of every other run is kept.
func (a Probes) Run(ctx context.Context, spec ProbeSpec) (ProbeReport, error) {
	rs, err := a.resourceServer(ctx, spec.ID)
	if err != nil {
		return ProbeReport{}, err
	}
	for _, word := range strings.Fields(spec.Scope) {
		if !api.IsScopeToken(word) {
			return ProbeReport{}, invalid("scope %q: want printable ASCII without \" and \\", word)
		}
	}
	spec.Scope = strings.Join(strings.Fields(spec.Scope), " ")
	if a.config.Issuer == "" {
		return ProbeReport{}, invalid("issuer: no server has run with this database yet: start one, or set --issuer")
	}
	prepared, err := probe.Prepare(ctx, probe.Plan{
		Consent: probe.Consent{
			Origin:   rs.ProbeOrigin,
			ID:       rs.ID,
			Issuer:   a.config.Issuer,
			Resource: rs.Resource,
		},
		URL:        spec.URL,
		Scope:      spec.Scope,
		Endless:    spec.Endless,
		Revocation: spec.Revocation,
		Now:        a.now,
		Transport:  spec.Transport,
		Pause:      spec.Pause,
		Generate:   spec.Generate,
	})
	if err != nil {
		return ProbeReport{}, guarded(err)
	}
	r := &probeRun{core: a.core, spec: spec, rs: rs}
	if err := r.signers(ctx); err != nil {
		return ProbeReport{}, err
	}
	return r.present(ctx, prepared)
}

// guarded turns the refusal of a guard into ErrRefused.
func guarded(err error) error {
	var guard *probe.GuardError
	if errors.As(err, &guard) {
		return refusal{err}
	}
	return err
}

// resourceServer finds a client that is a resource server.
func (a *core) resourceServer(ctx context.Context, id string) (Client, error) {
	c, err := a.db.Clients().ByID(ctx, id)
	if err == nil && c.Resource == "" {
		return c, fmt.Errorf("%w: client %s is no resource server: it has no --resource", ErrNotFound, id)
	}
	return c, a.missing(ctx, "client", id, err)
}

// probeRun is one run, with what exists for it alone.
type probeRun struct {
	*core
	spec    ProbeSpec
	rs      Client
	signer  probeSigner
	next    probe.Signer // nil: without
	run     storage.ProbeRun
	place   *storage.StatusRange // nil: tokens have no status
	scatter statuslist.Scatter
	places  int64 // given so far
}

// probeSigner signs what probe asks for.
type probeSigner struct{ keys.ProbeSigner }

// Sign implements probe.Signer.
func (s probeSigner) Sign(h probe.Header, claims map[string]any) (string, error) {
	critical := ""
	if h.Critical {
		critical = probe.CriticalName
	}
	return s.ProbeSigner.Sign(h.Typ, critical, claims)
}

// signers makes the signers, and the names of the run.
func (r *probeRun) signers(ctx context.Context) error {
	name := probePrefix + strings.ToLower(rand.Text()[:10])
	now := storage.At(r.now())
	r.run = storage.ProbeRun{
		Of: r.rs.ID,
		Client: storage.Client{
			ID:        name,
			Audiences: storage.List{r.rs.Resource},
			Scope:     r.spec.Scope,
			TokenTyp:  string(keys.TypAccessToken),
			CreatedAt: now,
			UpdatedAt: now,
		},
		User:    storage.User{Sub: api.NewSub(), Username: name, CreatedAt: now},
		Expires: now.Add(probeSpan),
		Details: map[string]any{
			"url":          r.spec.URL,
			"scope":        r.spec.Scope,
			"next":         r.spec.Next,
			"revocation":   r.spec.Revocation,
			"with_endless": r.spec.Endless,
			"client":       name,
		},
	}
	bounds := keys.ProbeBounds{
		Subject:        r.run.User.Sub,
		ClientID:       name,
		Resource:       r.rs.Resource,
		OtherAudiences: otherTargets,
		Typs:           []string{string(keys.TypAccessToken), string(keys.TypJWT), probe.TypOther, ""},
		Lifetime:       probe.MaxLifetime,
		Endless:        r.spec.Endless,
	}
	current, err := r.ring.LifeCycle().ProbeSigner(ctx, bounds, false)
	if err != nil {
		return err
	}
	r.signer = probeSigner{current}
	if !r.spec.Next {
		return nil
	}
	next, err := r.ring.LifeCycle().ProbeSigner(ctx, bounds, true)
	if err == nil {
		r.next = probeSigner{next}
	}
	return err
}

// present begins the run, presents the tokens, and ends the run, whatever happens meanwhile.
func (r *probeRun) present(ctx context.Context, prepared *probe.Probe) (ProbeReport, error) {
	if err := r.db.Probes().Clean(ctx, r.now()); err != nil {
		return ProbeReport{}, err
	}
	run, err := r.db.Probes().Begin(ctx, r.by, r.run, r.now())
	if err != nil {
		return ProbeReport{}, err
	}
	r.run = run
	made := ProbeReport{ClientID: r.rs.ID, At: storage.At(r.now()), Promise: r.endedLogin(r.rs)}
	tokens, err := r.tokens(ctx)
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, probeSpan-probeMargin)
		made.Report, err = prepared.Run(bounded, tokens)
		cancel()
		origin, e := probe.Origin(r.spec.URL)
		made.Booked = e == nil && origin == r.rs.ProbeOrigin && made.NextOK && made.Stopped == "" && err == nil
	}
	var guard *probe.GuardError
	switch {
	case errors.As(err, &guard):
		made.Stopped = "it was broken off: " + guard.Reason
	case err != nil:
		made.Stopped = "it was broken off"
	}
	return made, errors.Join(guarded(err), r.end(ctx, made))
}

// end deletes what existed for the run, and keeps the report.
func (r *probeRun) end(ctx context.Context, made ProbeReport) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeEnd)
	defer cancel()
	text, err := json.Marshal(made)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	var red []string
	for _, result := range made.Results {
		if result.Red {
			red = append(red, result.ID)
		}
	}
	report := storage.ProbeReport{Report: text, Resource: r.rs.Resource}
	if made.Booked {
		report.NextKID = made.NextKID
	}
	return r.db.Probes().End(ctx, r.by, r.run, report, map[string]any{
		"url":      r.spec.URL,
		"requests": made.Requests,
		"red":      storage.List(red),
		"stopped":  made.Stopped,
	}, r.now())
}

// tokens makes what the tokens are made of: two logins, of which one has ended.
func (r *probeRun) tokens(ctx context.Context) (t probe.Tokens, err error) {
	t = probe.Tokens{Signer: r.signer, Next: r.next, Login: r.login, End: r.endLogin}
	t.Identity = probe.Identity{
		Issuer:   r.config.Issuer,
		Resource: r.rs.Resource,
		Subject:  r.run.User.Sub,
		Client:   r.run.Client.ID,
	}
	c, err := r.db.Clients().ByID(ctx, r.run.Client.ID)
	if err != nil {
		return t, err
	}
	r.run.Client = c // with its epoch
	if err := r.takePlaces(ctx); err != nil {
		return t, err
	}
	if t.Alive, err = r.login(ctx); err != nil {
		return t, err
	}
	if t.Ended, err = r.login(ctx); err != nil {
		return t, err
	}
	if err := r.endLogin(ctx, t.Ended); err != nil {
		return t, err
	}
	_, named, err := r.db.Fetches().CountFetches(ctx, r.rs.Resource)
	if named && r.config.JWKSObserve != config.ObserveOff {
		t.Settle = cmp.Or(r.spec.Settle, storage.FetchInterval+time.Second)
		t.Fetched = func(ctx context.Context) (int64, error) {
			n, _, err := r.db.Fetches().CountFetches(ctx, r.rs.Resource)
			return n, err
		}
	}
	return t, err
}

// takePlaces takes places in a status list, if tokens have a status.
func (r *probeRun) takePlaces(ctx context.Context) error {
	if r.config.StatusList != config.StatusListOn {
		return nil
	}
	c := r.run.Client
	places, err := r.db.StatusLists().Take(ctx, c.ID, c.Epoch, r.now().Add(storage.MaxRangeAge), r.now())
	if err != nil {
		return err
	}
	r.place = &places
	r.scatter, err = statuslist.NewScatter(places.Seed)
	return err
}

// login makes a login of the run.
func (r *probeRun) login(ctx context.Context) (probe.Session, error) {
	now := storage.At(r.now())
	expires := storage.At(now.Add(probeSpan))
	g := storage.Grant{
		ID:            storage.NewGrantID(expires.Time),
		UserID:        r.run.User.ID,
		UserEpoch:     r.run.User.Epoch,
		ClientID:      r.run.Client.ID,
		ClientEpoch:   r.run.Client.Epoch,
		KID:           r.signer.KID(),
		Scope:         r.spec.Scope,
		Audience:      r.rs.Resource,
		CreatedAt:     now,
		ExpiresAt:     expires,
		IdleExpiresAt: expires,
	}
	session := probe.Session{ID: g.ID.String()}
	var place *storage.StatusPlace
	if r.place != nil {
		place = &storage.StatusPlace{
			List:  r.place.List,
			Index: r.scatter.Index(r.place.First + r.places),
			Range: *r.place,
		}
		r.places++
		session.Status = api.Status{List: api.StatusReference{
			Index: place.Index,
			URI:   api.StatusURI(r.config.Issuer, place.List.String()),
		}}
	}
	return session, r.db.Grants().Create(ctx, g, place)
}

// endLogin ends a login of the run.
func (r *probeRun) endLogin(ctx context.Context, s probe.Session) error {
	id, err := storage.ParseGrantID(s.ID)
	if err != nil {
		return err
	}
	return r.db.Probes().EndLogin(ctx, id, r.now())
}

// Reports returns the last reports of a resource server, the newest first. It may return ErrNotFound.
func (a Probes) Reports(ctx context.Context, id string) ([]ProbeReport, error) {
	if _, err := a.resourceServer(ctx, id); err != nil {
		return nil, err
	}
	rows, err := a.db.Probes().Reports(ctx, id)
	if err != nil {
		return nil, err
	}
	return probeReports(rows)
}

func probeReports(rows []storage.ProbeReport) ([]ProbeReport, error) {
	reports := []ProbeReport{}
	for _, row := range rows {
		var r ProbeReport
		if err := json.Unmarshal(row.Report, &r); err != nil {
			return nil, fmt.Errorf("probe report %d: %w", row.ID, err)
		}
		r.At = row.At
		reports = append(reports, r)
	}
	return reports, nil
}

// Newest returns the newest report of each resource server after an id.
func (a Probes) Newest(ctx context.Context, after string) (Page[ProbeReport, string], error) {
	rows, err := a.db.Probes().Newest(ctx, after, PageSize+1)
	if err != nil {
		return Page[ProbeReport, string]{}, err
	}
	reports, err := probeReports(rows)
	return cutAt(reports, func(r ProbeReport) string { return r.ClientID }), err
}
