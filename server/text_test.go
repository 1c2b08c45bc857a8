package server

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Admin refuses text that is not UTF-8, whoever calls it, and U+FFFD in new secrets, which stands for what somebody
// could not read.
func TestAdminTakesUTF8(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		const cp1251 = "\xef\xf0\xe8\xe2\xe5\xf2, \xec\xe8\xf0, \xef\xf0\xe8\xe2\xe5\xf2"
		replaced := strings.Repeat("\ufffd", 20)
		spec := func(change func(*admin.ClientSpec)) error {
			s := admin.ClientSpec{
				ID:        "new",
				Grants:    []string{api.GrantPassword},
				Audiences: []string{"https://a.example"},
				Secret:    secret,
			}
			change(&s)
			_, err := h.Admin.Clients().Create(ctx, s)
			return err
		}
		_, badName := h.Admin.Users().Create(ctx, cp1251, password, nil)
		_, badPassword := h.Admin.Users().Create(ctx, "bob", cp1251, nil)
		_, replacedPassword := h.Admin.Users().Create(ctx, "bob", replaced, nil)
		_, badRole := h.Admin.Users().Create(ctx, "bob", password, []string{cp1251})
		_, badSecret := h.Admin.Clients().RotateSecret(ctx, "app", kept(cp1251))
		_, replacedSecret := h.Admin.Clients().RotateSecret(ctx, "app", kept(replaced))
		_, badReason := OpenAdmin(ctx, *h.Server.config(), admin.Options{Actor: "os:test", Reason: cp1251})
		_, nulReason := OpenAdmin(ctx, *h.Server.config(), admin.Options{Actor: "os:test", Reason: "a\x00"})
		for what, err := range map[string]error{
			"name": badName, "password": badPassword, "replaced password": replacedPassword, "role": badRole,
			"secret": badSecret, "replaced secret": replacedSecret, "reason": badReason, "NUL in a reason": nulReason,
			"changed password":  h.Admin.Users().SetPassword(ctx, "alice", cp1251),
			"replaced, changed": h.Admin.Users().SetPassword(ctx, "alice", replaced),
			"name to look for":  h.Admin.Users().Disable(ctx, cp1251),
			"client id":         spec(func(s *admin.ClientSpec) { s.ID = cp1251 }),
			"scope":             spec(func(s *admin.ClientSpec) { s.Scope = cp1251 }),
			"audience": spec(func(s *admin.ClientSpec) {
				s.Audiences = config.List{"https://a.example/" + "\xff"}
			}),
			"resource":      spec(func(s *admin.ClientSpec) { s.Resource = "https://a.example/" + "\xff" }),
			"client secret": spec(func(s *admin.ClientSpec) { s.Secret = cp1251 }),
		} {
			if !errors.Is(err, admin.ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
		salted := "pbkdf2_sha256$1000$\xffsalt$i0i7LqFfmPwHteS0UVJWU9AhPCcLNVV1qZG2vVGPXzI="
		done := Must(h.Admin.Users().Import(ctx, []admin.ImportedUser{
			{Row: 1, Username: cp1251},
			{Row: 2, Username: "bob", Hash: salted},
			{Row: 3, Username: "carol", Roles: []string{"\xff"}},
		}, admin.ImportOptions{SkipBad: true}))
		if done.Imported != 0 || len(done.Refused) != 3 {
			t.Errorf("%+v", done)
		}
		h.Login("app") // nothing has changed
	})
}

// Credentials in Basic are text as those in a form are.
func TestBasicSecretIsUTF8(t *testing.T) {
	t.Parallel()
	for credentials, want := range map[string]bool{
		"app:%C3%A9": true, "app:\u00e9": true, "app:%E9": false, "app:\xe9": false, "app:%00": false,
		"app:a%0Ab": false, "%E9:a": false,
	} {
		if _, ok := parseBasic("Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))); ok != want {
			t.Errorf("%q: %v", credentials, ok)
		}
	}
	h := OpenHarness(t, ConfigFor(storagetest.SQLiteURL(t)), nil)
	h.Provision()
	r := Must(http.NewRequest(http.MethodPost, h.Base+"/introspect", strings.NewReader("token=x")))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("app:\xe9")))
	if answer := h.Send(r); answer.Status != http.StatusUnauthorized {
		t.Errorf("%d %s", answer.Status, answer.Body)
	}
}

// Settings are text, whoever has read them.
func TestSettingsAreUTF8(t *testing.T) {
	t.Parallel()
	c := ConfigFor("sqlite:x.db")
	c.AnchorFile, c.CORSOrigins, c.MasterKeyFile = "\xff", config.List{"https://a.example", "\xff"}, "a\x00b"
	said := errors.Join(c.Problems(false)...).Error()
	for _, key := range []string{"anchor_file: it is", "cors_origins: it is", "master_key_file: it is"} {
		if !strings.Contains(said, key) {
			t.Errorf("no %q in %q", key, said)
		}
	}
}
