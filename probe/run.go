package probe

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Plan says what to probe.
type Plan struct {
	Consent
	URL        string
	Scope      string // of good tokens
	Endless    bool   // with a token without exp
	Revocation bool   // also end a login, and wait for the API to refuse its token

	Now       func() time.Time                        // nil: time.Now
	Resolve   Resolver                                // nil: the resolver of the system
	Transport func() *http.Transport                  // nil: one with the authorities of the system
	Dial      Dialer                                  // nil: that of the system
	Generate  func(bits int) (*rsa.PrivateKey, error) // nil: rsa.GenerateKey
	Pause     time.Duration                           // between requests; 0: Pause
	Limit     time.Duration                           // of the wait for a refusal; 0: 50 seconds
}

// Tokens are what the tokens of a run are made of.
type Tokens struct {
	Identity
	Signer  Signer
	Next    Signer                                 // nil: without a token of the next key
	Login   func(context.Context) (Session, error) // makes a login; only for Plan.Revocation
	End     func(context.Context, Session) error   // ends it
	Fetched func(context.Context) (int64, error)   // counts the fetches of the JWKS by the API; nil: unknown
	Settle  time.Duration                          // until Fetched knows of a fetch
}

// Result is one case and its outcome.
type Result struct {
	Case
	Got    Outcome `json:"got"`
	Status int     `json:"status"` // of the answer; 0: none
	Red    bool    `json:"red"`    // not as expected, and by weight must
	Note   string  `json:"note,omitempty"`
}

// Report is what a run found.
type Report struct {
	URL      string   `json:"url"`
	Requests int      `json:"requests"`
	Results  []Result `json:"results"`
	Stopped  string   `json:"stopped"` // why not all cases were presented; "": they were
	// JWKSFetches is how often the API fetched the keys for the tokens with an unknown kid. null: unknown
	JWKSFetches *int64  `json:"jwks_fetches_for_unknown_kids"`
	NextKID     string  `json:"next_kid"`      // of the token of the next key; "": none was presented
	NextOK      bool    `json:"next_accepted"` // the API accepted it
	Revocation  *Ending `json:"revocation"`    // null: not measured
}

// Ending is what came of a token after its login had ended.
type Ending struct {
	Refused bool    `json:"refused"` // well before it expired
	Seconds float64 `json:"seconds"` // from the end to the first refusal, or to the end of the measurement
}

// expiryMargin is how long before its expiry a refusal counts as one for the end of the login: clocks differ.
const expiryMargin = 10 * time.Second

// Red counts the cases that are not as they must be.
func (r Report) Red() (n int) {
	for _, result := range r.Results {
		if result.Red {
			n++
		}
	}
	return n
}

// Failed counts the cases to which the API gave no answer that says anything.
func (r Report) Failed() (n int) {
	for _, result := range r.Results {
		if result.Got == Failed {
			n++
		}
	}
	return n
}

// OK reports whether all cases were presented and answered, and none is red.
func (r Report) OK() bool { return r.Stopped == "" && r.Red() == 0 && r.Failed() == 0 }

// Probe is one run.
type Probe struct {
	plan    Plan
	tokens  Tokens
	api     *target
	mint    *mint
	decoy   *decoy
	report  Report
	good    answer // to a good token
	fetched int64  // fetches of the JWKS before the tokens with an unknown kid
}

// Prepare checks the guards and asks the API for its consent. It sends no token. It returns a *GuardError if a guard
// refuses.
func Prepare(ctx context.Context, p Plan) (*Probe, error) {
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Limit == 0 {
		p.Limit = MaxLifetime - expiryMargin
	}
	if p.Pause == 0 {
		p.Pause = Pause
	}
	if p.Generate == nil {
		p.Generate = func(bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }
	}
	if p.Resolve == nil {
		p.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if p.Transport == nil {
		p.Transport = func() *http.Transport { return &http.Transport{TLSHandshakeTimeout: requestTimeout} }
	}
	if p.Dial == nil {
		p.Dial = (&net.Dialer{}).DialContext
	}
	t, err := newTarget(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := t.checkConsent(ctx, p.Consent); err != nil {
		return nil, err
	}
	return &Probe{plan: p, api: t, report: Report{URL: p.URL, Results: []Result{}}}, nil
}

// Run presents all cases. It returns a *GuardError if it may send no more requests. A report comes with every error.
func (r *Probe) Run(ctx context.Context, t Tokens) (Report, error) {
	r.tokens = t
	err := r.run(ctx)
	r.report.Requests = r.api.sent
	if r.decoy != nil {
		r.decoy.close()
	}
	return r.report, err
}

// run presents the cases in their order.
func (r *Probe) run(ctx context.Context) error {
	r.mint = &mint{
		Identity: r.tokens.Identity,
		scope:    r.plan.Scope,
		signer:   r.tokens.Signer,
		next:     r.tokens.Next,
		now:      r.plan.Now,
		generate: r.plan.Generate,
	}
	for _, c := range cases {
		if r.has(c) {
			if err := r.present(ctx, c); err != nil || r.report.Stopped != "" {
				return err
			}
		}
	}
	if r.plan.Revocation {
		if err := r.revoke(ctx); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether the run has a case.
func (r *Probe) has(c Case) bool {
	switch c.optional {
	case withScope:
		return r.plan.Scope != ""
	case withEndless:
		return r.plan.Endless
	case withNext:
		return r.tokens.Next != nil
	}
	return true
}

// present presents the token of a case, and judges the answer.
func (r *Probe) present(ctx context.Context, c Case) error {
	if c.ID == caseJKU || c.ID == caseX5U {
		if err := r.startDecoy(); err != nil {
			return err
		}
	}
	times := 1
	if c.ID == caseUnknown {
		times = unknownKIDs
		var err error
		if r.fetched, err = r.countFetches(ctx); err != nil {
			return err
		}
	}
	var worst Result
	for i := range times {
		token, err := c.make(r.mint)
		if err != nil {
			return err
		}
		a, err := r.api.present(ctx, token)
		if err != nil {
			return err
		}
		if c.ID == caseGood {
			r.good = a
		}
		result := r.judge(c, a)
		if i == 0 || result.Got == Accepted {
			worst = result
		}
	}
	if c.ID == caseUnknown && r.tokens.Fetched != nil {
		n, err := r.countFetches(ctx)
		if err != nil {
			return err
		}
		n = max(n-r.fetched, 0)
		r.report.JWKSFetches = &n
	}
	r.report.Results = append(r.report.Results, worst)
	r.conclude(c, worst)
	return nil
}

// startDecoy starts the decoy, unless it runs.
func (r *Probe) startDecoy() error {
	if r.decoy != nil {
		return nil
	}
	local := net.IPv4(127, 0, 0, 1)
	if used := r.api.local.Load(); used != nil {
		local = *used
	}
	own, err := r.mint.ownKey()
	if err != nil {
		return err
	}
	if r.decoy, err = newDecoy(local, r.mint.jwk(own), own, r.plan.Now()); err != nil {
		return fmt.Errorf("decoy: %w", err)
	}
	r.mint.decoy = r.decoy
	return nil
}

// judge says what an answer means: an answer like that to a good token, or a success, is an acceptance.
func (r *Probe) judge(c Case, a answer) Result {
	result := Result{Case: c, Got: Refused, Status: a.status}
	likeGood := c.ID != caseNone && c.ID != caseGarbage && a.status == r.good.status
	switch {
	case a.failed() != "":
		result.Got, result.Note = Failed, a.failed()
	case likeGood, a.status >= 200 && a.status < 300:
		result.Got = Accepted
	case a.status >= 300 && a.status < 400:
		result.Note = fmt.Sprintf("a redirect (%d), which was not followed", a.status)
	}
	if c.ID == caseGood && a.failed() == "" {
		result.Got = Accepted // conclude compares it with the others
	}
	if r.decoy != nil {
		if n := r.decoy.asked(c.ID); n > 0 {
			result.Note = fmt.Sprintf("the API fetched the URL in the header (%d times)", n)
			result.Red = true
		}
	}
	wrong := c.Expected != Either && result.Got != c.Expected
	if c.Expected == Refused && result.Got == Failed { // it was not accepted
		wrong = false
	}
	result.Red = result.Red || wrong && c.Weight == Must
	if !wrong && !result.Red && !(c.ID == caseEnded && result.Got == Accepted) {
		result.Mend = ""
	}
	return result
}

// conclude stops the run if its controls tell nothing.
func (r *Probe) conclude(c Case, result Result) {
	switch c.ID {
	case caseNone:
		if result.Got == Failed {
			r.report.Stopped = "the API gives no answer: " + result.Note
		}
	case caseGood:
		r.compare(result)
	case caseNext:
		r.report.NextKID, r.report.NextOK = r.tokens.Next.KID(), result.Got == Accepted
	case caseLast:
		if result.Got != Accepted {
			r.report.Stopped = "at the end the API refused a good token as well: its other answers may mean nothing"
		}
	}
}

// compare stops the run unless the API answers a good token in another way than none and a text that is no token.
func (r *Probe) compare(good Result) {
	none, garbage := r.report.Results[0], r.report.Results[1]
	last := &r.report.Results[len(r.report.Results)-1]
	switch {
	case good.Got == Failed:
		r.report.Stopped = "the API gives no answer to a good token: " + good.Note
	case none.Got == Accepted:
		r.report.Stopped = "the URL is not protected: without a token, the API answers as with a good one"
	case garbage.Got == Accepted:
		r.report.Stopped = "the URL is not protected: to a text that is no token, the API answers as to a good one"
	case good.Status == none.Status, good.Status == garbage.Status:
		last.Got, last.Red = Refused, true
		r.report.Stopped = fmt.Sprintf("the API refuses a good token (%d), so its other answers mean nothing: see "+
			"that it verifies tokens of this issuer for this resource, and name the scope of the URL with --scope",
			good.Status)
	}
}

// revoke ends a login and presents its token until the API refuses it.
func (r *Probe) revoke(ctx context.Context) error {
	session, err := r.tokens.Login(ctx)
	if err != nil {
		return err
	}
	minted := time.Now()
	token, err := r.mint.goodToken(session)
	if err != nil {
		return err
	}
	a, err := r.api.present(ctx, token)
	if err != nil {
		return err
	}
	if first := r.judge(find(caseLast), a); first.Got != Accepted {
		r.report.Stopped = "the API refused the token whose login was to be ended"
		return nil
	}
	if err := r.tokens.End(ctx, session); err != nil {
		return err
	}
	ended, e := time.Now(), &Ending{}
	r.report.Revocation = e
	for left := r.plan.Limit - time.Since(minted); left > 0 && r.api.sent < MaxRequests; {
		pause := max(left/time.Duration(MaxRequests-r.api.sent), r.api.pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		if a, err = r.api.present(ctx, token); err != nil {
			return err
		}
		e.Seconds = time.Since(ended).Seconds()
		left = r.plan.Limit - time.Since(minted)
		if r.judge(find(caseLast), a).Got == Refused {
			e.Refused = left > 0 // else it may have expired
			break
		}
	}
	return nil
}

// countFetches returns how often the API has fetched the JWKS, as soon as servers have written it.
func (r *Probe) countFetches(ctx context.Context) (int64, error) {
	if r.tokens.Fetched == nil {
		return 0, nil
	}
	select {
	case <-time.After(r.tokens.Settle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return r.tokens.Fetched(ctx)
}
