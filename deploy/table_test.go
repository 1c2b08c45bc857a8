//go:build deploy

package deploy_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// columns are those of the table of deployments.
var columns = []string{"deployment", "starts", "serves", "survives restart", "rolling renewal", "stop", "memory",
	"notes"}

// row is a row of the table that `make deploy-run` prints.
type row map[string]string

func newRow(deployment string) row { return row{"deployment": deployment} }

func (r row) set(column, format string, args ...any) { r[column] = fmt.Sprintf(format, args...) }

// done adds the row to the table.
func (r row) done(t *testing.T) {
	t.Helper()
	var cells []string
	for _, c := range columns {
		cells = append(cells, r[c])
	}
	addLine(t, "deployments", columns, cells)
}

// addLine adds a line to a table in bin/deploy.
func addLine(t *testing.T, table string, header, cells []string) {
	t.Helper()
	t.Log(cells)
	must(t, os.MkdirAll("../bin/deploy", 0o755))
	path := "../bin/deploy/" + table + ".md"
	text, err := os.ReadFile(path)
	if err != nil {
		text = fmt.Appendf(nil, "| %s |\n|%s\n", strings.Join(header, " | "), strings.Repeat("---|", len(header)))
	}
	text = fmt.Appendf(text, "| %s |\n", strings.Join(cells, " | "))
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Error(err)
	}
}
