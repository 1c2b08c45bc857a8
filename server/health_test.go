package server

import (
	"os"
	"strings"
	"testing"
)

// A file that was replaced under a running server keeps what it is told where nobody finds it: readyz, log and answers
// say so, until the file is back.
func TestFileIsReplaced(t *testing.T) {
	t.Parallel()
	h := open(t, testConfig(sqliteURL(t)), nil)
	h.provision()
	tokens := h.login("app")
	ready := func(want int, says string) {
		t.Helper()
		r := h.get("/readyz?verbose")
		gauge := "keyturn_ready 1"
		if want != 200 {
			gauge = "keyturn_ready 0"
		}
		if r.status != want || !strings.Contains(r.body, says) || !strings.Contains(h.metricsText(), gauge) {
			t.Errorf("%d %s, want %d, %s", r.status, r.body, want, gauge)
		}
	}
	ready(200, "database ok")
	file := strings.TrimPrefix(h.config.Database, "sqlite:")
	must(0, os.Rename(file, file+".away"))
	must(0, os.WriteFile(file, nil, 0o600))
	ready(503, "database failed")
	for path, form := range map[string][]string{
		"/token":      {"grant_type", "refresh_token", "refresh_token", tokens.RefreshToken},
		"/introspect": {"token", tokens.AccessToken},
		"/revoke":     {"token", tokens.RefreshToken},
	} {
		if r := h.post(path, "app", form...); r.status != 503 {
			t.Errorf("%s is served from a file that is gone: %d %s", path, r.status, r.body)
		}
	}
	if !strings.Contains(h.log.String(), "was replaced or removed") {
		t.Error("the log does not tell of it")
	}
	must(0, os.Rename(file+".away", file))
	ready(200, "database ok")
	h.refresh("app", tokens.RefreshToken).tokens(t)
	must(0, os.Remove(file+"-wal")) // as somebody does who copies a backup into the same file
	must(0, os.Remove(file+"-shm"))
	ready(503, "database failed")
}

// A flood on readyz asks nothing of the database.
func TestReadyAsksNobody(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		h.server.look(ctx)
		h.server.db.Close()
		if err := h.server.ready(); err != nil {
			t.Error("what was seen a moment ago is forgotten:", err)
		}
		if h.server.look(ctx); h.server.ready() == nil {
			t.Error("ready without a database")
		}
	})
}
