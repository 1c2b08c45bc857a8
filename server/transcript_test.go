package server_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bufio"

	"golang.org/x/tools/txtar"

	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/server"
)

var update = flag.Bool("update", false, "write what the server answers into the transcripts")

// TestTranscripts plays the conversations of testdata/*.txtar, byte for byte as they go over the wire, on both
// databases. Each case is two files: NAME.request and NAME.response. $WORDS stand for tokens and credentials,
// Content-Length and Connection: close are added to a request that has none, and the three headers that never repeat
// are masked.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files := server.Must(filepath.Glob("testdata/*.txtar"))
	if len(files) == 0 {
		t.Fatal("no transcripts")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			server.Each(t, func(t *testing.T, h *server.Harness) { playTranscript(t, h, file) })
		})
	}
}

func playTranscript(t *testing.T, h *server.Harness, file string) {
	archive := server.Must(txtar.ParseFile(file))
	words := transcriptWords(h)
	for i := 0; i+1 < len(archive.Files); i += 2 {
		name, isRequest := strings.CutSuffix(archive.Files[i].Name, ".request")
		if !isRequest || archive.Files[i+1].Name != name+".response" {
			t.Fatalf("%s: not a request with its response", archive.Files[i].Name)
		}
		request := wire(words.Replace(string(archive.Files[i].Data)))
		raw := h.RawExchange(request)
		checkAgainstContract(t, name, request, raw)
		got := mask(raw)
		if *update {
			archive.Files[i+1].Data = []byte(got)
		} else if want := string(archive.Files[i+1].Data); got != want {
			t.Errorf("%s:\n got: %s\nwant: %s", name, got, want)
		}
	}
	if *update {
		server.Must(0, os.WriteFile(file, txtar.Format(archive), 0o644))
	}
}

// transcriptWords are what a transcript cannot hold literally.
func transcriptWords(h *server.Harness) *strings.Replacer {
	used := h.Login("app")
	current := h.Refresh("app", used.RefreshToken).Tokens(h.T)
	h.Refresh("app", current.RefreshToken).Tokens(h.T) // now used.RefreshToken is past every window
	revoked := h.Login("app")
	h.Post("/revoke", "app", "token", revoked.RefreshToken)
	live := h.Login("app")
	page := h.Login("page")
	forged := []byte(live.RefreshToken)
	forged[20] ^= 1
	alteredAccess := live.AccessToken[:len(live.AccessToken)-10] + "AAAAAAAAAA"
	return strings.NewReplacer(
		"$APP",
		server.Basic("app", secret),
		"$OTHER",
		server.Basic("other", secret),
		"$ONCE",
		server.Basic("once", secret),
		"$RS2",
		server.Basic("rs2", secret),
		"$RS",
		server.Basic("rs", secret),
		"$WRONG",
		server.Basic("app", "not the secret of app"),
		"$NOBODY",
		server.Basic("nobody", secret),
		"$PAGE_BASIC",
		server.Basic("page", "x"),
		"$SECRET",
		formEscape(secret),
		"$PASSWORD",
		formEscape(password),
		"$USED",
		used.RefreshToken,
		"$REVOKED",
		revoked.RefreshToken,
		"$DEAD_ACCESS",
		revoked.AccessToken,
		"$LIVE",
		live.RefreshToken,
		"$ACCESS",
		live.AccessToken,
		"$PAGE_REFRESH",
		page.RefreshToken,
		"$FORGED",
		string(forged),
		"$ALTERED_ACCESS",
		alteredAccess,
		"$TRUNCATED",
		live.RefreshToken[:40],
		"$LARGE",
		strings.Repeat("x", maxBody),
		"$LONG_PASSWORD",
		strings.Repeat("p", passwords.MaxPassword+1),
	)
}

func formEscape(s string) string {
	return strings.NewReplacer("%", "%25", "+", "%2B", "&", "%26", "=", "%3D", " ", "+").Replace(s)
}

// wire turns the text of a request into its bytes.
func wire(text string) string {
	head, body, _ := strings.Cut(strings.TrimSuffix(text, "\n"), "\n\n")
	lines := strings.Split(head, "\n")
	lines = append(lines, "Host: 127.0.0.1:8080", "Connection: close")
	if !strings.Contains(head, "Transfer-Encoding") && (body != "" || strings.HasPrefix(head, "POST")) {
		lines = append(lines, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

var (
	volatile = regexp.MustCompile(`(?m)^(Date|X-Request-Id|Etag): .*$`)
	tokens   = regexp.MustCompile(`"(access_token|refresh_token|jti|sid|sub)":"[^"]*"`)
)

// mask hides what never repeats, and shows the rest as it is.
func mask(raw string) string {
	raw = strings.ReplaceAll(raw, "\r\n", "\n")
	raw = volatile.ReplaceAllString(raw, "$1: …")
	return strings.TrimRight(tokens.ReplaceAllString(raw, `"$1":"…"`), "\n") + "\n"
}

func checkAgainstContract(t *testing.T, name, request, raw string) {
	t.Helper()
	r := server.Must(http.ReadRequest(bufio.NewReader(strings.NewReader(request))))
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), r)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	_, body, _ := strings.Cut(raw, "\r\n\r\n")
	if err := validate(r, res, []byte(body)); err != nil {
		t.Errorf("%s: not valid against openapi.yaml: %v", name, err)
	}
}

// A validator that takes everything would make every test above say nothing.
func TestContractRefuses(t *testing.T) {
	t.Parallel()
	r := server.Must(http.NewRequest(http.MethodPost, issuer+"/token", nil))
	good := http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}, "Pragma": {"no-cache"},
		"X-Request-Id": {"1"}, "X-Content-Type-Options": {"nosniff"}}
	for name, c := range map[string]struct {
		status int
		drop   string
		body   string
		valid  bool
	}{
		"valid":           {400, "", `{"error":"invalid_request"}`, true},
		"unknown code":    {400, "", `{"error":"else"}`, false},
		"quote":           {400, "", `{"error":"invalid_request","error_description":"a \"quote\""}`, false},
		"more":            {400, "", `{"error":"invalid_request","stack":"x"}`, false},
		"unknown status":  {418, "", `{"error":"invalid_request"}`, false},
		"may be stored":   {400, "Cache-Control", `{"error":"invalid_request"}`, false},
		"no request id":   {400, "X-Request-Id", `{"error":"invalid_request"}`, false},
		"other type":      {400, "Content-Type", `{"error":"invalid_request"}`, false},
		"token as error":  {200, "", `{"error":"invalid_request"}`, false},
		"no expiry":       {200, "", `{"access_token":"a.b.c","token_type":"Bearer"}`, false},
		"expiry is text":  {200, "", `{"access_token":"a.b.c","token_type":"Bearer","expires_in":"600"}`, false},
		"no challenge":    {401, "", `{"error":"invalid_client"}`, false},
		"no retry-after":  {503, "", `{"error":"temporarily_unavailable"}`, false},
		"other than JSON": {400, "", `<html>`, false},
	} {
		h := good.Clone()
		h.Del(c.drop)
		err := validate(r, &http.Response{StatusCode: c.status, Header: h}, []byte(c.body))
		if (err == nil) != c.valid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
