package examples_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/examples"
)

var update = flag.Bool("update", false, "write docs/verify")

// The files that a reader gets contain none of the placeholders.
func TestFilesAreFilledIn(t *testing.T) {
	reader := examples.Reader{
		Issuer:   "https://login.test/oauth",
		Audience: "https://things.test",
		Listen:   "127.0.0.1:7777",
	}
	for _, e := range examples.All() {
		files, err := examples.Files(e.Name, reader)
		if err != nil || len(files) < 2 || files[0].Path != "README.md" || e.Title == "" {
			t.Fatalf("%+v %v: %d files", e, err, len(files))
		}
		all := ""
		for _, f := range files[1:] {
			all += f.Text
		}
		for _, left := range []string{"auth.example.com", "https://api.example.com", "go:build", "127.0.0.1:9000"} {
			if strings.Contains(all, left) {
				t.Errorf("%s: %s is left", e.Name, left)
			}
		}
		if !strings.Contains(all, reader.Issuer) {
			t.Errorf("%s does not name the issuer", e.Name)
		}
		if e.Kind == examples.ResourceServer && e.Name != "curl" && !strings.Contains(all, reader.Listen) &&
			e.Name != "django-simplejwt" {
			t.Errorf("%s does not listen where it should", e.Name)
		}
	}
	if _, err := examples.Files("testdata", reader); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Every package that a README installs is one that the interoperability tests run with.
func TestWhatIsInstalled(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	debian, node := read("../.ci/tools"), read("package.json")
	golang := read("testdata/go/go.mod") + read("../verify/go.mod")
	install := regexp.MustCompile("(?m)^(apt-get install|npm install|go mod init [^ ]+ && go get) (.*)$")
	for _, e := range examples.All() {
		files, err := examples.Files(e.Name, examples.Reader{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range install.FindAllStringSubmatch(files[0].Text, -1) {
			for _, name := range strings.Fields(m[2]) {
				installed := map[byte]string{'a': debian, 'n': node, 'g': golang}[m[1][0]]
				quoted := regexp.MustCompile(`(^|[\s"])` + regexp.QuoteMeta(name) + `[\s":;]`)
				if !quoted.MatchString(installed) {
					t.Errorf("%s: no test runs it with %s", e.Name, name)
				}
			}
		}
	}
}

// The pages of docs/verify consist of the examples and their measurements. `make pages` writes them.
func TestPages(t *testing.T) {
	measured := map[string]string{}
	text, err := os.ReadFile("testdata/as-shipped.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, took, _ := strings.Cut(strings.TrimSpace(line), " ")
		measured[name] = strings.TrimSpace(took)
	}
	overview, err := os.ReadFile("../docs/verify.md")
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	for _, e := range examples.All() {
		if e.Kind == examples.ResourceServer {
			pages[e.Name+".md"] = page(t, e, measured[e.Name])
			row := regexp.MustCompile(
				`verify/` + regexp.QuoteMeta(e.Name) + `\.md\) \| \w+ \| ` + regexp.QuoteMeta(measured[e.Name]) + ` \|`,
			)
			if !row.Match(overview) {
				t.Errorf("docs/verify.md does not say what was measured of %s: %s", e.Name, measured[e.Name])
			}
		}
	}
	if *update {
		if err := os.RemoveAll("../docs/verify"); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("../docs/verify", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range pages {
		path := filepath.Join("../docs/verify", name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is not what examples/ says: run `make pages`", path)
		}
	}
	if there, err := os.ReadDir("../docs/verify"); err != nil || len(there) != len(pages) {
		t.Errorf("%d files in docs/verify, for %d examples: %v", len(there), len(pages), err)
	}
}

var languages = map[string]string{
	".py":   "python",
	".go":   "go",
	".mjs":  "js",
	".js":   "js",
	".conf": "nginx",
	".sh":   "bash",
	".json": "html",
}

// page is one page of docs/verify.
func page(t *testing.T, e examples.Example, took string) string {
	t.Helper()
	files, err := examples.Files(e.Name, examples.Reader{})
	if err != nil {
		t.Fatal(err)
	}
	if took == "" {
		t.Errorf("%s was not measured", e.Name)
	}
	about := strings.TrimSpace(strings.TrimPrefix(files[0].Text, "# "+e.Title))
	var b strings.Builder
	fmt.Fprintf(&b, "# Verify tokens: %s\n\n%s\n\n", e.Title, about)
	fmt.Fprintf(
		&b,
		"**A revoked key**: the server accepted its tokens for another %s, when %s just before\n([how this was "+
			"measured](../verify.md#what-was-measured)).\n\n",
		took,
		asked(files),
	)
	fmt.Fprintf(
		&b,
		"This command writes the files with your values: `keyturn example %s --issuer https://auth.example.com "+
			"--audience https://api.example.com --dir .`\n",
		e.Name,
	)
	for _, f := range files[1:] {
		fmt.Fprintf(&b, "\n`%s`:\n\n```%s\n%s```\n", f.Path, languages[filepath.Ext(f.Path)], f.Text)
	}
	return b.String()
}

// asked says what a resource server asks of keyturn: about each token, or for the keys.
func asked(files []examples.File) string {
	for _, f := range files[1:] {
		if strings.Contains(f.Text, "/introspect") {
			return "it had asked keyturn about them"
		}
	}
	return "it had fetched the keys"
}
