package console_test

import (
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// visitor is somebody with a role who came in one of the ways.
type visitor struct {
	way  string
	role admin.Role
	*consoletest.Client
}

// visitors returns somebody for each role and way.
func visitors(t *testing.T, s *consoletest.Server) (all []visitor) {
	t.Helper()
	ctx := t.Context()
	me := consoletest.Must(user.LookupId(fmt.Sprint(os.Geteuid()))).Username
	for _, role := range admin.Roles {
		link := s.SignedIn("link-"+string(role), role)
		passkey := s.SignedIn("passkey-"+string(role), role)
		p, a := passkey.Register("key")
		if a.Status != http.StatusOK {
			t.Fatalf("register: %d %s", a.Status, a.Body)
		}
		if a := passkey.SignIn(p); a.Status != http.StatusOK {
			t.Fatalf("passkey: %d %s", a.Status, a.Body)
		}
		subject := pkix.Name{CommonName: "certificate-" + string(role), Organization: []string{"Example"}}
		consoletest.Must(s.Admin("test").Administrators().Create(ctx, subject.CommonName, role, subject.String()))
		all = append(all,
			visitor{admin.WayLink, role, link},
			visitor{admin.WayPasskey, role, passkey},
			visitor{admin.WayCertificate, role, s.WithCertificate(subject)},
			visitor{admin.WaySocket + ":" + me, role, s.OverSocket()})
	}
	return all
}

// asSocketUser lets the user of this process have a role over the socket.
func asSocketUser(t *testing.T, s *consoletest.Server, v visitor) {
	t.Helper()
	name, ok := strings.CutPrefix(v.way, admin.WaySocket+":")
	if !ok {
		return
	}
	a := s.Admin("test").Administrators()
	a.Delete(t.Context(), admin.SocketPrefix+name)
	consoletest.Must(a.Create(t.Context(), admin.SocketPrefix+name, v.role, ""))
}

// Every route asks for its role, whoever comes, in whatever way. Nothing is changed: changes are sent without a reason,
// which the handler refuses after the guards.
func TestRolesAndRoutes(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{TLS: true})
	s.Login("ada")
	all := append([]visitor{{"nobody", "", s.Anonymous()}}, visitors(t, s)...)
	for _, v := range all {
		asSocketUser(t, s, v)
		for _, r := range console.Table() {
			path := fill(r.Path)
			t.Run(strings.Join([]string{v.way, string(v.role), r.Method, r.Path}, " "), func(t *testing.T) {
				a := send(v.Client, r, path)
				switch {
				case r.Open:
					if a.Status == http.StatusUnauthorized {
						t.Errorf("%d, and it is open to everybody", a.Status)
					}
				case v.role == "":
					refusedUnknown(t, r, a)
				case v.role.Includes(r.Role):
					if a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden {
						t.Errorf("%d %s, and the role suffices", a.Status, a.Body)
					}
				case a.Status != http.StatusForbidden:
					t.Errorf("%d, and the role does not suffice", a.Status)
				}
			})
		}
	}
}

// refusedUnknown requires that somebody who has not signed in gets nothing.
func refusedUnknown(t *testing.T, r console.Entry, a consoletest.Answer) {
	t.Helper()
	if strings.HasPrefix(r.Path, "/api/") || r.Path == "/live" {
		if a.Status != http.StatusUnauthorized {
			t.Errorf("%d without a sign-in", a.Status)
		}
		return
	}
	if a.Status != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), "/sign-in") {
		t.Errorf("%d %q without a sign-in", a.Status, a.Header.Get("Location"))
	}
}

// fill puts values into the variables of a path.
func fill(path string) string {
	return strings.NewReplacer("{kid}", "current", "{name}", "nobody", "{file}", "console.css", "{token}", "x",
		"{id}", map[bool]string{true: "api", false: "0000000000000001"}[strings.Contains(path, "probe-reports")]).
		Replace(path)
}

// send sends a request that changes nothing, even if it passes the guards.
func send(c *consoletest.Client, r console.Entry, path string) consoletest.Answer {
	switch {
	case r.Method == http.MethodGet:
		return c.Do(r.Method, path, nil, "")
	case strings.HasPrefix(path, "/api/"):
		return c.Do(r.Method, path, "{}", "application/json")
	case strings.HasPrefix(path, "/sign-out"), strings.HasPrefix(path, "/passkeys"), strings.HasPrefix(path,
		"/sign-in"):
		return c.Do(http.MethodPost, path+"/", url.Values{}, "") // not there: these would end the session
	}
	return c.Do(r.Method, path, url.Values{}, "")
}
