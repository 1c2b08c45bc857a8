package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Role is what somebody may do at the admin API and the console. Each role includes those before it.
type Role string

// The roles, in order.
const (
	RoleViewer      Role = "viewer"       // see everything
	RoleAuditor     Role = "auditor"      // and export the audit trail
	RoleOperator    Role = "operator"     // and change clients, users and logins
	RoleKeyOperator Role = "key-operator" // and rotate and revoke keys, and end the access of administrators
)

// Roles lists the roles, in order.
var Roles = []Role{RoleViewer, RoleAuditor, RoleOperator, RoleKeyOperator}

// Includes reports whether somebody with the role may do what another role may.
func (r Role) Includes(other Role) bool {
	have, want := slices.Index(Roles, r), slices.Index(Roles, other)
	return have >= 0 && want >= 0 && have >= want
}

// Administrators are the people and programs that may use the admin API and the console.
type Administrators struct{ *core }

// Administrators acts on administrators.
func (a *Admin) Administrators() Administrators { return Administrators(*a) }

// Administrator is a row of Administrators.
type Administrator = storage.Admin

// ListedAdministrator is an administrator with the ways in.
type ListedAdministrator struct {
	Administrator
	Passkeys int64     `json:"passkeys"`
	Sessions []Session `json:"sessions"`
}

// LinkTTL is how long a one-time link works.
const LinkTTL = 15 * time.Minute

// Link is a new one-time link. The URL is a secret, and is shown once.
type Link struct {
	Name      string       `json:"name"`
	Role      Role         `json:"role"`
	URL       string       `json:"url"`
	ExpiresAt storage.Time `json:"expires_at"`
}

// SocketPrefix begins the names of administrators that come over the Unix socket: os:NAME is the user NAME of the host.
const SocketPrefix = "os:"

var (
	adminName       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$`)
	errAdminName    = "want at most 64 letters, digits and . _ @ + -, or os:NAME for a user of this host"
	errRole         = "want one of viewer, auditor, operator, key-operator"
	maxSubjectBytes = 1024
	afterComma      = regexp.MustCompile(`([^\\]), +`) // RFC 4514 has no space after a comma
)

// newAdministrator checks the description of a new administrator.
func (a *core) newAdministrator(name string, role Role, subject string) (Administrator, error) {
	switch {
	case !adminName.MatchString(strings.TrimPrefix(name, SocketPrefix)):
		return Administrator{}, invalid("admin %q: %s", name, errAdminName)
	case !slices.Contains(Roles, role):
		return Administrator{}, invalid("role %q: %s", role, errRole)
	case subject != "" && !strings.Contains(subject, "="):
		return Administrator{}, invalid("certificate subject %q: want the form of RFC 4514, for instance "+
			"CN=soc,O=Example", subject)
	case !isLine(subject) || len(subject) > maxSubjectBytes:
		return Administrator{}, invalid("certificate subject: want at most %d bytes on one line", maxSubjectBytes)
	}
	return Administrator{
		Name:               name,
		Role:               string(role),
		CertificateSubject: afterComma.ReplaceAllString(subject, "$1,"),
		Handle:             newToken(),
		CreatedAt:          storage.At(a.now()),
	}, nil
}

// newToken returns 256 random bits.
func newToken() string {
	b := make([]byte, sha256.Size)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// hashToken returns what the database keeps of a token with 256 random bits.
func hashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Create registers an administrator. It returns ErrInvalid, or ErrConflict if the name or the subject is taken.
func (a Administrators) Create(ctx context.Context, name string, role Role, subject string) (Administrator, error) {
	row, err := a.newAdministrator(name, role, subject)
	if err != nil {
		return row, err
	}
	return row, a.taken(row, a.db.Admins().Create(ctx, a.by, row))
}

// taken explains why an administrator could not be created.
func (a *core) taken(row Administrator, err error) error {
	switch {
	case errors.Is(err, storage.ErrFull):
		return fmt.Errorf("admin %q: there are %d already: delete some", row.Name, storage.MaxAdmins)
	case errors.Is(err, ErrConflict):
		return fmt.Errorf("admin %q: %w: the name, or the certificate subject, is taken: `keyturn admin list` shows "+
			"who has it", row.Name, ErrConflict)
	}
	return err
}

// List lists all administrators by name, with their ways in.
func (a Administrators) List(ctx context.Context) ([]ListedAdministrator, error) {
	rows, err := a.db.Admins().All(ctx)
	if err != nil {
		return nil, err
	}
	passkeys, err := a.db.Passkeys().Count(ctx)
	if err != nil {
		return nil, err
	}
	sessions, err := SignIns(a).live(ctx, "")
	if err != nil {
		return nil, err
	}
	all := make([]ListedAdministrator, len(rows))
	for i, row := range rows {
		all[i] = ListedAdministrator{row, passkeys[row.Name], []Session{}}
		for _, s := range sessions {
			if s.Name == row.Name {
				all[i].Sessions = append(all[i].Sessions, s)
			}
		}
	}
	return all, nil
}

// Find returns one administrator. ErrNotFound suggests a similar name.
func (a Administrators) Find(ctx context.Context, name string) (Administrator, error) {
	row, err := a.db.Admins().ByName(ctx, name)
	return row, a.missing(ctx, "admin", name, err)
}

// OfCertificate returns the administrator of a client certificate, by its subject in the form of RFC 4514. It returns
// ErrNotFound also if that administrator is disabled.
func (a Administrators) OfCertificate(ctx context.Context, subject string) (Administrator, error) {
	row, err := a.db.Admins().BySubject(ctx, subject)
	return row, enabled(row, err)
}

// OfSocket returns the administrator that a user of this host is. It returns ErrNotFound also if that administrator is
// disabled.
func (a Administrators) OfSocket(ctx context.Context, username string) (Administrator, error) {
	row, err := a.db.Admins().ByName(ctx, SocketPrefix+username)
	return row, enabled(row, err)
}

// ErrDisabled means that an administrator is disabled. It wraps ErrNotFound.
var ErrDisabled = fmt.Errorf("%w: the administrator is disabled", ErrNotFound)

// enabled returns ErrDisabled for a disabled administrator.
func enabled(row Administrator, err error) error {
	if err == nil && row.DisabledAt != nil {
		return ErrDisabled
	}
	return err
}

// Disable ends the sessions and the link of an administrator, and refuses new ones. It may return ErrNotFound.
func (a Administrators) Disable(ctx context.Context, name string) error {
	return a.missing(ctx, "admin", name, a.db.Admins().Disable(ctx, a.by, name, a.now()))
}

// Delete deletes an administrator with its passkeys and sessions. It may return ErrNotFound.
func (a Administrators) Delete(ctx context.Context, name string) error {
	return a.missing(ctx, "admin", name, a.db.Admins().Delete(ctx, a.by, name, a.now()))
}

// Link makes a one-time link for an administrator, and ends the older one. It creates the administrator if there is
// none. role may be "" for one that exists. It returns ErrInvalid for another role than the administrator has.
func (a Administrators) Link(ctx context.Context, name string, role Role) (Link, error) {
	row, err := a.db.Admins().ByName(ctx, name)
	create := errors.Is(err, ErrNotFound)
	switch {
	case create && role == "":
		return Link{}, fmt.Errorf("%w: --role creates the admin", a.missing(ctx, "admin", name, err))
	case create:
		row, err = a.newAdministrator(name, role, "")
	case err == nil && row.DisabledAt != nil:
		err = fmt.Errorf("admin %s: %w: delete it, and create it again", name, ErrConflict)
	case err == nil && role != "" && string(role) != row.Role:
		err = invalid("admin %s is %s: to change the role, delete the admin and create it again", name, row.Role)
	}
	if err != nil {
		return Link{}, err
	}
	if strings.HasPrefix(name, SocketPrefix) {
		return Link{}, invalid("admin %s comes over the Unix socket and needs no link", name)
	}
	base, err := a.adminURL()
	if err != nil {
		return Link{}, err
	}
	token, expires := newToken(), storage.At(a.now().Add(LinkTTL))
	link := storage.AdminLink{Hash: hashToken(token), Expires: expires.Time}
	err = a.db.Admins().Link(ctx, a.by, row, create, link, a.now())
	return Link{name, Role(row.Role), base + "/enter/" + token, expires}, a.taken(row, err)
}

// adminURL returns the URL of the console.
func (a *core) adminURL() (string, error) {
	if urls := a.config.ConsoleURLs(); len(urls) > 0 {
		return urls[0], nil
	}
	return "", invalid("admin_urls: the URL of the admin listener is not known: set it, as browsers use it")
}
