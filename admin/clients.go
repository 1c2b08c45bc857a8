package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/probe"
	"github.com/keyturn/keyturn/storage"
)

// ClientSpec describes a client.
type ClientSpec struct {
	ID        string
	Public    bool
	Grants    []string // api.GrantPassword, api.GrantRefreshToken
	Scope     string
	Audiences []string      // the first is the default
	Resource  string        // the audience of a resource server
	AccessTTL time.Duration // 0: the server's
	TokenTyp  string        // typ in the header of its access tokens, at+jwt or JWT; "": at+jwt
	Secret    string        // "": generate one
	// KeepRefresh turns the rotation of refresh tokens off (RFC 9700 §4.14.2 permits it for confidential clients).
	KeepRefresh bool
	Claims      []string // claims of its access tokens besides the usual ones: storage.ClaimUsername
	// scheme, host and port of the API of a resource server, where a probe may send tokens; "": nowhere
	ProbeOrigin string
}

// ClientSecret is a client with the secret that keyturn made for it, which is shown once.
type ClientSecret struct {
	storage.Client
	Secret string `json:"client_secret,omitempty"` // "" for a public client, and for a secret that was given
}

// Create creates a client. It returns ErrInvalid, or ErrConflict if the id is taken.
func (a Clients) Create(ctx context.Context, spec ClientSpec) (ClientSecret, error) {
	if !api.IsClientID(spec.ID) {
		return ClientSecret{}, invalid(
			"client id %q: want at most 128 letters, digits and . _ ~ : / @ + -, without the prefix %s",
			spec.ID,
			api.SubPrefix,
		)
	}
	now := storage.At(a.now())
	c := storage.Client{
		ID:        spec.ID,
		Public:    spec.Public,
		CreatedAt: now,
		UpdatedAt: now,
	}
	if err := describeClient(&c, spec); err != nil {
		return ClientSecret{}, err
	}
	if err := a.checkClientSize(ctx, storage.Client{}, c); err != nil {
		return ClientSecret{}, err
	}
	secret, err := a.clientSecret(&c, spec)
	if err != nil {
		return ClientSecret{}, err
	}
	if err := a.db.Clients().Create(ctx, a.by, c); err != nil {
		return ClientSecret{}, err
	}
	if spec.Secret != "" {
		secret = "" // the caller knows it
	}
	return ClientSecret{c, secret}, nil
}

// clientSecret sets the hash of a confidential client's secret and returns the secret.
func (a *core) clientSecret(c *storage.Client, spec ClientSpec) (string, error) {
	if spec.Public {
		if spec.Secret != "" {
			return "", invalid("a public client has no secret")
		}
		return "", nil
	}
	secret := spec.Secret
	if secret == "" {
		secret = randomSecret()
	}
	if err := checkSecret(secret); err != nil {
		return "", err
	}
	c.SecretHash = a.ring.Secrets().HashClientSecret(secret)
	return secret, nil
}

// checkSecret requires a secret that can be sent in a form and in a header.
func checkSecret(secret string) error {
	if len(secret) < 8 ||
		len(secret) > 1024 ||
		!api.IsText(secret) ||
		strings.ContainsAny(secret, "\r\n") {
		return invalid("client secret: want 8 to 1024 bytes of UTF-8 on one line")
	}
	return checkReplaced("client secret", secret)
}

// checkReplaced refuses U+FFFD in a new secret. A program replaces each character that it cannot decode by U+FFFD, so
// that many secrets of the same length would become equal.
func checkReplaced(what, secret string) error {
	if strings.ContainsRune(secret, utf8.RuneError) {
		return invalid("%s: it contains U+FFFD, which replaces a character that could not be decoded: send it as UTF-8",
			what)
	}
	return nil
}

func randomSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// describeClient checks the properties of a client that may change, and sets them.
func describeClient(c *storage.Client, spec ClientSpec) error {
	for _, grant := range spec.Grants {
		if grant != api.GrantPassword && grant != api.GrantRefreshToken {
			return invalid("grant %q: want %s or %s", grant, api.GrantPassword, api.GrantRefreshToken)
		}
	}
	words := strings.Fields(spec.Scope)
	for _, word := range words {
		if !api.IsScopeToken(word) {
			return invalid("scope %q: want printable ASCII without \" and \\", word)
		}
	}
	for _, audience := range spec.Audiences {
		if !api.IsText(audience) || !api.IsResource(audience) {
			return invalid("audience %q: want an absolute URI without fragment, for instance https://api.example.com",
				audience)
		}
	}
	if spec.Resource != "" && (!api.IsText(spec.Resource) || !api.IsResource(spec.Resource)) {
		return invalid("resource %q: want an absolute URI without fragment, for instance https://api.example.com",
			spec.Resource)
	}
	if spec.Resource != "" && spec.Public {
		return invalid("a resource server authenticates to introspect: it cannot be public")
	}
	if len(spec.Grants) == 0 && spec.Resource == "" {
		return invalid("a client needs at least one --grant, or --resource if it is a resource server")
	}
	if len(spec.Grants) > 0 && len(spec.Audiences) == 0 {
		return invalid("a client that gets tokens needs at least one --audience")
	}
	if spec.AccessTTL != 0 && (spec.AccessTTL < config.MinAccessTTL || spec.AccessTTL > config.MaxAccessTTL) {
		return invalid("access TTL %s: want between 1s and 1h", config.FormatDuration(spec.AccessTTL))
	}
	typ := cmp.Or(keys.Typ(spec.TokenTyp), keys.TypAccessToken)
	if !typ.OfAccessToken() {
		return invalid(
			"token typ %q: want %s (RFC 9068), or %s for verifiers that refuse it",
			typ,
			keys.TypAccessToken,
			keys.TypJWT,
		)
	}
	if err := checkTokenRules(spec); err != nil {
		return err
	}
	origin, err := probeOrigin(spec)
	if err != nil {
		return err
	}
	c.ProbeOrigin = origin
	c.RefreshRotation, c.Claims = !spec.KeepRefresh, unique(spec.Claims)
	c.Grants, c.Scope, c.Audiences = unique(spec.Grants), strings.Join(unique(words), " "), unique(spec.Audiences)
	c.Resource, c.AccessTTL, c.TokenTyp = spec.Resource, storage.Duration(spec.AccessTTL), string(typ)
	return nil
}

// probeOrigin checks the origin that a probe may send tokens to, and returns it in its usual form.
func probeOrigin(spec ClientSpec) (string, error) {
	if spec.ProbeOrigin == "" {
		return "", nil
	}
	if spec.Resource == "" {
		return "", invalid("probe origin: only a resource server (--resource) has one")
	}
	origin, err := probe.Origin(spec.ProbeOrigin)
	u, e := url.Parse(spec.ProbeOrigin)
	if err != nil || e != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", invalid("probe origin %q: want scheme and host, for instance https://api.example.com",
			spec.ProbeOrigin)
	}
	return origin, nil
}

// checkTokenRules checks what is special about the tokens of a client.
func checkTokenRules(spec ClientSpec) error {
	for _, claim := range spec.Claims {
		if claim != storage.ClaimUsername {
			return invalid("claim %q: want %s, which puts preferred_username into access tokens", claim,
				storage.ClaimUsername)
		}
	}
	if spec.KeepRefresh && spec.Public {
		return invalid("refresh rotation: a public client needs it, because a stolen refresh token works for every " +
			"holder (RFC 9700 §4.14.2)")
	}
	return nil
}

func unique(words []string) storage.List {
	list := storage.List{}
	for _, w := range words {
		if !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	return list
}

// Each calls do with all clients, ordered by id, page by page, until do returns an error.
func (a Clients) Each(ctx context.Context, do func([]Client) error) error {
	return a.db.Clients().Pages(ctx, "", do)
}

// List is Each for the clients after an id.
func (a Clients) List(ctx context.Context, after string, do func([]Client) error) error {
	return a.db.Clients().Pages(ctx, after, do)
}

// Find returns one client. ErrNotFound suggests a similar id.
func (a Clients) Find(ctx context.Context, id string) (storage.Client, error) {
	c, err := a.db.Clients().ByID(ctx, id)
	return c, a.missing(ctx, "client", id, err)
}

// Update changes the description of the client. A change to the present values is none. It returns ErrNotFound,
// ErrInvalid, or ErrConflict if somebody else updated the client.
func (a Clients) Update(ctx context.Context, id string, change func(*ClientSpec)) (storage.Client, error) {
	c, err := a.Find(ctx, id)
	if err != nil {
		return c, err
	}
	spec := ClientSpec{
		ID:        c.ID,
		Public:    c.Public,
		Grants:    c.Grants,
		Scope:     c.Scope,
		Audiences: c.Audiences,
		Resource:  c.Resource,
		AccessTTL: time.Duration(c.AccessTTL),
		TokenTyp:  c.TokenTyp,

		KeepRefresh: !c.RefreshRotation,
		Claims:      c.Claims,
		ProbeOrigin: c.ProbeOrigin,
	}
	change(&spec)
	before := c
	if err := describeClient(&c, spec); err != nil {
		return c, err
	}
	if err := a.checkClientSize(ctx, before, c); err != nil {
		return c, err
	}
	if len(before.ChangedSince(c)) == 0 {
		return before, nil
	}
	if err := a.db.Clients().Update(ctx, a.by, before, c, a.now()); err != nil {
		return c, err
	}
	return a.db.Clients().ByID(ctx, id)
}

// Enable lets a disabled client authenticate again. Its grants stay ended. It may return ErrNotFound.
func (a Clients) Enable(ctx context.Context, id string) error {
	return a.missing(ctx, "client", id, a.db.Clients().Enable(ctx, a.by, id, a.now()))
}

// Disable ends all grants of the client and refuses its authentication. It may return ErrNotFound.
func (a Clients) Disable(ctx context.Context, id string) error {
	return a.missing(ctx, "client", id, a.db.Clients().Disable(ctx, a.by, id, a.now()))
}

// Delete deletes the client and its grants. It may return ErrNotFound.
func (a Clients) Delete(ctx context.Context, id string) error {
	return a.missing(ctx, "client", id, a.db.Clients().Delete(ctx, a.by, id, a.now()))
}

// RotatedSecret is a new secret, and the expiry of the previous one.
type RotatedSecret struct {
	ClientID          string       `json:"client_id"`
	Secret            string       `json:"client_secret,omitempty"` // "" if it was given
	PreviousExpiresAt storage.Time `json:"previous_expires_at"`
}

// SecretRotation describes a new secret.
type SecretRotation struct {
	Secret string        // "": generate one
	Keep   time.Duration // how long the present secret works; 0: it ends now
	Force  bool          // end an older secret that still works
}

// maxKeep is the maximum lifetime of the previous secret.
const maxKeep = 90 * 24 * time.Hour

// RotateSecret gives the client a new secret. While an older secret still works, it refuses (ErrRefused) to keep the
// present one instead: hosts may still use the older one. It may return ErrNotFound or ErrInvalid.
func (a Clients) RotateSecret(ctx context.Context, id string, r SecretRotation) (RotatedSecret, error) {
	c, err := a.Find(ctx, id)
	if err != nil {
		return RotatedSecret{}, err
	}
	if c.Public {
		return RotatedSecret{}, invalid("a public client has no secret")
	}
	if r.Keep < 0 || r.Keep > maxKeep {
		return RotatedSecret{}, invalid("keep %s: want between 0 and 90d", config.FormatDuration(r.Keep))
	}
	older := c.PreviousExpiresAt != nil && a.now().Before(c.PreviousExpiresAt.Time)
	if older && r.Keep > 0 && !r.Force {
		return RotatedSecret{}, refusal{fmt.Errorf("client %s: an older secret works until %s, and hosts may still "+
			"use it: wait until then, or end it now with --force", id, c.PreviousExpiresAt.Format(time.RFC3339))}
	}
	secret, err := a.clientSecret(&c, ClientSpec{Secret: r.Secret})
	if err != nil {
		return RotatedSecret{}, err
	}
	until := storage.At(a.now().Add(r.Keep))
	err = a.db.Clients().RotateSecret(ctx, a.forced(older && r.Force), storage.SecretRotation{
		ID:        id,
		Hash:      c.SecretHash,
		Revision:  c.Revision,
		KeepUntil: until.Time,
	}, a.now())
	if r.Secret != "" {
		secret = ""
	}
	return RotatedSecret{id, secret, until}, err
}
