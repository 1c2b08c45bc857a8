package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// twin is a change that is made once over the API and once on the command line, each on a twin of the same object.
type twin struct {
	name    string
	prepare func(t *testing.T, s *consoletest.Server, who string) (target string) // makes the twin
	method  string
	path    string // of the API; %s is the target
	body    string // %s is the target, if it is there
	command string // %s is the target
	read    string // path of the API that shows the row after the change; %s is the target
}

func makeClient(t *testing.T, s *consoletest.Server, who string) string {
	t.Helper()
	consoletest.Must(s.Admin("twin").Clients().Create(t.Context(), admin.ClientSpec{
		ID:        "twin-" + who,
		Grants:    []string{"password"},
		Audiences: []string{"https://api.example"},
	}))
	return "twin-" + who
}

func makeUser(t *testing.T, s *consoletest.Server, who string) string {
	t.Helper()
	consoletest.Must(s.Admin("twin").Users().Create(t.Context(), "twin-"+who, consoletest.Password, []string{"a"}))
	return "twin-" + who
}

func disabled(
	make func(*testing.T, *consoletest.Server, string) string, disable func(*admin.Admin, context.Context,
		string) error,
) func(*testing.T, *consoletest.Server, string) string {
	return func(t *testing.T, s *consoletest.Server, who string) string {
		t.Helper()
		name := make(t, s, who)
		if err := disable(s.Admin("twin"), t.Context(), name); err != nil {
			t.Fatal(err)
		}
		return name
	}
}

func makeGrant(t *testing.T, s *consoletest.Server, who string) (id string) {
	t.Helper()
	name := makeUser(t, s, who)
	s.Login(name)
	if err := s.Admin("").Grants().Each(t.Context(), admin.GrantFilter{Username: name}, func(g []admin.Grant) error {
		id = g[0].ID.String()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return id
}

func previousKey(t *testing.T, s *consoletest.Server, who string) string {
	t.Helper()
	r := consoletest.Must(s.Admin("twin").Keys().Rotate(t.Context(), admin.Gate{Force: true}))
	return r.Previous
}

func nothing(*testing.T, *consoletest.Server, string) string { return "" }

var twins = []twin{
	{"client disable", makeClient, "POST", "clients/%s/disable", `{"reason": "why"}`, "client disable %s --reason why",
		"clients/%s"},
	{"client enable", disabled(makeClient, func(a *admin.Admin, ctx context.Context, id string) error {
		return a.Clients().Disable(ctx, id)
	}), "POST", "clients/%s/enable", `{"reason": "why"}`, "client enable %s --reason why", "clients/%s"},
	{"client rotate-secret", makeClient, "POST", "clients/%s/rotate-secret", `{"reason": "why", "keep": "0s"}`,
		"client rotate-secret %s --keep 0 --reason why", "clients/%s"},
	{"user disable", makeUser, "POST", "users/%s/disable", `{"reason": "why"}`, "user disable %s --reason why",
		"users/%s"},
	{"user enable", disabled(makeUser, func(a *admin.Admin, ctx context.Context, name string) error {
		return a.Users().Disable(ctx, name)
	}), "POST", "users/%s/enable", `{"reason": "why"}`, "user enable %s --reason why", "users/%s"},
	{"user unlock", makeUser, "POST", "users/%s/unlock", `{"reason": "why"}`, "user unlock %s --reason why",
		"users/%s"},
	{"user roles", makeUser, "POST", "users/%s/roles", `{"reason": "why", "roles": ["b", "c"]}`,
		"user update %s --role b --role c --reason why", "users/%s"},
	{"grant", makeGrant, "DELETE", "grants/%s?reason=why", "", "grant revoke %s --reason why", "grants/%s"},
	{"grants of a user", makeUser, "POST", "grants/revoke", `{"reason": "why", "user": "%s"}`,
		"grant revoke --user %s --yes --reason why", "users/%s"},
	{"grants of a client", makeClient, "POST", "grants/revoke", `{"reason": "why", "client": "%s"}`,
		"grant revoke --client %s --yes --reason why", "clients/%s"},
	{"all grants", nothing, "POST", "grants/revoke", `{"reason": "why", "all": true}`,
		"grant revoke --all --yes --reason why", ""},
	{"rotation", nothing, "POST", "keys/rotate", `{"reason": "why", "force": true}`,
		"keys rotate --force --reason why", ""},
	{"revocation", previousKey, "POST", "keys/%s/revoke", `{"reason": "why", "kid": "%s"}`,
		"keys revoke %s --yes --reason why", ""},
	{"revocation that ends logins", previousKey, "POST", "keys/%s/revoke",
		`{"reason": "why", "kid": "%s", "end_grants": "all"}`,
		"keys revoke %s --yes --end-grants all --reason why", ""},
}

// Each change over the API and on the command line gives the same row, the same answer and the same audit records. The
// records of the API also have the way and the address.
func TestTwins(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		t.Parallel()
		s := consoletest.Open(t, databaseURL, consoletest.Options{})
		api := s.OverSocket()
		for _, c := range twins {
			t.Run(c.name, func(t *testing.T) {
				viaAPI, viaCommand := c.prepare(t, s, strings.ReplaceAll(c.name, " ", "-")+"-x"), ""
				before := newestRecord(t, s)
				answer := api.API(c.method, with(c.path, viaAPI), with(c.body, viaAPI), "If-Match: *")
				if answer.Status != http.StatusOK {
					t.Fatalf("%d %s", answer.Status, answer.Body)
				}
				fromAPI := recordsAfter(t, s, before)
				viaCommand = c.prepare(t, s, strings.ReplaceAll(c.name, " ", "-")+"-y")
				before = newestRecord(t, s)
				printed := runOn(t, s, databaseURL, with(c.command, viaCommand))
				fromCommand := recordsAfter(t, s, before)
				for i := range fromAPI {
					details := fromAPI[i]["details"].(map[string]any)
					if details["way"] != admin.WaySocket || details["address"] != "socket" {
						t.Errorf("the record has neither way nor address: %v", details)
					}
					delete(details, "way")
					delete(details, "address")
				}
				same := func(what string, a, b any) {
					t.Helper()
					if diff := cmp.Diff(neutral(a, viaAPI), neutral(b, viaCommand)); diff != "" {
						t.Errorf("%s:\n%s", what, diff)
					}
				}
				same("records", fromAPI, fromCommand)
				if c.read != "" {
					same("rows", decode(t, api.API("GET", with(c.read, viaAPI), "").Body),
						decode(t, api.API("GET", with(c.read, viaCommand), "").Body))
				}
				compareAnswers(t, c, decode(t, answer.Body), decode(t, printed), same)
			})
		}
	})
}

// compareAnswers compares what the API answers with what the command prints. A command prints several logins as a list.
func compareAnswers(t *testing.T, c twin, answer, printed any, same func(what string, a, b any)) {
	t.Helper()
	rows, isList := printed.([]any)
	switch page, _ := answer.(map[string]any); {
	case !isList:
		same("answers", answer, printed)
	case c.path == "grants/revoke":
		if len(page["items"].([]any)) != len(rows) && c.name != "all grants" {
			t.Errorf("the API lists %v, the command %d", page["items"], len(rows))
		}
	default:
		same("answers", []any{answer}, rows)
	}
}

func with(text, target string) string { return strings.ReplaceAll(text, "%s", target) }

func decode(t *testing.T, text string) (value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return value
}

// varying are names of values that differ between twins: times, random values, and links of the chain.
var varying = map[string]bool{
	"seq": true, "time": true, "prev_hash": true, "hash": true, "created_at": true, "updated_at": true, "sub": true,
	"disabled_at": true, "id": true, "client_secret": true, "previous_expires_at": true, "last_used_at": true,
	"expires_at": true, "idle_expires_at": true, "revoked_at": true, "ended_at": true, "kid": true, "current": true,
	"next": true, "previous": true, "revoked": true, "exposed_until": true, "second_rotation_at": true, "since": true,
	"username": true, "use": true, "grants": true, "ended_grants": true, "tokens": true, "users": true,
}

// neutral replaces what differs between twins. It keeps whether a value is null.
func neutral(value any, target string) any {
	switch v := value.(type) {
	case map[string]any:
		same := map[string]any{}
		for name, inner := range v {
			if varying[name] && inner != nil {
				same[name] = "…"
				continue
			}
			same[name] = neutral(inner, target)
		}
		if _, isRecord := v["prev_hash"]; isRecord {
			same["target"] = "…"
		}
		return same
	case []map[string]any:
		var all []any
		for _, inner := range v {
			all = append(all, neutral(maps.Clone(inner), target))
		}
		return all
	case []any:
		var all []any
		for _, inner := range v {
			all = append(all, neutral(inner, target))
		}
		return all
	case string:
		if target != "" {
			return strings.ReplaceAll(v, target, "…")
		}
	}
	return value
}

func newestRecord(t *testing.T, s *consoletest.Server) int64 {
	t.Helper()
	return consoletest.Must(s.Admin("").Audit().Newest(t.Context()))
}

// recordsAfter returns the records of administrators after a number.
func recordsAfter(t *testing.T, s *consoletest.Server, after int64) (all []map[string]any) {
	t.Helper()
	err := s.Admin("").Audit().Each(t.Context(), admin.AuditFilter{After: after}, func(page []admin.AuditRecord) error {
		for _, r := range page {
			if r.Actor == "keyturn" {
				continue
			}
			text := consoletest.Must(json.Marshal(r))
			all = append(all, decode(t, string(text)).(map[string]any))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// runOn runs a command on the database of a server, and returns what it prints as JSON.
func runOn(t *testing.T, s *consoletest.Server, databaseURL, command string) string {
	t.Helper()
	args := append(strings.Fields(command), "--json", "--database", databaseURL, "--master-key-file",
		s.Place.MasterKeyFile, "--allow-insecure-database")
	var out, said bytes.Buffer
	environ := func(string) string { return "" }
	if code := run(context.Background(), args, environ, nil, strings.NewReader(""), &out, &said); code != 0 {
		t.Fatalf("keyturn %s: %d\n%s", command, code, said.String())
	}
	if out.Len() == 0 {
		t.Fatal(fmt.Errorf("keyturn %s prints nothing", command))
	}
	return out.String()
}
