package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// Text in other encodings than UTF-8.
const (
	cp1251      = "\xef\xf0\xe8\xe2\xe5\xf2\xef\xf0\xe8\xe2\xe5\xf2\xef\xf0\xe8\xe2\xe5\xf2" // привет, thrice
	marked      = "\xef\xbb\xbf"
	markedUTF16 = "\xff\xfea\x00b\x00"
)

func TestCheckText(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"привет, мир\n":                       "",
		"a\x00b":                              "",
		"a":                                   "",
		"\x00":                                "",
		cp1251:                                "line 1: it is not UTF-8",
		"a\nb\n" + cp1251:                     "line 3: it is not UTF-8",
		"a\xed\xa0\x80":                       "line 1: it is not UTF-8", // a surrogate
		"a\xc0\x80":                           "line 1: it is not UTF-8", // overlong
		"a\xe2\x82":                           "line 1: it is not UTF-8", // cut off
		marked + "a":                          "it begins with a byte order mark: save it as UTF-8 without one",
		markedUTF16:                           "it is UTF-16: save it as UTF-8",
		"\xfe\xff\x00a":                       "it is UTF-16: save it as UTF-8",
		"\xff\xfe\x00\x00a\x00\x00\x00":       "it is UTF-32: save it as UTF-8",
		"a\x00b\x00c\x00":                     "it is UTF-16: save it as UTF-8",
		"\x00a\x00b\x00c":                     "it is UTF-16: save it as UTF-8",
		strings.Repeat("a\x00", 100) + "\xff": "it is UTF-16: save it as UTF-8",
	} {
		_, read := io.ReadAll(newTextReader(strings.NewReader(text)))
		for how, err := range map[string]error{"whole": checkText([]byte(text)), "read": read} {
			if (want == "") != (err == nil) ||
				err != nil && !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%q, %s: %v, want %q", text, how, err, want)
			}
		}
	}
}

// However a text arrives, the reader passes it on unchanged, or returns the error of checkText.
func FuzzText(f *testing.F) {
	for _, seed := range []string{
		"", "a\nпривет\n", cp1251, marked, markedUTF16, "a\x00", "\xe2\x82", "\n\xe2\x82\xac\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		want := checkText(text)
		if want == nil && !utf8.Valid(text) {
			t.Fatalf("%q is taken", text)
		}
		for name, from := range map[string]io.Reader{
			"at once":      bytes.NewReader(text),
			"by bytes":     iotest.OneByteReader(bytes.NewReader(text)),
			"with its end": iotest.DataErrReader(bytes.NewReader(text)),
		} {
			got, err := io.ReadAll(newTextReader(from))
			same := (want == nil) == (err == nil) && (want == nil || err.Error() == want.Error())
			if !same ||
				want == nil && !bytes.Equal(got, text) {
				t.Fatalf("%q, %s: %v, want %v", text, name, err, want)
			}
		}
	})
}

// aFolder is a folder with an SQLite database for commands that run in this process.
type aFolder struct {
	t    *testing.T
	path string
}

func (f aFolder) write(name, content string) string {
	f.t.Helper()
	path := filepath.Join(f.path, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// run runs a command line in this process: words, with variables of the environment, NAME=VALUE, before them.
func (f aFolder) run(stdin, line string) (code int, stderr string) {
	args := strings.Fields(line)
	environ := []string{"KEYTURN_DATABASE=sqlite:" + f.path + "/keyturn.db", "KEYTURN_PASSWORD_HASH_MEMORY=7MiB"}
	for ; strings.HasPrefix(args[0], "KEYTURN_"); args = args[1:] {
		environ = append(environ, args[0])
	}
	getenv := func(name string) (value string) {
		for _, variable := range environ {
			if v, ok := strings.CutPrefix(variable, name+"="); ok {
				value = v
			}
		}
		return value
	}
	var out bytes.Buffer
	code = run(f.t.Context(), args, getenv, environ, strings.NewReader(stdin), io.Discard, &out)
	return code, out.String()
}

// saying is a command line with an expected text on standard error.
type saying struct{ stdin, line, says string }

// all runs command lines that exit with the same code.
func (f aFolder) all(want int, sayings []saying) {
	for _, s := range sayings {
		code, said := f.run(s.stdin, s.line)
		if code != want ||
			!strings.Contains(said, s.says) ||
			!utf8.ValidString(said) {
			f.t.Errorf("%q: exit code %d, %q; want %d, %q", s.line, code, said, want, s.says)
		}
	}
}

// Text in another encoding is refused everywhere. The error names the flag, variable or line, and never quotes the
// text, which may be a secret.
func TestTextIsUTF8(t *testing.T) {
	t.Parallel()
	f := aFolder{t, t.TempDir()}
	good := "correct horse battery staple"
	if code, said := f.run(good, "user create alice --password-stdin"); code != 0 {
		t.Fatal(said)
	}
	rows := `{"username": "bob"}` + "\n" + `{"username": "` + cp1251 + `"}` + "\n"
	dump := "[\n" + `{"model": "auth.user", "fields": {"username": "` + cp1251 + `"}}` + "\n]"
	utf16 := strings.Join(strings.Split(good, ""), "\x00") + "\x00"
	const create = "user create bob --password-stdin"
	const app = "client create app --grant password --audience https://api.example"
	const lines, django = "user import --skip-bad --format jsonl ", "user import --format django "
	f.all(exitUsage, []saying{
		{cp1251, create, "standard input: line 1: it is not UTF-8"},
		{cp1251, "user passwd alice --password-stdin", "standard input: line 1: it is not UTF-8"},
		{marked + good, create, "standard input: it begins with a byte order mark: save it as UTF-8 without one"},
		{utf16, create, "standard input: it is UTF-16"},
		{strings.Repeat("\ufffd", 20), create, "U+FFFD"},
		{cp1251, app + " --secret-stdin", "standard input: line 1: it is not UTF-8"},
		{good, "user create " + cp1251 + " --password-stdin", "argument 1: it is not UTF-8"},
		{"", app + "/" + cp1251, "--audience: it is not UTF-8"},
		{"", "grant revoke --all --reason " + cp1251, "--reason: it is not UTF-8"},
		{rows, lines + "--role " + cp1251 + "=x -", "--role: it is not UTF-8"},
		{rows, lines + "-", "-: line 2: it is not UTF-8"},
		{marked + rows, lines + "-", "-: it begins with a byte order mark"},
		{"", lines + f.write("users.jsonl", rows), "users.jsonl: line 2: it is not UTF-8"},
		{dump, django + "-", "-: line 2: it is not UTF-8"},
		{"\xff\xfe[\x00", django + "-", "-: it is UTF-16"},
		{"", "copy --to-file " + f.write("target", cp1251), "target: line 1: it is not UTF-8"},
	})
	answers := "init --file " + f.path + "/new.yaml --answers " + f.write("answers.yaml", "issuer: "+cp1251)
	f.all(exitConfig, []saying{
		{"", "client list --config " + f.write("bad.yaml", "issuer: https://a.test\nlog_level: "+cp1251),
			"bad.yaml: line 2: it is not"},
		{"", "client list --config " + f.write("marked.yaml", marked+"log_level: info"),
			"marked.yaml: it begins with a byte order mark"},
		{"", "client list --config " + f.write("binary.yaml", "anchor_file: !!binary /w=="),
			"anchor_file: it is not UTF-8"},
		{"", answers, "answers.yaml: line 1: it is not UTF-8"},
		{"", "KEYTURN_ANCHOR_FILE=" + cp1251 + " client list", "anchor_file: KEYTURN_ANCHOR_FILE: it is not UTF-8"},
		{"", "KEYTURN_LOG_LEVEL_FILE=" + f.write("level", "\n"+cp1251) + " client list",
			"level: line 2: it is not UTF-8"},
	})
	if _, err := os.Stat(f.path + "/new.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a bad answer has made a configuration")
	}
}

// A prompt requires UTF-8, too.
func TestPromptIsUTF8(t *testing.T) {
	t.Parallel()
	runAsReader(t, `printf 'yes\n\357\360\350\342\345\362\n' >typed
script -qec 'keyturn user create bob --database sqlite:keyturn.db' /dev/null <typed >out && exit 1
grep -q 'Password of bob: line 1: it is not UTF-8' out
printf '\357\360\350\342\345\362\nhttp://127.0.0.1:8080\n\n\n\n\n' >typed
script -qec 'env -u KEYTURN_LISTEN -u KEYTURN_ADMIN_LISTEN keyturn init' /dev/null <typed >out
grep -q 'it is not UTF-8' out
grep -q '^issuer: http://127.0.0.1:8080$' keyturn.yaml
`)
}
