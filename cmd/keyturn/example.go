package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/examples"
)

// harmless is a URI that ends no string in any of the languages of the examples.
var harmless = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?@+=%-]+$`)

// hostPort is an address that an example can listen on.
var hostPort = regexp.MustCompile(`^[A-Za-z0-9.-]+:\d{1,5}$`)

func (a *app) exampleCommand() *cobra.Command {
	var reader examples.Reader
	var folder string
	c := &cobra.Command{
		Use:   "example [NAME]",
		Short: "Print settings or code for a resource server or a client, filled in; without NAME list what there is",
		Args:  cobra.MaximumNArgs(1),
	}
	addSettings(c.Flags(), config.ScopeIssuer)
	c.Flags().StringVar(&reader.Audience, "audience", "", "URI of the resource: what `client create --resource` was given")
	c.Flags().StringVar(&reader.Listen, "address", "", "host:port where the example listens (default 127.0.0.1:9000)")
	c.Flags().
		StringVar(&folder, "dir", "", "write the files into this folder, which must not have them, instead of printing them")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.listExamples()
		}
		set, err := a.settings(c.Flags(), false)
		if err != nil {
			return err
		}
		if reader.Issuer = set.Issuer; reader.Issuer == "" || reader.Audience == "" {
			return usageError{
				errors.New("example: for whom? --issuer is the URL of keyturn, --audience the URI of the resource"),
			}
		}
		if err := config.CheckIssuer(reader.Issuer); err != nil {
			return &config.Error{Problems: []error{err}}
		}
		for _, uri := range []string{reader.Issuer, reader.Audience} {
			if !harmless.MatchString(uri) {
				return usageError{
					fmt.Errorf(
						"example: issuer and audience are URIs without fragment and quotes, for instance https://api.example.com, not %q",
						uri,
					),
				}
			}
		}
		if reader.Listen != "" && !hostPort.MatchString(reader.Listen) {
			return usageError{fmt.Errorf("example: address %q is not HOST:PORT", reader.Listen)}
		}
		files, err := examples.Files(args[0], reader)
		if err != nil {
			return fmt.Errorf("example %s: %w: `keyturn example` lists those there are", args[0], admin.ErrNotFound)
		}
		if folder != "" {
			return a.writeExample(folder, files)
		}
		return a.print(files, func() { a.printExample(files) })
	}
	return c
}

func (a *app) listExamples() error {
	all := examples.All()
	return a.print(all, func() {
		var rows [][]string
		for _, e := range all {
			rows = append(rows, []string{e.Name, string(e.Kind), e.Title})
		}
		a.table([]string{"NAME", "KIND", "FOR"}, rows)
	})
}

// printExample prints what the README says on stderr, and the files on stdout: each under its name, if there are
// several.
func (a *app) printExample(files []examples.File) {
	a.say("%s", strings.TrimSpace(files[0].Text))
	for _, f := range files[1:] {
		if len(files) > 2 {
			fmt.Fprintf(a.stdout, "==> %s <==\n", f.Path)
		}
		fmt.Fprint(a.stdout, f.Text)
		if len(files) > 2 {
			fmt.Fprintln(a.stdout)
		}
	}
}

// writeExample writes the files, and none over one that is there.
func (a *app) writeExample(folder string, files []examples.File) error {
	for _, f := range files {
		path := filepath.Join(folder, filepath.FromSlash(f.Path))
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s: %w: name another folder", path, fs.ErrExist)
		}
	}
	for _, f := range files {
		path := filepath.Join(folder, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.Text), 0o644); err != nil {
			return err
		}
		a.say("%s", path)
	}
	return nil
}
