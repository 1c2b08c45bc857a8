package server

import (
	"os"
	"strings"
	"testing"
)

// If somebody replaces the database file under a running server, readyz, log and answers report it until the file is
// back: what the server writes meanwhile is lost.
func TestFileIsReplaced(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	h.Provision()
	tokens := h.Login("app")
	ready := func(want int, says string) {
		t.Helper()
		r := h.Get("/readyz?verbose")
		gauge := "keyturn_ready 1"
		if want != 200 {
			gauge = "keyturn_ready 0"
		}
		if r.Status != want || !strings.Contains(r.Body, says) || !strings.Contains(h.metricsText(), gauge) {
			t.Errorf("%d %s, want %d, %s", r.Status, r.Body, want, gauge)
		}
	}
	ready(200, "database ok")
	file := strings.TrimPrefix(h.Config.Database, "sqlite:")
	Must(0, os.Rename(file, file+".away"))
	Must(0, os.WriteFile(file, nil, 0o600))
	ready(503, "database failed")
	for path, form := range map[string][]string{
		"/token":      {"grant_type", "refresh_token", "refresh_token", tokens.RefreshToken},
		"/introspect": {"token", tokens.AccessToken},
		"/revoke":     {"token", tokens.RefreshToken},
	} {
		if r := h.Post(path, "app", form...); r.Status != 503 {
			t.Errorf("%s is served from a file that is gone: %d %s", path, r.Status, r.Body)
		}
	}
	if !strings.Contains(h.Log.String(), "was replaced or removed") {
		t.Error("the log does not tell of it")
	}
	Must(0, os.Rename(file+".away", file))
	ready(200, "database ok")
	h.Refresh("app", tokens.RefreshToken).Tokens(t)
	Must(0, os.Remove(file+"-wal")) // as somebody does who copies a backup into the same file
	Must(0, os.Remove(file+"-shm"))
	ready(503, "database failed")
}

// A flood on readyz asks nothing of the database.
func TestReadyAsksNobody(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.Server.look(ctx)
		h.Server.db.Close()
		if err := h.Server.ready(); err != nil {
			t.Error("what was seen a moment ago is forgotten:", err)
		}
		if h.Server.look(ctx); h.Server.ready() == nil {
			t.Error("ready without a database")
		}
	})
}
