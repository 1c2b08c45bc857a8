//go:build interop

package examples_test

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMovingFromDjango imports users that a real Django made with each of its hashers, and logs them in.
func TestMovingFromDjango(t *testing.T) {
	for name, postgres := range map[string]bool{"sqlite": false, "postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeyturn(t, "https://api.example.com", postgres)
			script, err := filepath.Abs("testdata/django_users.py")
			if err != nil {
				t.Fatal(err)
			}
			const password = "the old pässword of everybody"
			dump, ok := run(t, k.dir, "python3 '"+script+"' '"+password+"'")
			if !ok {
				t.Fatal(dump)
			}
			if err := os.WriteFile(k.dir+"/users.json", []byte(dump), 0o600); err != nil {
				t.Fatal(err)
			}
			var done struct {
				Imported, Disabled int
				Refused            []struct{ Username, Reason string }
			}
			told := k.do("user", "import", "--format=django", "--skip-bad", "--json", "users.json")
			if err := json.Unmarshal([]byte(told),
				&done); err != nil {
				t.Fatal(err)
			}
			refused := map[string]bool{}
			for _, r := range done.Refused {
				refused[r.Username] = true
			}
			login := func(username string) int {
				status, _ := k.post(
					"/token",
					"app",
					k.appSecret,
					url.Values{"grant_type": {"password"}, "username": {username}, "password": {password}},
				)
				return status
			}
			algorithms := []string{"pbkdf2_sha256", "pbkdf2_sha1", "argon2", "bcrypt_sha256", "bcrypt"}
			if strings.Contains(dump, `"username": "scrypt"`) {
				algorithms = append(algorithms, "scrypt")
			} else {
				t.Log("this Django is older than 4.0 and makes no scrypt hashes: another test uses one from Python")
			}
			for _, algorithm := range algorithms {
				for _, hash := range []string{"old", "new"} {
					if status := login(algorithm); status != 200 {
						t.Errorf("%s, by the %s hash: %d", algorithm, hash, status)
					}
				}
				var user struct{ Roles []string }
				if err := json.Unmarshal([]byte(k.do("user", "show", algorithm, "--json")), &user); err != nil ||
					len(user.Roles) != 1 ||
					user.Roles[0] != "editors" {
					t.Errorf("%v %v", user, err)
				}
			}
			for _, algorithm := range []string{"md5", "unsalted_md5", "sha1"} {
				if !refused[algorithm] || login(algorithm) != 400 {
					t.Errorf("%s is taken", algorithm)
				}
			}
			if login("retired") != 400 || login("ldap") != 400 || done.Disabled != 1 {
				t.Errorf("%+v", done)
			}
			if len(k.grants()) != 2*len(algorithms) || len(done.Refused) != 3 {
				t.Errorf("%d grants, %+v", len(k.grants()), done)
			}
			k.do("audit", "verify")
		})
	}
}
