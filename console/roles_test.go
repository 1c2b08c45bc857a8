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

// Every route asks for its role, whoever comes, in whatever way, and some for a recent sign-in. Nothing is changed:
// changes are sent without a reason, which the handler refuses after the guards.
func TestRolesAndRoutes(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{TLS: true})
	s.Login("ada")
	for _, v := range append([]visitor{{"nobody", "", s.Anonymous()}}, visitors(t, s)...) {
		asSocketUser(t, s, v)
		table, ends := console.Table(), []console.Entry{}
		for _, r := range table {
			if strings.HasPrefix(r.Path, "/sign-out") {
				ends = append(ends, r) // they end the session
				continue
			}
			checkCell(t, v, r)
		}
		if v.way == admin.WayLink || v.way == admin.WayPasskey {
			s.Later(admin.SessionFresh)
			for _, r := range table {
				checkFreshness(t, v, r)
			}
			s.Later(-admin.SessionFresh)
		}
		for _, r := range ends {
			checkCell(t, v, r)
			if v.role != "" {
				v.Client = s.SignedIn("ending", v.role)
			}
		}
		if v.role != "" {
			if err := s.Admin("x").Administrators().Delete(t.Context(), "ending"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// checkCell checks one cell of roles, ways and routes.
func checkCell(t *testing.T, v visitor, r console.Entry) {
	t.Helper()
	for _, method := range methodsOf(r) {
		t.Run(strings.Join([]string{v.way, string(v.role), method, r.Path}, " "), func(t *testing.T) {
			a := send(v.Client, method, fill(r.Path))
			afterGuards := strings.Contains(a.Body, "problem:no-ceremony") // refused by the handler
			switch {
			case r.Open:
				if a.Status == http.StatusUnauthorized {
					t.Errorf("%d, and it is open to everybody", a.Status)
				}
			case v.role == "":
				refusedUnknown(t, r, a)
			case v.role.Includes(r.Role):
				if a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden && !afterGuards {
					t.Errorf("%d %s, and the role suffices", a.Status, a.Body)
				}
			case a.Status != http.StatusForbidden:
				t.Errorf("%d, and the role does not suffice", a.Status)
			}
		})
	}
}

// checkFreshness checks a route with a sign-in of five minutes ago.
func checkFreshness(t *testing.T, v visitor, r console.Entry) {
	t.Helper()
	if strings.HasPrefix(r.Path, "/sign-") || !v.role.Includes(r.Role) || r.Open {
		return
	}
	t.Run(strings.Join([]string{"later", v.way, string(v.role), r.Method, r.Path}, " "), func(t *testing.T) {
		a := send(v.Client, r.Method, fill(r.Path))
		if again := strings.Contains(a.Body, "sign-in-again") || strings.Contains(a.Body, "Sign in again"); r.Fresh &&
			(a.Status != http.StatusForbidden || !again) {
			t.Errorf("%d with an old sign-in", a.Status)
		} else if !r.Fresh && a.Status == http.StatusForbidden {
			t.Errorf("%d, and it needs no recent sign-in", a.Status)
		}
	})
}

// methodsOf returns the methods of a route: GET is also HEAD.
func methodsOf(r console.Entry) []string {
	if r.Method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{r.Method}
}

// refusedUnknown requires that somebody who has not signed in gets nothing.
func refusedUnknown(t *testing.T, r console.Entry, a consoletest.Answer) {
	t.Helper()
	if strings.HasPrefix(r.Path, "/api/") || console.IsScripted(r.Path) {
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

// send sends a request that changes nothing, even if it passes the guards. A browser says where its forms come from.
func send(c *consoletest.Client, method, path string) consoletest.Answer {
	switch {
	case method == http.MethodGet || method == http.MethodHead:
		return c.Do(method, path, nil, "")
	case strings.HasPrefix(path, "/api/"), console.IsScripted(path):
		return c.Do(method, path, "{}", "application/json")
	}
	return c.Do(method, path, url.Values{}, "", "Sec-Fetch-Site: same-origin")
}
