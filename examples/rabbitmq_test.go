//go:build interop

package examples_test

import (
	"crypto/tls"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// RabbitMQ lets people in by their tokens, with the settings of docs/verify-more.md.
func TestRabbitMQ(t *testing.T) {
	t.Parallel()
	k := newKeyturn(t, "urn:rabbitmq", true)
	gatekeeper{k, "app", k.startRabbitMQ().letsIn}.judges()
}

// rabbit is a running RabbitMQ.
type rabbit struct {
	t   *testing.T
	env []string
}

// certificates makes a certificate authority and a certificate for the loopback address. RabbitMQ trusts no certificate
// that signs itself.
const certificates = `new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2'
openssl req -x509 $new -keyout ca.key -out ca.pem -subj /CN=authority
openssl req -x509 $new -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE`

// startRabbitMQ starts a RabbitMQ with its own port mapper, in a folder of its own. It reads the JWKS by TLS from a
// proxy before keyturn.
func (k *keyturn) startRabbitMQ() *rabbit {
	k.t.Helper()
	must := func(err error) {
		k.t.Helper()
		if err != nil {
			k.t.Fatal(err)
		}
	}
	dir := folder(k.t, "rabbitmq")
	issuer, err := url.Parse(k.issuer)
	must(err)
	if out, ok := run(k.t, dir, certificates); !ok {
		k.t.Fatal(out)
	}
	certificate, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
	must(err)
	proxy := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(issuer))
	proxy.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	proxy.StartTLS()
	k.t.Cleanup(proxy.Close)
	k.writeRabbitMQSettings(dir, strings.Replace(proxy.URL, "127.0.0.1", "localhost", 1))
	r := &rabbit{k.t, []string{"HOME=" + dir, "ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT=" + storagetest.FreePort(k.t),
		"RABBITMQ_NODENAME=" + filepath.Base(dir) + "@localhost", "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODE_PORT=" + storagetest.FreePort(k.t), "RABBITMQ_DIST_PORT=" + storagetest.FreePort(k.t),
		"RABBITMQ_CONFIG_FILE=" + dir + "/rabbitmq.conf",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + dir + "/plugins", "RABBITMQ_MNESIA_BASE=" + dir + "/data",
		"RABBITMQ_LOGS=-", "RABBITMQ_LOG_BASE=" + dir + "/log",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_GENERATED_CONFIG_DIR=" + dir + "/config", "RABBITMQ_CONF_ENV_FILE=" + dir + "/none"}}
	start(k.t, dir, "exec epmd", r.env...)
	start(k.t, dir, "exec "+rabbitPrograms+"/rabbitmq-server", r.env...)
	await(k.t, "RabbitMQ", 2*time.Minute, func() bool { _, err := r.ctl("ping"); return err == nil })
	if out, err := r.ctl("await_startup", "--timeout=120"); err != nil {
		k.t.Fatal(err, out)
	}
	return r
}

// writeRabbitMQSettings writes the settings of the page, for an issuer that is reached by TLS.
func (k *keyturn) writeRabbitMQSettings(dir, issuer string) {
	k.t.Helper()
	settings := k.settings("# rabbitmq.conf", issuer)
	if !newerRabbitMQ() {
		settings = regexp.MustCompile(`(?m)^auth_oauth2\.preferred_username_claims.*$`).ReplaceAllString(settings, "")
	}
	settings += "\nauth_oauth2.https.cacertfile = " + dir + "/ca.pem\n"
	plugins := "[rabbitmq_auth_backend_oauth2].\n"
	for file, text := range map[string]string{"rabbitmq.conf": settings, "plugins": plugins} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
}

// rabbitPrograms is where Debian keeps the programs without the wrappers that change the user.
const rabbitPrograms = "/usr/lib/rabbitmq/bin"

// newerRabbitMQ reports whether the RabbitMQ here knows all settings of the page.
func newerRabbitMQ() bool {
	version, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server").Output()
	var major, minor int
	fmt.Sscanf(string(version), "%d.%d", &major, &minor)
	return err == nil && (major > 3 || minor >= 12)
}

// letsIn reports whether the broker lets a user in whose password is a token.
func (r *rabbit) letsIn(token string) bool {
	r.t.Helper()
	out, err := r.ctl("authenticate_user", "alice", token)
	if err != nil && !strings.Contains(out, "failed to authenticate") {
		r.t.Fatalf("%v %s", err, out)
	}
	return err == nil
}

func (r *rabbit) ctl(args ...string) (string, error) {
	c := exec.Command(rabbitPrograms+"/rabbitmqctl", args...)
	c.Env = append(storagetest.Environ(), append([]string{"PATH=/usr/sbin:/usr/bin:/bin"}, r.env...)...)
	out, err := c.CombinedOutput()
	return string(out), err
}
