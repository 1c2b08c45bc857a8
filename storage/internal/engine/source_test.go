package engine

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/lib/pq"
)

// hostileFiles are the files that libpq looks for at home.
var hostileFiles = map[string]string{
	".pgpass":                    "*:*:*:*:from-pgpass\n",
	".pg_service.conf":           "[evil]\nhost=192.0.2.77\nuser=evil\n",
	".postgresql/root.crt":       "no certificate",
	".postgresql/postgresql.crt": "no certificate",
	".postgresql/postgresql.key": "no key",
}

// hostileVariables are the variables of libpq, with HOME for the home folder.
var hostileVariables = map[string]string{
	"PGHOST":                  "192.0.2.77",
	"PGHOSTADDR":              "192.0.2.77",
	"PGPORT":                  "1",
	"PGDATABASE":              "evil",
	"PGUSER":                  "evil",
	"PGPASSWORD":              "evil",
	"PGOPTIONS":               "-c search_path=evil",
	"PGAPPNAME":               "evil",
	"PGSSLMODE":               "verify-full",
	"PGSSLNEGOTIATION":        "direct",
	"PGSSLCERT":               "/evil",
	"PGSSLKEY":                "/evil",
	"PGSSLROOTCERT":           "/evil",
	"PGSSLSNI":                "0",
	"SSLPGMINPROTOCOLVERSION": "TLSv1.3",
	"SSLPGMAXPROTOCOLVERSION": "TLSv1.0",
	"PGCONNECT_TIMEOUT":       "1000",
	"PGCLIENTENCODING":        "LATIN1",
	"PGDATESTYLE":             "German",
	"PGTARGETSESSIONATTRS":    "standby",
	"PGLOADBALANCEHOSTS":      "random",
	"PGMINPROTOCOLVERSION":    "3.2",
	"PGMAXPROTOCOLVERSION":    "3.2",
	"PGSERVICE":               "evil",
	"PGSERVICEFILE":           "HOME/.pg_service.conf",
	"PGREQUIRESSL":            "1",
	"PGSSLCOMPRESSION":        "1",
	"PGREALM":                 "evil",
	"PGGSSENCMODE":            "require",
	"PGGSSLIB":                "gssapi",
	"PGREQUIREAUTH":           "none",
	"PGCHANNELBINDING":        "require",
	"PGSSLCERTMODE":           "require",
	"PGSSLCRL":                "/evil",
	"PGSSLCRLDIR":             "/evil",
	"PGREQUIREPEER":           "evil",
	"PGKRBSRVNAME":            "evil",
	"PGTZ":                    "Pacific/Kiritimati",
	"PGGEQO":                  "off",
	"PGSYSCONFDIR":            "HOME",
	"PGLOCALEDIR":             "HOME",
}

// hostileEnvironment sets every variable of libpq, and lays out every file that it looks for at home.
func hostileEnvironment(t *testing.T) {
	t.Helper()
	home := t.TempDir()
	for name, content := range hostileFiles {
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("PGPASSFILE", filepath.Join(home, ".pgpass"))
	for name, value := range hostileVariables {
		t.Setenv(name, strings.ReplaceAll(value, "HOME", home))
	}
}

// The environment and the files of libpq change nothing of what a URL says.
func TestURLAloneDecides(t *testing.T) {
	urls := []string{
		"postgres://kt@/kt", "postgres://kt:pw@localhost/kt", "postgres://kt@127.0.0.1:5433/kt?sslmode=require",
		"postgres://kt:pw@db.example.com/kt?sslmode=verify-full", "postgres://kt@/kt?host=/run/postgresql",
	}
	var before []Source
	for _, u := range urls {
		s, err := ParseSource(u, false)
		if err != nil {
			t.Fatal(u, err)
		}
		before = append(before, s)
	}
	hostileEnvironment(t)
	for i, u := range urls {
		s, err := ParseSource(u, false)
		if err != nil {
			t.Fatal(u, err)
		}
		d := cmp.Diff(before[i], s, cmp.AllowUnexported(Source{}), cmpopts.IgnoreUnexported(pq.Config{}),
			cmpopts.EquateComparable(netip.Addr{}))
		if d != "" {
			t.Errorf("%s: %s", u, d)
		}
	}
}

func TestTargets(t *testing.T) {
	const remote, tls = "postgres://kt:pw@db.example.com/kt", "?sslmode=verify-full"
	for _, c := range []struct{ url, want string }{ // want: a target, or a piece of the error
		{"postgres://kt@/kt", "host localhost:5432, database kt, user kt, sslmode disable"},
		{"postgresql://kt@[::1]:5433/", "host [::1]:5433, database kt, user kt, sslmode disable"},
		{"postgres://kt@/x?host=/run/postgresql&sslmode=require",
			"host /run/postgresql:5432, database x, user kt, sslmode disable"},
		{"postgres://kt@%2Frun%2Fpostgresql/x", "host /run/postgresql:5432, database x, user kt, sslmode disable"},
		{"postgres:///x?user=kt&password=pw&port=6000", "host localhost:6000, database x, user kt, sslmode disable"},
		{"postgres://a%40b:p%2Fw@localhost/x", "host localhost:5432, database x, user a@b, sslmode disable"},
		{"postgres://kt@a.example:1,b.example:2/x" + tls,
			"host a.example:1 b.example:2, database x, user kt, sslmode verify-full"},
		{"postgres://kt@a.example,b.example/x" + tls,
			"host a.example:5432 b.example:5432, database x, user kt, sslmode verify-full"},
		{"postgres://kt@localhost/x?hostaddr=192.0.2.1", "verify-full"},
		{"postgres://kt@localhost,db.example.com/x", "verify-full"},
		{"postgres://kt@127.0.0.1,192.0.2.1/x?sslmode=require", "verify-full"},
		{"postgres://kt@localhost/x?host=db.example.com", "verify-full"},
		{remote, "verify-full"},
		{remote + "?sslmode=verify-ca", "verify-full"},
		{remote + tls + "&sslmode=disable", "one twice"},
		{remote + tls + "&service=x", "does not know"},
		{remote + tls + "&passfile=x", "does not know"},
		{remote + tls + "#x", "percent-encode"},
		{"postgres://kt@localhost:port/x", "host or port"},
		{"postgres://kt@localhost:0/x", "host or port"},
		{"postgres://kt@localhost/a/b", "names no database"},
		{"postgres://kt@localhost/a@b", "percent-encode"},
		{"postgres://localhost/x", "names no user"},
		{"postgres://kt@/x?host=/run,localhost", "sockets and other hosts"},
		{"postgres://kt@a,b,c/x?port=1,2", "different numbers"},
		{"postgres://kt@localhost/x?sslmode=verify_full", "value of sslmode"},
		{"postgres://kt@localhost/x?target_session_attrs=standby", "value of target_session_attrs"},
		{"postgres://kt@localhost/x?connect_timeout=soon", "value of connect_timeout"},
		{"postgres://kt@localhost/x?client_encoding=LATIN1", "value of client_encoding"},
		{"postgres://kt@localhost/x?sslcert=/x", "go together"},
	} {
		source, err := ParseSource(c.url, false)
		target, _ := source.Target()
		if err != nil && !strings.Contains(err.Error(), c.want) || err == nil && target.String() != c.want {
			t.Errorf("%s: %v, %v", c.url, target, err)
		}
	}
}

// FuzzURLErrors puts a password as it is into URLs. No error repeats any piece of it.
func FuzzURLErrors(f *testing.F) {
	for _, password := range []string{
		"hunter2/secret", "12/secret", "12?secret", "12#secret", "p@a/secret", "p@a?secret=yes", "se%zzcret",
		"p@[secret",
		"12?sslmode=secret", "12/secret?host=abcd", "p@secret:x", "sec\x00ret", "p@secret,other:port",
		"1?connect_timeout=secret&sslmode=secret", "p@hidden/?secret",
	} {
		f.Add(password)
	}
	f.Fuzz(func(t *testing.T, password string) {
		for _, form := range []string{
			"postgres://u:%s@h/d", "postgres://u:%s@h:1,i:2/d?sslmode=require", "postgres://%s",
			"postgres://u@h/d?password=%s",
		} {
			raw := fmt.Sprintf(form, password)
			_, err := ParseSource(raw, false)
			if err == nil {
				continue
			}
			rest := strings.ReplaceAll(form, "%s", "")
			for i := 0; i+4 <= len(password); i++ {
				piece := password[i : i+4]
				if strings.Contains(err.Error(), piece) && !strings.Contains(rest+fixedTexts, piece) {
					t.Fatalf("%q: %v", raw, err)
				}
			}
		}
		const want = "host h:5432, database d, user u, sslmode require"
		source, _ := ParseSource("postgres://u:"+password+"@h/d", true)
		if target, ok := source.Target(); ok && target.String() != want {
			t.Fatalf("%q: %v", password, target)
		}
	})
}

// fixedTexts are all words that an error may have.
var fixedTexts = func() string {
	all := fixedErrors()
	for _, name := range connectionParameters {
		all += urlValueError(name).Error()
	}
	return all
}()

func fixedErrors() (all string) {
	for _, err := range []error{
		errURLEncoding, errURLHost, errURLUser, errURLDatabase, errURLUnknown, errURLHosts, errURLCert, errInsecure,
	} {
		all += err.Error()
	}
	return all
}

func TestSourceWithoutPassword(t *testing.T) {
	for raw, want := range map[string]string{
		"sqlite:a:b@c.db":                           "sqlite:a:b@c.db",
		"postgres://kt@localhost/x":                 "postgres://kt@localhost/x",
		"postgres://kt:pw@localhost/x":              "postgres://kt:xxxxx@localhost/x",
		"postgres://kt@localhost/x?password=pw":     "postgres://kt@localhost/x?password=xxxxx",
		"postgres://kt@localhost/x?pass%77ord=pw":   "postgres://kt@localhost/x?password=xxxxx",
		"postgres://kt:pw@db.example.com/x":         "postgres://kt:xxxxx@db.example.com/x",
		"postgres://kt@localhost/x?sslmode=disable": "postgres://kt@localhost/x?sslmode=disable",
	} {
		s, err := ParseSource(raw, true)
		shown := fmt.Sprintf("%v %+v %#v", s, s, s)
		if err == nil && (shown != want+" "+want+" "+want || s.HasPassword() != (raw != want)) {
			t.Errorf("%s: %s, %v", raw, shown, s.HasPassword())
		}
	}
}
