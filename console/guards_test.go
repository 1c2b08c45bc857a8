package console_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

func TestFirstEntry(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		t.Parallel()
		s := consoletest.Open(t, databaseURL, consoletest.Options{})
		alice := s.SignedIn("alice", admin.RoleViewer)
		if a := alice.Do("GET", "/keys", nil, ""); a.Status != http.StatusOK || !strings.Contains(a.Body,
			"Signing keys") {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}
