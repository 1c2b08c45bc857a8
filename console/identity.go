package console

import (
	"errors"
	"net/http"
	"os"
	"os/user"
	"strconv"

	"github.com/keyturn/keyturn/admin"
)

// identity is who calls.
type identity struct {
	name  string
	actor string // in the audit trail
	role  admin.Role
	way   string
	// of a way that begins with a sign-in; nil: every request proves who it is
	session *admin.Session
	token   string // of the session
}

// cookieName is the cookie of a session. The prefix binds it to this host, to TLS or loopback, and to all paths.
const cookieName = "__Host-keyturn-console"

// identify finds out who calls: by the Unix socket, by a client certificate, or by a session.
func (k *call) identify() (identity, error) {
	if overSocket(k.r) {
		return k.ofSocket()
	}
	if k.r.TLS != nil && len(k.r.TLS.VerifiedChains) > 0 {
		who, err := k.ofCertificate(k.r.TLS.PeerCertificates[0].Subject.String())
		if err == nil || !errors.Is(err, admin.ErrNotFound) {
			return who, err
		}
		if k.sessionToken() == "" {
			return who, refusal(http.StatusForbidden, "unknown-certificate", "the client certificate is that of no "+
				"administrator: `keyturn admin create NAME --certificate-subject` registers one")
		}
	}
	return k.ofSession()
}

// ofSocket identifies a user of this host. Those who could run the command line on this server have every role, unless
// they are registered with another one.
func (k *call) ofSocket() (identity, error) {
	uid, err := k.c.Peer(k.r)
	if err != nil {
		return identity{}, err
	}
	name := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	who := identity{name: admin.SocketPrefix + name, actor: admin.SocketPrefix + name, way: admin.WaySocket}
	row, err := k.reads().Administrators().OfSocket(k.r.Context(), name)
	switch {
	case err == nil:
		who.role = admin.Role(row.Role)
	case !errors.Is(err, admin.ErrNotFound):
		return who, err
	case errors.Is(err, admin.ErrDisabled), uid != 0 && uid != uint32(os.Geteuid()):
		k.who = who
		return who, refusal(http.StatusForbidden, "unknown-user", "the user %s of this host is no administrator: "+
			"`keyturn admin create os:%s --role` registers one", name, name)
	default:
		who.role = admin.RoleKeyOperator
	}
	return who, nil
}

func (k *call) ofCertificate(subject string) (identity, error) {
	row, err := k.reads().Administrators().OfCertificate(k.r.Context(), subject)
	return identity{
		name:  row.Name,
		actor: admin.AdminActor(row.Name),
		role:  admin.Role(row.Role),
		way:   admin.WayCertificate,
	}, err
}

// sessionToken returns the token in the cookie; "" if there is none.
func (k *call) sessionToken() string {
	cookie, err := k.r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return cookie.Value
}

func (k *call) ofSession() (identity, error) {
	token := k.sessionToken()
	if token == "" {
		return identity{}, errSignIn()
	}
	s, row, err := k.reads().SignIns().Find(k.r.Context(), token)
	if errors.Is(err, admin.ErrSignedOut) {
		k.clearCookie(cookieName)
		p := refusal(http.StatusUnauthorized, "signed-out", "the session is over: sign in again")
		return identity{}, p.with("WWW-Authenticate", `Keyturn realm="admin"`)
	}
	return identity{
		name:    row.Name,
		actor:   admin.AdminActor(row.Name),
		role:    admin.Role(row.Role),
		way:     s.Way,
		session: &s,
		token:   token,
	}, err
}

// setCookie sets a cookie for this host that scripts do not see. seconds is its age; 0: until the browser ends.
func (k *call) setCookie(name, value string, sites http.SameSite, seconds int) {
	http.SetCookie(k.w, &http.Cookie{
		Name:     name,
		Value:    value,
		Path:     "/",
		MaxAge:   seconds,
		Secure:   true,
		HttpOnly: true,
		SameSite: sites,
	})
}

// setSession sets the cookie of a session. A browser sends it only from pages of this console.
func (k *call) setSession(token string) { k.setCookie(cookieName, token, http.SameSiteStrictMode, 0) }

func (k *call) clearCookie(name string) { k.setCookie(name, "", http.SameSiteStrictMode, -1) }
