package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Errors of Admin that a caller tells apart.
var (
	ErrNotFound = storage.ErrNotFound
	ErrConflict = storage.ErrConflict
	// ErrInvalid says that what was asked for breaks a rule, which the error names.
	ErrInvalid = errors.New("invalid")
)

// Admin is what people may change. It acts on the database directly, whether a server runs or not, and every change is
// written to the audit trail under the name of the actor.
type Admin struct {
	config Config
	store  store
	db     *storage.DB
	ring   *keys.Ring
	by     storage.Actor
	now    func() time.Time
	say    func(format string, args ...any) // nil: nobody listens
	count  time.Duration                    // how long a count may take; 0: countTimeout
}

// AdminOptions say who acts, why, and whether a database that is not there yet may be made.
type AdminOptions struct {
	Actor  string
	Reason string
	Create bool
	Say    func(format string, args ...any) // tells a person something; nil: nobody
	Moved  bool                             // also a database that was copied to another
	// settings that the command was given; of the others, those by which servers run count
	Given map[string]bool

	MaxFiles int // for Doctor: descriptors that the process may have open; 0: they are not judged
}

// OpenAdmin opens database and keys. *ConfigError tells all that is wrong with the configuration.
func OpenAdmin(ctx context.Context, c Config, o AdminOptions) (*Admin, error) {
	if problems := c.Problems(false); problems != nil {
		return nil, &ConfigError{problems}
	}
	if !isText(o.Actor) || !isText(o.Reason) {
		return nil, invalid("reason and actor: valid UTF-8 without NUL")
	}
	st, err := openForCommand(ctx, c, o)
	if err != nil {
		return nil, err
	}
	a := &Admin{
		config: c,
		store:  st,
		db:     st.db,
		ring:   st.ring,
		by:     storage.Actor{Name: o.Actor, Reason: o.Reason},
		now:    time.Now,
		say:    o.Say,
	}
	if !o.Moved {
		if err := checkMoved(ctx, st.db); err != nil {
			st.close()
			return nil, err
		}
	}
	if err := a.followServers(ctx, o); err != nil {
		st.close()
		return nil, err
	}
	return a, nil
}

// commandPatience is how long a command waits for a connection where servers use all that PostgreSQL gives.
const commandPatience = 20 * time.Second

// openForCommand opens database and keys. Somebody who acts in an incident does not go away because servers are busy.
func openForCommand(ctx context.Context, c Config, o AdminOptions) (store, error) {
	for begun := time.Now(); ; {
		st, err := openStore(ctx, c, o.Create, keys.Options{Log: discard, Tolerant: true})
		if !errors.Is(err, storage.ErrBusy) || time.Since(begun) > commandPatience || ctx.Err() != nil {
			return st, err
		}
		if o.Say != nil {
			o.Say("keyturn: PostgreSQL gives no further connection now: trying again")
		}
	}
}

// countTimeout bounds what is counted for people: somebody waits for it who may be in a hurry.
const countTimeout = 3 * time.Second

func (a *Admin) countTime() time.Duration { return cmp.Or(a.count, countTimeout) }

// ErrTooSlow says that something was not counted, or listed, because that took too long.
var ErrTooSlow = storage.ErrTooSlow

// Now is the time by which Admin judges.
func (a *Admin) Now() time.Time { return a.now() }

// Close ends the connections to the database.
func (a *Admin) Close() error { return a.store.close() }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// maxClientID is the length of the longest client id.
const maxClientID = 128

// subPrefix begins every sub; no client id may begin with it, so that a token's sub is never mistaken for a client (RFC
// 9068 §5).
const subPrefix = "usr_"

var clientIDForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~:/@+-]{0,127}$`)

// ClientSpec is a client as people describe it.
type ClientSpec struct {
	ID        string
	Public    bool
	Grants    []string // api.GrantPassword, api.GrantRefreshToken
	Scope     string
	Audiences []string // the first is the default
	Resource  string   // the audience that it answers for, if it is a resource server
	AccessTTL Duration // 0: the server's
	TokenTyp  string   // typ in the header of its access tokens, at+jwt or JWT; "": at+jwt
	Secret    string   // "": one is made
}

// ClientSecret is a client with a secret that is told once.
type ClientSecret struct {
	storage.Client
	Secret string `json:"client_secret,omitempty"` // none for a public client
}

// CreateClient makes a client. ErrInvalid, or ErrConflict if the id is taken.
func (a *Admin) CreateClient(ctx context.Context, spec ClientSpec) (ClientSecret, error) {
	if !clientIDForm.MatchString(spec.ID) || strings.HasPrefix(spec.ID, subPrefix) {
		return ClientSecret{}, invalid(
			"client id %q: at most 128 letters, digits and . _ ~ : / @ + -, not beginning with %s",
			spec.ID,
			subPrefix,
		)
	}
	now := storage.At(a.now())
	c := storage.Client{ID: spec.ID, Public: spec.Public, CreatedAt: now, UpdatedAt: now}
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
	return ClientSecret{c, secret}, nil
}

// clientSecret sets the hash of a confidential client's secret and returns the secret.
func (a *Admin) clientSecret(c *storage.Client, spec ClientSpec) (string, error) {
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
	c.SecretHash = hashClientSecret(a.ring.Secrets().ClientSecretKey(), secret)
	return secret, nil
}

// checkSecret takes what can be sent in a form and in a header.
func checkSecret(secret string) error {
	if len(secret) < 8 || len(secret) > 1024 || !isText(secret) || strings.ContainsAny(secret, "\r\n") {
		return invalid("client secret: 8 to 1024 bytes of UTF-8 on one line")
	}
	return checkReplaced("client secret", secret)
}

// isText reports whether a text is one for both databases: UTF-8 without NUL.
func isText(text string) bool { return utf8.ValidString(text) && !strings.Contains(text, "\x00") }

// checkReplaced refuses U+FFFD in a new secret: some program has put it in place of what it could not read, and any
// other password of the same length, read by the same program, would be the same.
func checkReplaced(what, secret string) error {
	if strings.ContainsRune(secret, utf8.RuneError) {
		return invalid("%s: it holds U+FFFD, which stands for a character that could not be read: send it as UTF-8",
			what)
	}
	return nil
}

func randomSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// describeClient checks and takes over what may be changed of a client.
func describeClient(c *storage.Client, spec ClientSpec) error {
	for _, grant := range spec.Grants {
		if grant != api.GrantPassword && grant != api.GrantRefreshToken {
			return invalid("grant %q: %s and %s are what there is", grant, api.GrantPassword, api.GrantRefreshToken)
		}
	}
	words := strings.Fields(spec.Scope)
	for _, word := range words {
		if !isScopeToken(word) {
			return invalid("scope %q: printable ASCII without \" and \\", word)
		}
	}
	for _, audience := range spec.Audiences {
		if !isText(audience) || !isResource(audience) {
			return invalid("audience %q: an absolute URI without fragment, for instance https://api.example.com", audience)
		}
	}
	if spec.Resource != "" && (!isText(spec.Resource) || !isResource(spec.Resource)) {
		return invalid("resource %q: an absolute URI without fragment, for instance https://api.example.com", spec.Resource)
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
	if spec.AccessTTL != 0 && (spec.AccessTTL < Duration(minAccessTTL) || spec.AccessTTL > Duration(maxAccessTTL)) {
		return invalid("access TTL %v: between 1s and 1h", spec.AccessTTL)
	}
	typ := cmp.Or(keys.Typ(spec.TokenTyp), keys.TypAccessToken)
	if !typ.Known() {
		return invalid(
			"token typ %q: %s (RFC 9068), or %s for verifiers that refuse that",
			typ,
			keys.TypAccessToken,
			keys.TypJWT,
		)
	}
	c.Grants, c.Scope, c.Audiences = unique(spec.Grants), strings.Join(unique(words), " "), unique(spec.Audiences)
	c.Resource, c.AccessTTL, c.TokenTyp = spec.Resource, storage.Duration(spec.AccessTTL), string(typ)
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

// EachClient hands all clients, by id, to do, page by page, until that returns an error.
func (a *Admin) EachClient(ctx context.Context, do func([]Client) error) error {
	return a.db.Clients().Pages(ctx, do)
}

// Client reads one client. ErrNotFound.
func (a *Admin) Client(ctx context.Context, id string) (storage.Client, error) {
	return a.db.Clients().ByID(ctx, id)
}

// UpdateClient changes what change sets of the client's description. ErrNotFound, ErrInvalid, or ErrConflict if
// somebody else updated it.
func (a *Admin) UpdateClient(ctx context.Context, id string, change func(*ClientSpec)) (storage.Client, error) {
	c, err := a.db.Clients().ByID(ctx, id)
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
		AccessTTL: Duration(c.AccessTTL),
		TokenTyp:  c.TokenTyp,
	}
	change(&spec)
	before := c
	if err := describeClient(&c, spec); err != nil {
		return c, err
	}
	if err := a.checkClientSize(ctx, before, c); err != nil {
		return c, err
	}
	if err := a.db.Clients().Update(ctx, a.by, c, a.now()); err != nil {
		return c, err
	}
	return a.db.Clients().ByID(ctx, id)
}

// EnableClient lets a disabled client authenticate again. Its grants stay ended. ErrNotFound.
func (a *Admin) EnableClient(ctx context.Context, id string) error {
	return named("client", id, a.db.Clients().Enable(ctx, a.by, id, a.now()))
}

// DisableClient ends all grants of the client and lets it not authenticate. ErrNotFound.
func (a *Admin) DisableClient(ctx context.Context, id string) error {
	return named("client", id, a.db.Clients().Disable(ctx, a.by, id, a.now()))
}

// DeleteClient removes the client and with it its grants. ErrNotFound.
func (a *Admin) DeleteClient(ctx context.Context, id string) error {
	return named("client", id, a.db.Clients().Delete(ctx, a.by, id, a.now()))
}

// RotatedSecret is a new secret, and until when the one before it works.
type RotatedSecret struct {
	ClientID          string       `json:"client_id"`
	Secret            string       `json:"client_secret"`
	PreviousExpiresAt storage.Time `json:"previous_expires_at"`
}

// maxKeep is how long the secret before a new one may work at most.
const maxKeep = 90 * 24 * time.Hour

// RotateSecret gives the client a new secret, made if secret is "". The one before works for keep. ErrNotFound,
// ErrInvalid.
func (a *Admin) RotateSecret(ctx context.Context, id, secret string, keep time.Duration) (RotatedSecret, error) {
	c, err := a.db.Clients().ByID(ctx, id)
	if err != nil {
		return RotatedSecret{}, err
	}
	if c.Public {
		return RotatedSecret{}, invalid("a public client has no secret")
	}
	if keep < 0 || keep > maxKeep {
		return RotatedSecret{}, invalid("keep %v: between 0 and 90d", Duration(keep))
	}
	secret, err = a.clientSecret(&c, ClientSpec{Secret: secret})
	if err != nil {
		return RotatedSecret{}, err
	}
	until := storage.At(a.now().Add(keep))
	return RotatedSecret{id, secret, until}, a.db.Clients().RotateSecret(ctx, a.by, id, c.SecretHash, until.Time, a.now())
}

// What Admin shows, under the names that its callers know.
type (
	Client       = storage.Client
	SigningKey   = storage.SigningKey
	KeyUse       = storage.KeyUse
	Leak         = keys.Leak
	KeyLife      = keys.Life
	KeyMoment    = keys.Moment
	KeyState     = storage.KeyState
	KeyStatus    = keys.Status
	Rotation     = keys.Rotation
	Revocation   = keys.Revocation
	Rewrapped    = keys.Rewrapped
	User         = storage.User
	AuditRecord  = storage.AuditRecord
	Grant        = storage.GrantState
	Time         = storage.Time
	SchemaStatus = storage.SchemaStatus
)
