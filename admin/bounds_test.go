package admin

import (
	"strings"
	"testing"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// The settings accept exactly what the packages that use them accept. config imports none of them.
func TestBoundsOfSettingsAgree(t *testing.T) {
	c := defaults(t)
	c.PasswordHashMemory = passwords.MaxMemory << 10
	if problems := c.Problems(true); problems != nil {
		t.Errorf("the largest hash: %v", problems)
	}
	c.PasswordHashMemory++
	problems := c.Problems(true)
	if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), "password_hash_memory: ") {
		t.Errorf("a larger hash: %v", problems)
	}
	if config.MaxLoginFailures != storage.MaxConsecutive {
		t.Errorf("login_failures up to %d, and accounts are locked after %d",
			config.MaxLoginFailures, storage.MaxConsecutive)
	}
}
