package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// rush is a crowd that is larger than what the server can sign within the patience of its clients.
type rush struct {
	name     string
	clients  int
	patience time.Duration
	cpus     int
	bits     int
	replicas int
}

func rushes() []rush {
	if servertest.Soak() {
		return []rush{
			{"9000 clients, RSA-2048, one CPU", 9000, 5 * time.Second, 1, 2048, 1},
			{"9000 clients, RSA-2048, two replicas", 9000, 5 * time.Second, 1, 2048, 2},
			{"9000 clients, RSA-4096", 9000, 5 * time.Second, 2, 4096, 1},
			{"9000 clients, RSA-4096, two replicas", 9000, 5 * time.Second, 1, 4096, 2},
		}
	}
	return []rush{
		{"one replica", max(1500, 2*signaturesPerSecond()), time.Second, 1, 2048, 1},
		{"two replicas", max(1500, 3*signaturesPerSecond()), time.Second, 1, 2048, 2},
	}
}

// signaturesPerSecond is what one CPU of this machine can sign: a crowd is one that it cannot serve at once.
func signaturesPerSecond() int {
	key := must(keystest.Generator()(2048))
	hashed := make([]byte, crypto.SHA256.Size())
	const enough = 20
	began := time.Now()
	for range enough {
		must(rsa.SignPKCS1v15(nil, key, crypto.SHA256, hashed))
	}
	return int(enough * time.Second / time.Since(began))
}

// More clients refresh at the same moment than the server can sign for before they give up, and they repeat the same
// token. None of them is taken for a thief: whatever makes a request wait comes before its grant is changed.
func TestRush(t *testing.T) {
	for _, c := range rushes() {
		t.Run(c.name, func(t *testing.T) {
			storagetest.EachURL(t, func(t *testing.T, databaseURL string) { c.run(t, databaseURL) })
		})
	}
}

func (c rush) run(t *testing.T, databaseURL string) {
	config := testConfig(databaseURL)
	config.KeyBits, config.LogLevel = c.bits, "error"
	if c.replicas > 1 { // one does not know for how long a client has waited at the other
		config.RefreshLateRetry = Duration(24 * time.Hour)
	}
	if storage.SQLitePath(databaseURL) == "" {
		config.MasterKeyFile = masterFile(t)
	}
	generate := keystest.Generator()
	if c.bits != 2048 {
		generate = func(bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }
	}
	var replicas []*serving
	for range c.replicas {
		replicas = append(replicas, serveWith(t, config, Options{Generate: generate, CPUs: c.cpus}))
	}
	replicas[0].provision()
	filled := must(replicas[0].admin.FillGrants(ctx, "app", c.clients))
	tokens := make([]string, c.clients)
	for i := range tokens {
		tokens[i] = filled.RefreshToken(i)
	}
	crowd := crowdOf(replicas...)
	limited, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	result := crowd.Rush(limited, tokens, c.patience)
	t.Logf("%d clients: %d lost, %d unserved, %d timeouts, %d answers with 503, all served after %v",
		result.Clients, result.Lost, result.Unserved, result.Timeouts, result.Refusals,
		result.Took.Round(time.Millisecond))
	if result.Lost > 0 || result.Unserved > 0 {
		t.Errorf("%d of %d sessions were lost, %d not served", result.Lost, result.Clients, result.Unserved)
	}
	if result.Timeouts+result.Refusals == 0 {
		t.Error("nobody had to wait: this is no rush")
	}
	for i, next := range result.Next { // what they were given is good
		if i%50 == 0 && next != "" {
			replicas[0].refresh("app", next).tokens(t)
		}
	}
}
