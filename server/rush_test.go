package server_test

import (
	"context"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server"
	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// rush is a crowd that is larger than what the server can sign within the patience of its clients.
type rush struct {
	name     string
	clients  int
	patience time.Duration // 0: a third of what this machine needs for all of them
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
		{"one replica", 200, 0, 1, 2048, 1},
		{"two replicas", 200, 0, 1, 2048, 2},
	}
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
	config := server.ConfigFor(databaseURL)
	config.KeyBits, config.LogLevel = c.bits, "error"
	if c.replicas > 1 { // which do not know for how long a client has waited at another
		config.RefreshLateRetry = 24 * time.Hour
	}
	if !server.IsSQLite(databaseURL) {
		config.MasterKeyFile = server.MasterFile(t)
	}
	module := keystest.Module()
	var replicas []*server.Serving
	for range c.replicas {
		replicas = append(replicas, server.ServeWith(t, config, server.Options{Module: module, CPUs: c.cpus}))
	}
	replicas[0].Provision()
	crowd := server.CrowdOf(replicas...)
	limited, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	filled := replicas[0].FillGrants("app", c.clients)
	result := servertest.Rush{Next: make([]string, c.clients)}
	for i := range result.Next {
		result.Next[i] = filled.RefreshToken(i)
	}
	fixed := c.patience > 0
	if !fixed {
		result = crowd.Rush(limited, result.Next, time.Minute)
		c.patience = result.Took / 3
	}
	for {
		result = crowd.Rush(limited, result.Next, c.patience)
		if fixed || result.Timeouts+result.Lost+result.Unserved > 0 {
			break
		}
		c.patience /= 2 // nobody had to wait: the machine has become faster
	}
	t.Logf("%d clients that wait %v: %d lost, %d unserved, %d timeouts, %d answers with 503, all served after %v",
		result.Clients, c.patience.Round(time.Millisecond), result.Lost, result.Unserved, result.Timeouts,
		result.Refusals, result.Took.Round(time.Millisecond))
	var late int
	row := storagetest.Raw(t, databaseURL).QueryRow(`SELECT COUNT(*) FROM audit WHERE type = 'grant.late-retry'`)
	server.Must(0, row.Scan(&late))
	t.Logf("%d of them repeated later than the retry window", late)
	if result.Lost > 0 || result.Unserved > 0 {
		t.Errorf("%d of %d sessions were lost, %d not served", result.Lost, result.Clients, result.Unserved)
	}
	for i, next := range result.Next { // what they were given is good
		if i%50 == 0 && next != "" {
			replicas[0].Refresh("app", next).Tokens(t)
		}
	}
}
