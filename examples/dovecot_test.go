//go:build interop

package examples_test

import (
	"bufio"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// dovecotConfig is a Dovecot that listens on a loopback port and asks nobody but the tokens.
const dovecotConfig = `base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/dovecot.log
protocols = imap
ssl = no
disable_plaintext_auth = no
auth_mechanisms = xoauth2
auth_failure_delay = 0
mail_location = maildir:DIR/mail/%u
first_valid_uid = 1
service imap-login {
  inet_listener imap {
    address = 127.0.0.1
    port = PORT
  }
  inet_listener imaps {
    port = 0
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
passdb {
  driver = oauth2
  mechanisms = xoauth2
  args = DIR/dovecot-oauth2.conf.ext
}
userdb {
  driver = static
  args = uid=dovecot gid=dovecot home=DIR/mail/%u
}
`

// Dovecot lets people in by their tokens, with the settings of docs/verify-more.md.
func TestDovecot(t *testing.T) {
	t.Parallel()
	const audience = "https://imap.example.com"
	k := newKeyturn(t, audience, false)
	for _, client := range []string{"dated", "other", "brief"} {
		k.do("client", "update", client, "--token-typ", "JWT", "--claim", "username")
	}
	port := k.startDovecot(audience)
	gatekeeper{k, "dated", func(token string) bool { return imapLogin(t, port, k.username, token) }}.judges()
	if imapLogin(t, port, k.username, k.login("app").Access) {
		t.Error("a token of typ at+jwt lets in")
	}
	if imapLogin(t, port, "bob", k.login("dated").Access) {
		t.Error("the token of alice lets bob in")
	}
}

// startDovecot writes the keys and the settings, and starts Dovecot on the port that it returns.
func (k *keyturn) startDovecot(audience string) (port string) {
	k.t.Helper()
	dir := folder(k.t, "dovecot")
	must := func(err error) {
		k.t.Helper()
		if err != nil {
			k.t.Fatal(err)
		}
	}
	settings := strings.NewReplacer("/etc/dovecot/", dir+"/", "https://imap.example.com", audience).
		Replace(k.settings("# /etc/dovecot/", k.issuer))
	must(os.WriteFile(dir+"/dovecot-oauth2.conf.ext", []byte(settings), 0o644))
	for kid, key := range k.publicKeys() {
		path := filepath.Join(dir, "keys/default/RS256", kid)
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		must(os.WriteFile(path, key, 0o644))
	}
	port = storagetest.FreePort(k.t)
	config := strings.NewReplacer("DIR", dir, "PORT", port).Replace(dovecotConfig)
	must(os.WriteFile(dir+"/dovecot.conf", []byte(config), 0o644))
	start(k.t, dir, "mkdir -p run state mail && chown dovecot mail && exec dovecot -F -c "+dir+"/dovecot.conf")
	await(k.t, "dovecot", time.Minute, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return port
}

// publicKeys returns the keys of the JWKS as PEM, by kid.
func (k *keyturn) publicKeys() map[string][]byte {
	k.t.Helper()
	answer, err := http.Get(k.issuer + "/.well-known/jwks.json")
	if err != nil {
		k.t.Fatal(err)
	}
	defer answer.Body.Close()
	var set struct{ Keys []struct{ KID, N string } }
	if err := json.NewDecoder(answer.Body).Decode(&set); err != nil {
		k.t.Fatal(err)
	}
	keys := map[string][]byte{}
	for _, key := range set.Keys {
		n, err := base64.RawURLEncoding.DecodeString(key.N)
		if err != nil {
			k.t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
		if err != nil {
			k.t.Fatal(err)
		}
		keys[key.KID] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	return keys
}

// imapLogin reports whether Dovecot lets a user in by a token (XOAUTH2).
func imapLogin(t *testing.T, port, user, token string) bool {
	t.Helper()
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	lines := bufio.NewReader(c)
	lines.ReadString('\n') // the greeting
	text := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "user=%s\x01auth=Bearer %s\x01\x01", user, token))
	fmt.Fprintf(c, "a AUTHENTICATE XOAUTH2 %s\r\n", text)
	line, err := lines.ReadString('\n')
	if strings.HasPrefix(line, "+") { // the reason, which the client acknowledges
		fmt.Fprint(c, "\r\n")
		line, err = lines.ReadString('\n')
	}
	if err != nil || !strings.HasPrefix(line, "a ") {
		t.Fatalf("%q %v", line, err)
	}
	return strings.HasPrefix(line, "a OK")
}
