package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// logins is the password grant.
type logins struct {
	*accessTokens
	hasher   *passwords.Hasher
	throttle *throttle
}

// maxGrants is how many grants of one user at one client are alive; a further login ends the oldest.
const maxGrants = 100

// errLogin is the one answer to every login that fails: unknown user, wrong password, disabled, throttled (RFC 6749
// §5.2).
var errLogin = fail(api.InvalidGrant, "the username or the password is wrong, or the account cannot be used now")

// password is the resource owner password credentials grant, RFC 6749 §4.3: one read, one hash, one insert.
func (s *logins) password(_ context.Context, req *request, f tokenForm) (api.TokenResponse, error) {
	none := api.TokenResponse{}
	if f.username == "" || f.password == "" {
		return none, fail(api.InvalidRequest, "username or password is missing")
	}
	scope, err := narrow(req.client.Scope, req.client, f.scope)
	if err != nil {
		return none, err
	}
	granted := req.client.Audiences
	if f.resource != "" {
		granted = storage.List{f.resource}
	}
	audience, err := target(granted, req.client, "")
	if err != nil {
		return none, err
	}
	view, err := s.login(req, f.username, f.password)
	if err != nil {
		return none, err
	}
	return s.beginGrant(req, view, login{scope: scope, audience: audience, granted: granted})
}

// login is the outcome of a password grant before its row is written.
type login struct {
	scope, audience string
	granted         []string // audiences that a refresh may name
}

// login judges name and password. errLogin if they do not fit, whatever the reason, after the same work. The whole may
// take longer than a request may ask the database: each part has its own bound.
func (s *logins) login(req *request, name, password string) (storage.LoginView, error) {
	if len(password) > passwords.MaxPassword {
		s.loginFailed(req, reasonTooLong)
		return storage.LoginView{}, errLogin
	}
	g := guess{typed: password, deadline: time.Now().Add(s.config().PasswordHashWait)}
	name, nameErr := passwords.CanonicalUsername(name)
	var passwordErr error
	g.canonical, passwordErr = passwords.Canonical(password)
	g.valid = nameErr == nil && passwordErr == nil
	g.key = storage.NewLoginKey(name, req.client.ID, req.address)
	g.key.Stranger = s.stranger(name)
	var waited *place
	for {
		look := s.throttle.look(g.key)
		view, err := s.readLogin(req, g.key)
		if err != nil {
			look.end()
			s.throttle.passOn(waited)
			return view, err
		}
		a, verdict, free := look.enter(view, s.now())
		if verdict == verdictRefuse {
			s.throttle.passOn(waited)
			return view, s.refuseLogin(req, g, view)
		}
		if verdict == verdictJudge {
			if judged, err := s.judge(req, g, a, view); judged || err != nil {
				return view, err
			} // else others are being judged on other replicas
		}
		if err := untilFree(req.base, free, g.deadline); err != nil {
			s.throttle.passOn(free)
			return view, err
		}
		waited = free
	}
}

// guess is a password that somebody typed for a name.
type guess struct {
	key              storage.LoginKey
	typed, canonical string
	valid            bool      // name and password are such as there can be
	deadline         time.Time // until when the login waits for its turn
}

func (g guess) patience() time.Duration { return max(time.Until(g.deadline), 0) }

func (s *logins) readLogin(req *request, k storage.LoginKey) (storage.LoginView, error) {
	ctx, cancel := s.databaseTimeout(req.base)
	defer cancel()
	ctx, read := s.span(ctx, "read user")
	req.asking = s.now()
	view, err := s.db.Users().LoginView(ctx, k)
	read(err)
	req.username = view.User.Username
	return view, err
}

// refuseLogin refuses a login that is throttled. It takes as long as one that is judged, and no slot; but where nobody
// knows yet how long that is, it is hashed.
func (s *logins) refuseLogin(req *request, g guess, view storage.LoginView) error {
	stored, _ := s.storedHash(view)
	timed, err := s.hasher.Pretend(req.base, req.address, g.patience(), stored)
	if err != nil {
		return err
	}
	if !timed {
		release, err := s.hasher.Acquire(req.base, req.address, g.patience())
		if err != nil {
			return err
		}
		begun := time.Now()
		s.hasher.Compare(stored, g.typed, g.canonical)
		s.hasher.Remember(stored.Kind(), time.Since(begun))
		release()
	}
	s.loginFailed(req, reasonThrottled)
	return errLogin
}

// judge obtains a hash slot, counts the guess where it must, and compares. It reports false if other replicas are
// judging so many guesses for the account that it has to wait.
func (s *logins) judge(req *request, g guess, a *attempt, view storage.LoginView) (judged bool, err error) {
	defer func() {
		ctx, cancel := s.databaseTimeout(context.WithoutCancel(req.base))
		defer cancel()
		a.leave(ctx, s.now())
	}()
	release, err := s.hasher.Acquire(req.base, req.address, g.patience())
	if err != nil {
		return false, err
	}
	release = sync.OnceFunc(release)
	defer release()
	begun := time.Now()
	req.asking = s.now()
	ctx, cancel := s.databaseTimeout(req.base)
	defer cancel()
	if ok, err := a.reserve(ctx, s.now()); !ok || err != nil {
		return false, err
	}
	stored, usable := s.storedHash(view)
	_, hashed := s.span(ctx, "hash password")
	matches, better := s.hasher.Compare(stored, g.typed, g.canonical)
	hashed(nil)
	release()            // the database may take its time now, which must not cost others their slot
	req.asking = s.now() // the hash took its time from nobody
	settling, cancel := s.databaseTimeout(context.WithoutCancel(req.base))
	defer cancel()
	if !matches || !usable || !g.valid {
		s.loginFailed(req, reasonOf(view, usable))
		if err := a.settle(settling, storage.GuessWrong, s.now()); err != nil {
			return true, err
		}
		s.hasher.Remember(stored.Kind(), time.Since(begun)) // as long as a throttled login will pretend to take
		return true, errLogin
	}
	if err := req.base.Err(); err != nil { // nobody waits for an answer any more
		return true, err
	}
	return true, s.loginSucceeded(settling, a, g.key, view, better)
}

// stranger says whose hash is computed for a name that nobody has: always the same one's, and whose, cannot be told
// from outside. Hashes that were imported take their own time, so that one time for all unknown names would tell them
// from known ones.
func (s *logins) stranger(name string) int64 {
	return s.ring.Secrets().DecoyFor(name)
}

// storedHash is the hash to compare with: that of the user, or one that counts for nothing.
func (s *logins) storedHash(view storage.LoginView) (h passwords.Hash, usable bool) {
	if view.Found && view.User.PasswordHash != "" {
		h, err := passwords.Parse(view.User.PasswordHash)
		if err == nil {
			return h, view.User.DisabledAt == nil
		}
		s.log.Error("a stored password hash cannot be used", "sub", view.User.Sub, "error", err)
	}
	if h, err := passwords.Parse(view.StrangersHash); err == nil {
		return h, false
	}
	return s.hasher.Decoy, false
}

// Reasons of failed logins, for log and metrics alone.
const (
	reasonUnknown    = "unknown user"
	reasonDisabled   = "disabled user"
	reasonNoPassword = "no usable password"
	reasonWrong      = "wrong password"
	reasonThrottled  = "throttled"
	reasonTooLong    = "password too long"
	reasonChanged    = "changed meanwhile"
)

var loginFailureReasons = []string{
	reasonUnknown, reasonDisabled, reasonNoPassword, reasonWrong, reasonThrottled, reasonTooLong, reasonChanged,
}

// reasonOf tells the log, and nobody else, why a login failed.
func reasonOf(view storage.LoginView, usable bool) string {
	switch {
	case !view.Found:
		return reasonUnknown
	case view.User.DisabledAt != nil:
		return reasonDisabled
	case !usable:
		return reasonNoPassword
	default:
		return reasonWrong
	}
}

func (s *logins) loginFailed(req *request, reason string) {
	s.metrics.loginFailures.WithLabelValues(reason).Inc()
	if reason == reasonThrottled {
		s.throttledEvent(req, "login", throttledLogin)
	}
	s.event(req, "login", "failed", slog.String("reason", reason))
}

// familiarFor is how long an address need not be remembered again, since it was.
const familiarFor = 24 * time.Hour

// loginSucceeded settles the throttle, remembers the address, once a day, and keeps a better hash of the password, if
// there is one.
func (s *logins) loginSucceeded(
	ctx context.Context,
	a *attempt,
	k storage.LoginKey,
	view storage.LoginView,
	better string,
) error {
	if err := a.settle(ctx, storage.GuessRight, s.now()); err != nil {
		return err
	}
	if now := s.now(); !view.Familiar || now.Sub(view.SeenAt) >= familiarFor {
		if err := s.db.FamiliarAddresses().Add(ctx, view.User.ID, k.Address, now); err != nil {
			return err
		}
	}
	if better != "" {
		return s.db.Users().Rehash(ctx, view.User.ID, view.User.PasswordHash, better)
	}
	return nil
}

// beginGrant writes the row of a login and issues its first tokens. Whatever may make it wait comes before the row: a
// client that has gone meanwhile gets no grant.
func (s *logins) beginGrant(req *request, view storage.LoginView, l login) (api.TokenResponse, error) {
	none := api.TokenResponse{}
	signed, err := s.ring.Admit(req.base)
	if err != nil {
		return none, err
	}
	defer signed()
	ctx, cancel := s.databaseTimeout(req.base)
	defer cancel()
	now := s.now().Truncate(time.Millisecond)
	expires := now.Add(s.config().RefreshMaxTTL)
	access := accessClaims{
		grant:    storage.NewGrantID(expires),
		sub:      view.User.Sub,
		clientID: req.client.ID,
		typ:      keys.Typ(req.client.TokenTyp),
		audience: l.audience,
		scope:    l.scope,
		roles:    view.User.Roles,
		authTime: now,
		issued:   now,
		expires:  s.lifetime(req.client, now, expires),
	}
	signer, err := s.ring.Signer(ctx, access.expires)
	if err != nil {
		return none, err
	}
	if err := s.checkSize(signer, access); err != nil {
		s.event(req, "login", "failed", slog.String("reason", "token too large"))
		return none, err
	}
	t := keys.RefreshToken{Grant: access.grant, Family: keys.NewFamily()}
	refreshable := slices.Contains(req.client.Grants, api.GrantRefreshToken)
	g := s.newGrant(req, view, l, now, expires)
	g.ID, g.KID = access.grant, signer.KID
	if refreshable {
		g.FamilyHash = t.Family.Hash()
	}
	if err := s.createGrant(ctx, req, view, g); err != nil {
		return none, err
	}
	tokens, err := s.respond(signer, access)
	if refreshable {
		tokens.RefreshToken = s.ring.Secrets().SealRefreshToken(t, now)
	}
	tokens.Username = view.User.Username
	s.event(req, "login", "ok", slog.String("sub", view.User.Sub), slog.String("sid", g.ID.String()))
	return tokens, err
}

// newGrant is the row of a login, without id, family and key.
func (s *logins) newGrant(req *request, view storage.LoginView, l login, now, expires time.Time) storage.Grant {
	idle := min(s.config().RefreshIdleTTL, s.config().RefreshMaxTTL)
	return storage.Grant{
		UserID:        view.User.ID,
		UserEpoch:     view.User.Epoch,
		ClientID:      req.client.ID,
		ClientEpoch:   req.client.Epoch,
		Scope:         l.scope,
		Audience:      strings.Join(l.granted, " "),
		CreatedAt:     storage.At(now),
		ExpiresAt:     storage.At(expires),
		IdleExpiresAt: storage.At(now.Add(idle)),
	}
}

// createGrant writes the row, and then ends the oldest grants beyond the limit, if this replica is sure of the time. A
// login that fails ends nothing, and what could not be ended is ended by the next login.
func (s *logins) createGrant(ctx context.Context, req *request, view storage.LoginView, g storage.Grant) error {
	err := s.db.Grants().Create(ctx, g)
	if errors.Is(err, storage.ErrNotFound) { // the user or the client was changed since they were read
		s.loginFailed(req, reasonChanged)
		return errLogin
	}
	if err != nil || view.Grants < maxGrants || s.clock.Sure() != nil {
		return err
	}
	by := storage.Actor{Name: "keyturn"}
	if err := s.db.Grants().EndOldest(ctx, by, g.UserID, g.ClientID, maxGrants, g.CreatedAt.Time); err != nil {
		s.log.Warn("the oldest grants of a user were not ended", "sub", view.User.Sub, "error", err.Error())
	}
	return nil
}
