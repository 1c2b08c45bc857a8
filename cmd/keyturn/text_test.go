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

// In other encodings than UTF-8.
const (
	cp1251      = "\xef\xf0\xe8\xe2\xe5\xf2, \xec\xe8\xf0, \xef\xf0\xe8\xe2\xe5\xf2" // привет, мир, привет
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
		for how, err := range map[string]error{"whole": checkText([]byte(text)), "read": readAllText(strings.NewReader(text))} {
			if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
				t.Errorf("%q, %s: %v, want %q", text, how, err, want)
			}
		}
	}
}

func readAllText(from io.Reader) error {
	_, err := io.ReadAll(newTextReader(from))
	return err
}

// However a text arrives, the reader passes it on as it is, or ends with what checkText says.
func FuzzText(f *testing.F) {
	for _, seed := range []string{"", "a\nпривет\n", cp1251, marked, markedUTF16, "a\x00", "\xe2\x82", "\n\xe2\x82\xac\xff"} {
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
			if want == nil && (err != nil || !bytes.Equal(got, text)) || want != nil && (err == nil || err.Error() != want.Error()) {
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

// run runs a command in this process with variables of the environment, NAME=VALUE.
func (f aFolder) run(stdin string, variables []string, args ...string) (code int, stderr string) {
	environ := append([]string{"KEYTURN_DATABASE=sqlite:" + f.path + "/keyturn.db", "KEYTURN_PASSWORD_HASH_MEMORY=7MiB"}, variables...)
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

// Text in another encoding is refused wherever it comes in: with the flag, variable or line, and without the text, which may be a secret.
func TestTextIsUTF8(t *testing.T) {
	f := aFolder{t, t.TempDir()}
	good := "correct horse battery staple"
	if code, said := f.run(good, nil, "user", "create", "alice", "--password-stdin"); code != 0 {
		t.Fatal(said)
	}
	rows := `{"username": "bob"}` + "\n" + `{"username": "` + cp1251 + `"}` + "\n"
	dump := "[\n" + `{"model": "auth.user", "fields": {"username": "` + cp1251 + `"}}` + "\n]"
	app := []string{"client", "create", "app", "--grant", "password", "--audience"}
	for name, c := range map[string]struct {
		stdin     string
		variables []string
		args      []string
		code      int
		says      string
	}{
		"new password": {
			stdin: cp1251, args: []string{"user", "create", "bob", "--password-stdin"}, code: exitUsage,
			says: "standard input: line 1: it is not UTF-8",
		},
		"changed password": {
			stdin: cp1251, args: []string{"user", "passwd", "alice", "--password-stdin"}, code: exitUsage,
			says: "standard input: line 1: it is not UTF-8",
		},
		"password with a mark": {
			stdin: marked + good, args: []string{"user", "create", "bob", "--password-stdin"}, code: exitUsage,
			says: "it begins with a byte order mark",
		},
		"password in UTF-16": {
			stdin: strings.Join(strings.Split(good, ""), "\x00") + "\x00", args: []string{"user", "create", "bob", "--password-stdin"},
			code: exitUsage, says: "it is UTF-16",
		},
		"password that was replaced": {
			stdin: strings.Repeat("\ufffd", 20), args: []string{"user", "create", "bob", "--password-stdin"}, code: exitUsage,
			says: "U+FFFD",
		},
		"client secret": {
			stdin: cp1251, args: append(app, "https://api.example", "--secret-stdin"), code: exitUsage,
			says: "standard input: line 1: it is not UTF-8",
		},
		"argument":     {stdin: good, args: []string{"user", "create", cp1251, "--password-stdin"}, code: exitUsage, says: "argument 1: it is not"},
		"flag":         {args: append(app, "https://api.example/"+cp1251), code: exitUsage, says: "--audience: it is not UTF-8"},
		"reason":       {args: []string{"grant", "revoke", "--all", "--reason", cp1251}, code: exitUsage, says: "--reason: it is not UTF-8"},
		"role":         {args: []string{"user", "import", "--format", "jsonl", "--role", cp1251 + "=x", "-"}, code: exitUsage, says: "--role: it is"},
		"rows":         {stdin: rows, args: []string{"user", "import", "--format", "jsonl", "-"}, code: exitUsage, says: "-: line 2: it is not UTF-8"},
		"rows, marked": {stdin: marked + rows, args: []string{"user", "import", "--format", "jsonl", "-"}, code: exitUsage, says: "byte order mark"},
		"rows, file": {
			args: []string{"user", "import", "--skip-bad", "--format", "jsonl", f.write("users.jsonl", rows)}, code: exitUsage,
			says: "users.jsonl: line 2: it is not UTF-8",
		},
		"dump":         {stdin: dump, args: []string{"user", "import", "--format", "django", "-"}, code: exitUsage, says: "-: line 2: it is not UTF-8"},
		"dump, UTF-16": {stdin: "\xff\xfe[\x00", args: []string{"user", "import", "--format", "django", "-"}, code: exitUsage, says: "-: it is UTF-16"},
		"configuration": {
			args: []string{"client", "list", "--config", f.write("bad.yaml", "issuer: https://a.test\nlog_level: "+cp1251)}, code: exitConfig,
			says: "bad.yaml: line 2: it is not UTF-8",
		},
		"configuration, marked": {
			args: []string{"client", "list", "--config", f.write("marked.yaml", marked+"issuer: https://a.test\n")}, code: exitConfig,
			says: "marked.yaml: it begins with a byte order mark: save it as UTF-8 without one",
		},
		"binary in a configuration": {
			args: []string{"client", "list", "--config", f.write("binary.yaml", "anchor_file: !!binary /w==\n")}, code: exitConfig,
			says: "anchor_file: it is not UTF-8",
		},
		"answers": {
			args: []string{"init", "--file", f.path + "/new.yaml", "--answers", f.write("answers.yaml", "issuer: "+cp1251)}, code: exitConfig,
			says: "answers.yaml: line 1: it is not UTF-8",
		},
		"variable": {variables: []string{"KEYTURN_ANCHOR_FILE=" + cp1251}, args: []string{"client", "list"}, code: exitConfig,
			says: "anchor_file: KEYTURN_ANCHOR_FILE: it is not UTF-8"},
		"variable's file": {
			variables: []string{"KEYTURN_LOG_LEVEL_FILE=" + f.write("level", "\n"+cp1251)}, args: []string{"client", "list"}, code: exitConfig,
			says: "level: line 2: it is not UTF-8",
		},
		"target of a copy": {args: []string{"copy", "--to-file", f.write("target", cp1251)}, code: exitUsage, says: "target: line 1: it is not UTF-8"},
	} {
		code, said := f.run(c.stdin, c.variables, c.args...)
		if code != c.code || !strings.Contains(said, c.says) || !utf8.ValidString(said) {
			t.Errorf("%s: exit code %d, %q; want %d, %q", name, code, said, c.code, c.says)
		}
	}
	if _, err := os.Stat(f.path + "/new.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a bad answer has made a configuration")
	}
}

// What is typed at a prompt is text as well.
func TestPromptIsUTF8(t *testing.T) {
	runAsReader(t, `printf '\357\360\350\342\345\362\n' >typed
script -qec 'keyturn user create bob --database sqlite:keyturn.db' /dev/null <typed >out && exit 1
grep -q 'Password of bob: line 1: it is not UTF-8' out
printf '\357\360\350\342\345\362\nhttp://127.0.0.1:8080\n\n\n\n\n' >typed
script -qec 'env -u KEYTURN_LISTEN -u KEYTURN_ADMIN_LISTEN keyturn init' /dev/null <typed >out
grep -q 'it is not UTF-8' out
grep -q '^issuer: http://127.0.0.1:8080$' keyturn.yaml
`)
}
