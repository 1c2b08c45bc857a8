package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every variable in the files of deploy/ is a setting, and the containers are locked down.
func TestDeployFilesSetSettings(t *testing.T) {
	known := func(name string) bool {
		return slices.Contains(knownVariables(), name)
	}
	variable := regexp.MustCompile(`\bKEYTURN_[A-Z_]+[A-Z]\b`)
	seen := 0
	err := filepath.WalkDir("../../deploy", func(path string, d fs.DirEntry, err error) error {
		if err != nil ||
			d.IsDir() ||
			strings.Contains(path, "testdata") ||
			strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range variable.FindAllString(string(text), -1) {
			if seen++; !known(name) {
				t.Errorf("%s: %s is not a setting", path, name)
			}
		}
		return err
	})
	if err != nil || seen < 10 {
		t.Errorf("%d variables, %v", seen, err)
	}
	if problems := readConfigFile("../../deploy/kubernetes/keyturn.yaml").problems; len(problems) > 0 {
		t.Error(problems)
	}
	for _, file := range []string{"compose.sqlite.yaml", "compose.postgres.yaml"} {
		text, err := os.ReadFile("../../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"read_only: true", "no-new-privileges", "cap_drop", "stop_grace_period",
			"healthcheck"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: no %s", file, want)
			}
		}
	}
}

// The image is built from every package that the program imports.
func TestDockerIgnore(t *testing.T) {
	t.Parallel()
	listed, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	ignore, err := os.ReadFile("../../deploy/Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(listed)) {
		rest, ours := strings.CutPrefix(path, "github.com/keyturn/keyturn/")
		folder, _, _ := strings.Cut(rest, "/")
		if ours && !strings.Contains(string(ignore), "\n!"+folder+"\n") {
			t.Errorf("deploy/Dockerfile.dockerignore leaves out %s, which the program imports", folder)
		}
	}
}
