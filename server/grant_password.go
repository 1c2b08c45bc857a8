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

// logins implements the password grant.
type logins struct {
	*accessTokens
	hasher   *passwords.Hasher
	throttle *throttle
	places   *statusPlaces
}

// maxGrants is the largest number of live grants of a user at a client. A further login ends the oldest one.
const maxGrants = 100

// errLogin is the answer to every failed login (RFC 6749 §5.2). It does not reveal whether the user exists, is
// disabled or is throttled.
var errLogin = fail(api.InvalidGrant, "the username or the password is wrong, or the account cannot be used now")

// password is the resource owner password credentials grant (RFC 6749 §4.3): one read, one hash, one insert.
func (s *logins) password(_ context.Context, req *request, f tokenForm) (api.TokenResponse, error) {
	none := api.TokenResponse{}
	// RFC 6749 §4.3.2: both are required.
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

// login holds the rights of a new grant.
type login struct {
	scope, audience string
	granted         []string // audiences that a refresh may ask for
}

// login checks a username and a password. Every failure is errLogin and takes as long as any other, so that its time
// reveals nothing. Each step has its own time limit, because a hash may take longer than the database calls may.
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
			} // else other replicas check guesses for this account: wait
		}
		if err := untilFree(req.base, free, g.deadline); err != nil {
			s.throttle.passOn(free)
			return view, err
		}
		waited = free
	}
}

// guess is a password that somebody typed for a username.
type guess struct {
	key              storage.LoginKey
	typed, canonical string
	valid            bool      // username and password are well-formed
	deadline         time.Time // end of the wait for a place and a hash slot
}

// timeLeft returns the time until the deadline.
func (g guess) timeLeft() time.Duration { return max(time.Until(g.deadline), 0) }

// readLogin reads the user and the failures in one query.
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

// refuseLogin refuses a throttled login. It sleeps for as long as a hash takes, without a hash slot. Until that time is
// known, it computes a hash.
func (s *logins) refuseLogin(req *request, g guess, view storage.LoginView) error {
	stored, _ := s.storedHash(view)
	timed, err := s.hasher.Pretend(req.base, req.address, g.timeLeft(), stored)
	if err != nil {
		return err
	}
	if !timed {
		release, err := s.hasher.Acquire(req.base, req.address, g.timeLeft())
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

// judge obtains a hash slot, reserves the guess in the database if necessary, and compares the password. It reports
// false if the login must wait, because other replicas check as many guesses as the limit permits.
func (s *logins) judge(req *request, g guess, a *attempt, view storage.LoginView) (judged bool, err error) {
	defer func() {
		ctx, cancel := s.databaseTimeout(context.WithoutCancel(req.base))
		defer cancel()
		a.leave(ctx, s.now())
	}()
	release, err := s.hasher.Acquire(req.base, req.address, g.timeLeft())
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
	release()            // before the database calls: a slow database must not block a hash slot
	req.asking = s.now() // the time of the hash is no outage of the database
	settling, cancel := s.databaseTimeout(context.WithoutCancel(req.base))
	defer cancel()
	if !matches ||
		!usable ||
		!g.valid {
		s.loginFailed(req, reasonOf(view, usable))
		if err := a.settle(settling, storage.GuessWrong, s.now()); err != nil {
			return true, err
		}
		s.hasher.Remember(stored.Kind(), time.Since(begun)) // for refuseLogin
		return true, errLogin
	}
	if err := req.base.Err(); err != nil { // the client has disconnected
		return true, err
	}
	return true, s.loginSucceeded(settling, a, g.key, view, better)
}

// stranger selects a user whose hash to compute for an unknown username. The choice is stable and unpredictable.
// Imported hashes differ in their time, so one constant time would reveal which usernames are unknown.
func (s *logins) stranger(name string) int64 {
	return s.ring.Secrets().DecoyFor(name)
}

// storedHash returns the hash to compare with. usable is false for a decoy, and for the hash of a disabled user.
func (s *logins) storedHash(view storage.LoginView) (h passwords.Hash, usable bool) {
	if view.Found && view.User.PasswordHash != "" {
		h, err := passwords.Parse(view.User.PasswordHash)
		if err == nil {
			return h, view.User.DisabledAt == nil
		}
		s.log.Error("a stored password hash is invalid", "sub", view.User.Sub, "error", err)
	}
	if h, err := passwords.Parse(view.StrangersHash); err == nil {
		return h, false
	}
	return s.hasher.Decoy, false
}

// Reasons of failed logins, for log and metrics only.
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

// reasonOf returns the reason of a failed login. The client never learns it.
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

// loginFailed counts and logs a failed login.
func (s *logins) loginFailed(req *request, reason string) {
	s.metrics.loginFailures.WithLabelValues(reason).Inc()
	if reason == reasonThrottled {
		s.throttledEvent(req, "login", throttledLogin)
	}
	s.event(req, "login", "failed", slog.String("reason", reason))
}

// familiarFor is the shortest time between two updates of a familiar address.
const familiarFor = 24 * time.Hour

// loginSucceeded settles the attempt, stores the address as familiar (at most once a day), and replaces an outdated
// hash of the password.
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

// beginGrant inserts the grant and issues its first tokens. Every wait comes before the insert, so a client that
// disconnects meanwhile leaves no grant.
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
	if req.client.NamesUser() {
		access.username = view.User.Username
	}
	signer, err := s.ring.Signer(ctx, access.expires)
	if err != nil {
		return none, err
	}
	place, err := s.places.next(ctx, req.client, expires)
	if err != nil {
		return none, err
	}
	access.status = s.statusAt(place)
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
	if place, err = s.createGrant(ctx, req, view, g, place); err != nil {
		return none, err
	}
	access.status = s.statusAt(place)
	tokens, err := s.respond(signer, access)
	if refreshable {
		tokens.RefreshToken = s.ring.Secrets().SealRefreshToken(t, now)
	}
	tokens.Username = view.User.Username
	s.event(req, "login", "ok", slog.String("sub", view.User.Sub), slog.String("sid", g.ID.String()))
	return tokens, err
}

// newGrant returns the row of a grant without id, family and key.
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

// createGrant inserts the row, and then ends the oldest grants above the limit, if this replica is sure of the time. An
// error of the second step does not fail the login: the next login tries again. It returns the place of the grant in a
// status list.
func (s *logins) createGrant(
	ctx context.Context, req *request, view storage.LoginView, g storage.Grant, place *statusPlace,
) (*statusPlace, error) {
	place, err := s.insertGrant(ctx, req, g, place)
	if errors.Is(err, storage.ErrNotFound) { // the user or the client has changed since the read
		s.loginFailed(req, reasonChanged)
		return nil, errLogin
	}
	if err != nil ||
		view.Grants < maxGrants ||
		s.clock.Sure() != nil {
		return place, err
	}
	by := storage.Actor{Name: "keyturn"}
	if err := s.db.Grants().EndOldest(ctx, by, g.UserID, g.ClientID, maxGrants, g.CreatedAt.Time); err != nil {
		s.log.Warn("the oldest grants of a user could not be ended", "sub", view.User.Sub, "error", err.Error())
	}
	return place, nil
}

// insertGrant inserts the row. If the database does not confirm its place, as after a failover, the grant gets another.
func (s *logins) insertGrant(
	ctx context.Context, req *request, g storage.Grant, place *statusPlace,
) (*statusPlace, error) {
	err := s.db.Grants().Create(ctx, g, place.stored())
	if place == nil || !errors.Is(err, storage.ErrNotFound) {
		return place, err
	}
	s.places.drop(place)
	place, err = s.places.next(ctx, req.client, g.ExpiresAt.Time)
	if err != nil {
		return nil, err
	}
	return place, s.db.Grants().Create(ctx, g, place.stored())
}
