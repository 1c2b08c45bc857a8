package server_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Who was logged in on SQLite goes on on PostgreSQL: with the same refresh token, the same keys, and the same audit
// trail.
func TestCopyLogsNobodyOut(t *testing.T) {
	t.Parallel()
	c := server.ConfigFor(storagetest.SQLiteURL(t))
	c.MasterKeyFile = server.MasterFile(t)
	h := server.OpenHarness(t, c, nil)
	h.Provision()
	tokens, other := h.Login("app"), h.Login("other")
	tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
	h.Post("/revoke", "other", "token", other.AccessToken)
	for range 4 {
		h.LoginFrom("192.0.2.7", "alice", "wrong")
	}
	var users []admin.ImportedUser
	for i := range 3000 {
		users = append(users, admin.ImportedUser{Row: i, Username: fmt.Sprintf("user%d", i), Roles: []string{"x"}})
	}
	server.Must(h.Admin.Users().Import(ctx, users, admin.ImportOptions{}))
	if err := h.Admin.Clients().Disable(ctx, "once"); err != nil {
		t.Fatal(err)
	}
	before := server.Must(server.AllAudit(h.Admin, time.Time{}, ""))

	databaseURL := storagetest.PostgresURL(t)
	rows := map[string]int64{}
	told := func(table string, n int64) { rows[table] = n }
	o := admin.Options{Actor: "os:test", Reason: "test"}
	if err := server.CopyTo(ctx, c, o, databaseURL, true, told); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("while a server runs: %v", err)
	}
	jwks := h.Get("/.well-known/jwks.json").Body
	h.Server.Close()
	if err := server.CopyTo(ctx, c, o, databaseURL, true, told); err != nil {
		t.Fatal(err)
	}
	if s, err := server.OpenServer(ctx, c, server.Options{Now: h.Clock.Now, DatabaseNow: keystest.At(h.Clock.Now),
		Module: keystest.Module()}); err == nil ||
		!strings.Contains(err.Error(), "it was copied to ") {
		t.Errorf("a server takes a database that was moved: %v %v", s, err)
	}
	if rows["users"] != 3001 || rows["clients"] != 6 || rows["grants"] != 2 || rows["audit"] != int64(len(before)) {
		t.Errorf("%v", rows)
	}
	var moved *keys.UnfitError
	if err := server.CopyTo(ctx, c, o, storagetest.PostgresURL(t), true, told); !errors.As(err, &moved) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := server.OpenAdmin(ctx, c, o); !errors.As(err, &moved) {
		t.Errorf("a command takes a database that was moved: %v", err)
	}
	if err := server.CopyTo(ctx, c, o, storagetest.SQLiteURL(t), true, told); !errors.Is(err, admin.ErrInvalid) {
		t.Errorf("to SQLite: %v", err)
	}

	another := server.ConfigFor(storagetest.SQLiteURL(t))
	another.MasterKeyFile = c.MasterKeyFile
	server.OpenHarness(t, another, nil).Server.Close()
	if err := server.CopyTo(ctx, another, o, databaseURL, true, told); !errors.Is(err, admin.ErrConflict) {
		t.Errorf("over a database that is in use: %v", err)
	}
	if a, err := server.OpenAdmin(ctx, another, o); err != nil {
		t.Errorf("a copy that failed has left its mark: %v", err)
	} else {
		a.Close()
	}

	there := c
	there.Database, there.AllowInsecureDatabase = databaseURL, true
	p := server.OpenHarness(t, there, h.Clock)
	if !p.Active("rs", tokens.AccessToken) || p.Active("rs", other.AccessToken) {
		t.Error("access tokens are not what they were")
	}
	forged := server.Must(keystest.Forge(server.KIDOf(t, tokens.AccessToken), "at+jwt", []byte(`{"sub":"x"}`)))
	if p.Active("rs", forged) ||
		len(server.Must(server.AllAudit(p.Admin, time.Time{}, storage.AuditForgery))) != 1 {
		t.Error("the copy does not know which tokens were made before it")
	}
	if got, want := p.Get("/.well-known/jwks.json").Body, jwks; got != want {
		t.Errorf("other keys: %s, %s", got, want)
	}
	refreshed := p.Refresh("app", tokens.RefreshToken).Tokens(t)
	p.Refresh("app", refreshed.RefreshToken).Tokens(t)
	p.Login("app")
	if r := p.Post("/token", "once", "grant_type", "password", "username", "alice", "password",
		password); r.Status != 401 {
		t.Errorf("a client that was disabled: %d", r.Status)
	}
	if _, err := p.Admin.Audit().Verify(ctx); err != nil {
		t.Error(err)
	}
	if records := server.Must(server.AllAudit(p.Admin, time.Time{}, "database.copy")); len(records) != 1 ||
		records[0].Actor != "os:test" {
		t.Errorf("%+v", records)
	}
}
