// Command glewlwyd starts Debian's glewlwyd for keyturn-bench, on SQLite in a folder. At the first start it makes the
// parties of the bench there. glewlwyd hashes passwords with PBKDF2-SHA256, by default in 150,000 iterations.
package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/peers/peer"
)

const (
	program = "/usr/bin/glewlwyd"
	schema  = "/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3"
	server  = "oidc" // the name of its OAuth server: its paths are below /api/oidc
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "announce" {
		announce(os.Args[2])
		return
	}
	if len(os.Args) != 2 {
		peer.Fail(errors.New("pass the folder of the database"))
	}
	if err := serve(os.Args[1]); err != nil {
		peer.Fail(err)
	}
}

// announce waits until glewlwyd, which started it, answers, and says so as keyturn does.
func announce(address string) {
	for parent := os.Getppid(); !answers(address); {
		if os.Getppid() != parent {
			return // glewlwyd has ended
		}
		time.Sleep(time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "{\"msg\":\"serving\",\"listen\":%q}\n", address)
}

// answers reports whether somebody listens.
func answers(address string) bool {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// serve becomes glewlwyd. Its own process has the id of this one, so that the bench measures it alone.
func serve(folder string) error {
	database := filepath.Join(folder, "glewlwyd.db")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()
	settings := filepath.Join(folder, "glewlwyd.conf")
	if err := os.WriteFile(settings, fmt.Appendf(nil, configuration, address.Port, database), 0o600); err != nil {
		return err
	}
	arguments := []string{program, "--config-file=" + settings}
	if _, err := os.Stat(database); err != nil {
		if err := prepare(address.String(), database, arguments); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	herald := exec.Command(self, "announce", address.String())
	herald.Stderr = os.Stderr
	if err := herald.Start(); err != nil {
		return err
	}
	return syscall.Exec(program, arguments, os.Environ())
}

const configuration = `port=%d
bind_address="127.0.0.1"
external_url="http://127.0.0.1:8080"
login_url="login.html"
api_prefix="api"
log_mode="console"
log_level="INFO"
cookie_secure=0
session_expiration=2419200
session_key="GLEWLWYD2_SESSION_ID"
admin_session_authentication="cookie"
profile_session_authentication="cookie"
admin_scope="g_admin"
profile_scope="g_profile"
user_module_path="/usr/lib/glewlwyd/user"
client_module_path="/usr/lib/glewlwyd/client"
user_auth_scheme_module_path="/usr/lib/glewlwyd/scheme"
plugin_module_path="/usr/lib/glewlwyd/plugin"
hash_algorithm="SHA512"
database={ type="sqlite3" path=%q };
`

// prepare makes the database, with a glewlwyd of its own.
func prepare(address, database string, arguments []string) error {
	script, err := os.Open(schema)
	if err != nil {
		return err
	}
	defer script.Close()
	load := exec.Command("sqlite3", "-bail", database)
	load.Stdin, load.Stderr = script, os.Stderr
	if err := load.Run(); err != nil {
		return err
	}
	once := exec.Command(arguments[0], arguments[1:]...)
	once.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := once.Start(); err != nil {
		return err
	}
	defer once.Wait()
	defer once.Process.Kill()
	for began := time.Now(); !answers(address); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			return errors.New("glewlwyd does not answer: run it with the configuration in " + filepath.Dir(database))
		}
	}
	return provision("http://" + address + "/api/")
}

type object = map[string]any

// step is one request to the admin API.
type step struct {
	path string
	body object
}

// provision makes the OAuth server, a scope, the client and the users.
func provision(base string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	server, err := oauthServer()
	if err != nil {
		return err
	}
	steps := []step{
		{"auth/", object{"username": "admin", "password": "password"}},
		server,
		{"scope/", object{"name": "read", "display_name": "read", "description": "read", "password_required": true,
			"password_max_age": 0, "scheme": object{}}},
		// It takes credentials as they come, and does not decode them (RFC 6749 §2.3.1).
		{"client/", object{"client_id": peer.AppID, "name": peer.AppID, "confidential": true,
			"client_secret": url.QueryEscape(peer.AppSecret), "enabled": true, "scope": []string{},
			"redirect_uri":               []string{peer.Issuer},
			"authorization_type":         []string{"password", "refresh_token"},
			"token_endpoint_auth_method": []string{"client_secret_basic"}}},
	}
	for i := range peer.People {
		steps = append(steps, step{"user/", object{"username": fmt.Sprintf("user%d", i), "name": "", "email": "",
			"password": peer.Password, "enabled": true, "scope": []string{"read"}}})
	}
	client := http.Client{Jar: jar, Timeout: 10 * time.Second}
	for _, s := range steps {
		body, err := json.Marshal(s.body)
		if err != nil {
			return err
		}
		answer, err := client.Post(base+s.path, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("glewlwyd: %s: %s", s.path, answer.Status)
		}
	}
	return nil
}

// oauthServer makes glewlwyd's OAuth server. Its refresh tokens are for one use, as keyturn's.
func oauthServer() (step, error) {
	key := peer.NewKey()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return step{}, err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	return step{"mod/plugin/", object{"module": "oidc", "name": server, "display_name": server, "parameters": object{
		"iss": peer.Issuer, "jwt-type": "rsa", "jwt-key-size": "256", "key": string(private),
		"cert":                  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"access-token-duration": 3600, "refresh-token-duration": 1209600, "code-duration": 600,
		"refresh-token-rolling": true, "refresh-token-one-use": "always", "allow-non-oidc": true, "jwks-show": true,
		"auth-type-code-enabled": false, "auth-type-token-enabled": false, "auth-type-id-token-enabled": true,
		"auth-type-password-enabled": true, "auth-type-client-enabled": false, "auth-type-refresh-enabled": true,
		"auth-type-device-enabled": false, "subject-type": "public", "introspection-revocation-allowed": true,
		"introspection-revocation-allow-target-client": true,
	}}}, nil
}
