package admin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Ways of an administrator to prove who it is.
const (
	WayLink        = "link"
	WayPasskey     = "passkey"
	WayCertificate = "certificate"
	WaySocket      = "socket"
)

// Limits of a session.
const (
	SessionIdle  = 15 * time.Minute // without a request of the person
	SessionMax   = 8 * time.Hour    // since the sign-in
	SessionFresh = 5 * time.Minute  // since the sign-in, for changes of keys and of ways in
)

// Session is a sign-in of an administrator.
type Session = storage.AdminSession

// Passkey is a passkey of an administrator. Credential is the credential record of WebAuthn, in JSON.
type Passkey = storage.Passkey

// SignIns acts on the sessions and passkeys of administrators.
type SignIns struct{ *core }

// SignIns acts on sessions and passkeys.
func (a *Admin) SignIns() SignIns { return SignIns(*a) }

// AdminActor is the actor of an administrator in the audit trail.
func AdminActor(name string) string { return "admin:" + name }

// Visit is where a request comes from, and the token of its present session; "" if there is none.
type Visit struct{ Address, Token string }

// LinkOwner returns the administrator of a one-time link. It returns ErrNotFound for a link that is used, has expired
// or never was.
func (a SignIns) LinkOwner(ctx context.Context, token string) (Administrator, error) {
	name, err := a.db.AdminSessions().LinkOwner(ctx, hashToken(token), a.now())
	if err != nil {
		return Administrator{}, err
	}
	row, err := a.db.Admins().ByName(ctx, name)
	return row, enabled(row, err)
}

// ByLink uses up a one-time link, and returns the token of a new session. It returns ErrNotFound like LinkOwner.
func (a SignIns) ByLink(ctx context.Context, link string, v Visit) (token string, row Administrator, err error) {
	if row, err = a.LinkOwner(ctx, link); err != nil {
		return "", row, err
	}
	token, s := a.newSession(row, WayLink, v)
	return token, row, a.db.AdminSessions().OpenByLink(ctx, actorOf(row), hashToken(link), s, hashToken(v.Token))
}

// ByPasskey records the use of a passkey, and returns the token of a new session.
func (a SignIns) ByPasskey(ctx context.Context, k Passkey, credential string, v Visit) (token string, err error) {
	row, err := a.db.Admins().ByName(ctx, k.Name)
	if err = enabled(row, err); err != nil {
		return "", err
	}
	if err := a.db.Passkeys().Use(ctx, k, credential, a.now()); err != nil {
		return "", err
	}
	token, s := a.newSession(row, WayPasskey, v)
	return token, a.db.AdminSessions().Open(ctx, actorOf(row), s, hashToken(v.Token))
}

func actorOf(row Administrator) storage.Actor { return storage.Actor{Name: AdminActor(row.Name)} }

func (a SignIns) newSession(row Administrator, way string, v Visit) (token string, s Session) {
	token = newToken()
	now := storage.At(a.now())
	return token, Session{
		Hash:       hashToken(token),
		Name:       row.Name,
		Handle:     row.Handle,
		Way:        way,
		Address:    v.Address,
		SignedInAt: now,
		SeenAt:     now,
	}
}

// ErrSignedOut means that a token belongs to no session any more. It wraps ErrNotFound.
var ErrSignedOut = fmt.Errorf("%w: signed out", ErrNotFound)

// Find returns the session of a token, with its administrator. It returns ErrSignedOut if the session is over.
func (a SignIns) Find(ctx context.Context, token string) (s Session, row Administrator, err error) {
	if s, err = a.db.AdminSessions().ByHash(ctx, hashToken(token)); err == nil && !a.lives(s) {
		err = ErrNotFound
	}
	if err == nil {
		row, err = a.db.Admins().ByName(ctx, s.Name)
		if err = enabled(row, err); err == nil && row.Handle != s.Handle {
			err = ErrNotFound // the session belongs to an administrator of this name who is gone
		}
	}
	if errors.Is(err, ErrNotFound) {
		err = ErrSignedOut
	}
	return s, row, err
}

// lives reports whether a session is not over.
func (a SignIns) lives(s Session) bool {
	return a.within(s.SeenAt, SessionIdle) && a.within(s.SignedInAt, SessionMax)
}

// clockSkew is how far the clocks of two servers may differ.
const clockSkew = time.Minute

// within reports whether a moment is not longer ago than a span. A moment that lies ahead, after a clock was set back,
// counts as long ago.
func (a SignIns) within(at storage.Time, span time.Duration) bool {
	age := a.now().Sub(at.Time)
	return age > -clockSkew && age < span
}

// Fresh reports whether a sign-in is recent enough for a change of keys.
func (a SignIns) Fresh(s Session) bool { return a.within(s.SignedInAt, SessionFresh) }

// seeAgain is how long a recorded request stands for the next ones.
const seeAgain = 15 * time.Second

// See records a request of the person, so that the session does not become idle.
func (a SignIns) See(ctx context.Context, s Session) error {
	if a.now().Sub(s.SeenAt.Time) < seeAgain {
		return nil
	}
	return a.db.AdminSessions().See(ctx, s.Hash, a.now())
}

// live returns the sessions of an administrator that are not over; of all for "".
func (a SignIns) live(ctx context.Context, name string) ([]Session, error) {
	all, err := a.db.AdminSessions().OfAdmin(ctx, name)
	sessions := []Session{}
	for _, s := range all {
		if a.lives(s) {
			sessions = append(sessions, s)
		}
	}
	return sessions, err
}

// End ends a session.
func (a SignIns) End(ctx context.Context, s Session) error {
	return a.db.AdminSessions().Close(ctx, a.by, s, a.now())
}

// EndAll ends all sessions of an administrator, and its link. s is the session or way that asks for it.
func (a SignIns) EndAll(ctx context.Context, s Session) error {
	if _, err := (Administrators(a)).Find(ctx, s.Name); err != nil {
		return err
	}
	return a.db.AdminSessions().CloseAll(ctx, a.by, s, a.now())
}

// Refused is a request that was refused.
type Refused struct {
	Name, Way, Address string // as far as known
	What, Why          string
	More               int64 // refusals before this one that have no record
}

// NoteRefusal writes an audit record of a refused request.
func (a SignIns) NoteRefusal(ctx context.Context, r Refused) error {
	by := storage.Actor{Name: "keyturn"}
	if r.Name != "" {
		by.Name = AdminActor(r.Name)
	}
	if strings.HasPrefix(r.Name, SocketPrefix) {
		by.Name = r.Name
	}
	details := map[string]any{"way": r.Way, "address": r.Address, "request": r.What, "why": r.Why}
	if r.More > 0 {
		details["more"] = r.More
	}
	return a.db.AdminSessions().NoteRefusal(ctx, by, r.Name, details, a.now())
}

// Passkeys returns the passkeys of an administrator, the oldest first.
func (a SignIns) Passkeys(ctx context.Context, row Administrator) ([]Passkey, error) {
	all, err := a.db.Passkeys().OfAdmin(ctx, row.Name)
	return slices.DeleteFunc(all, func(k Passkey) bool { return k.Handle != row.Handle }), err
}

// OfHandle returns the administrator with a user handle of WebAuthn. It returns ErrNotFound also if that administrator
// is disabled.
func (a SignIns) OfHandle(ctx context.Context, handle string) (Administrator, error) {
	row, err := a.db.Admins().ByHandle(ctx, handle)
	return row, enabled(row, err)
}

// maxLabel is the maximum number of bytes of the label of a passkey.
const maxLabel = 64

// AddPasskey keeps a new passkey. It returns ErrInvalid for a label that is not a short line.
func (a SignIns) AddPasskey(ctx context.Context, row Administrator, id, label, credential string) error {
	if label == "" || !isLine(label) || len(label) > maxLabel {
		return invalid("name of the passkey: want at most %d bytes on one line", maxLabel)
	}
	err := a.db.Passkeys().Add(ctx, a.by, Passkey{
		ID:         id,
		Name:       row.Name,
		Handle:     row.Handle,
		Label:      label,
		Credential: credential,
		CreatedAt:  storage.At(a.now()),
	})
	if errors.Is(err, storage.ErrFull) {
		err = invalid("there are enough passkeys: remove one first")
	}
	return err
}

// RemovePasskey removes a passkey of an administrator. It may return ErrNotFound.
func (a SignIns) RemovePasskey(ctx context.Context, name, id string) error {
	return a.db.Passkeys().Remove(ctx, a.by, name, id, a.now())
}

// ceremonyTTL is how long a challenge of WebAuthn waits for its answer.
const ceremonyTTL = 5 * time.Minute

// ceremony is what the browser keeps of a ceremony, beside the seal.
type ceremony struct {
	Data    string    `json:"data"`
	Expires time.Time `json:"expires"`
}

// BeginCeremony returns the data of a ceremony with a seal, for the browser to keep: strangers begin ceremonies, and
// take no room in the database.
func (a SignIns) BeginCeremony(data string) (token string, err error) {
	text, err := json.Marshal(ceremony{data, a.now().Add(ceremonyTTL)})
	if err != nil {
		return "", err
	}
	seal, err := a.db.Passkeys().SealCeremony(string(text))
	return base64.RawURLEncoding.EncodeToString(text) + "." + seal, err
}

// OpenCeremony returns the data of a ceremony. It returns ErrNotFound for a token that has expired or is not ours.
func (a SignIns) OpenCeremony(token string) (data string, err error) {
	encoded, seal, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || a.db.Passkeys().CheckCeremony(string(text), seal) != nil {
		return "", fmt.Errorf("ceremony: %w", ErrNotFound)
	}
	var c ceremony
	if err := json.Unmarshal(text, &c); err != nil {
		return "", err
	}
	if !a.now().Before(c.Expires) {
		return "", fmt.Errorf("ceremony: %w", ErrNotFound)
	}
	return c.Data, nil
}

// AnswerCeremony records that a ceremony was answered rightly. It returns ErrConflict if it was answered before.
func (a SignIns) AnswerCeremony(ctx context.Context, token string) error {
	_, seal, _ := strings.Cut(token, ".") // only one text is the seal of the data, but several encode the data
	return a.db.Passkeys().Answer(ctx, hashToken(seal), a.now().Add(ceremonyTTL))
}

// Clean deletes what is over: sessions, links, ceremonies and answers to an Idempotency-Key.
func (a SignIns) Clean(ctx context.Context) error {
	now := a.now()
	return a.db.AdminSessions().Clean(ctx, now.Add(-SessionIdle), now.Add(-SessionMax), now)
}
