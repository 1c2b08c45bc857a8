package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/examples"
)

// harmless matches URIs that cannot end a string in any language of the examples.
var harmless = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?@+=%-]+$`)

// hostPort matches addresses that an example can listen on.
var hostPort = regexp.MustCompile(`^[A-Za-z0-9.-]+:\d{1,5}$`)

// exampleCommand is keyturn example.
type exampleCommand struct{ *app }

// exampleNames lists the names of all examples.
func exampleNames() (names []string) {
	for _, example := range examples.All() {
		names = append(names, example.Name)
	}
	return names
}

func (e exampleCommand) root() *cobra.Command {
	var reader examples.Reader
	var folder, verifier string
	cmd := &cobra.Command{
		Use:   "example [NAME]",
		Short: "Print complete settings or code for a resource server or client; without NAME list all examples",
		Args:  cobra.MaximumNArgs(1),
	}
	cmd.ValidArgsFunction = cobra.FixedCompletions(exampleNames(), cobra.ShellCompDirectiveNoFileComp)
	addSettings(cmd.Flags(), config.ScopeIssuer)
	addSettings(cmd.Flags(), config.ScopeDatabase)
	f := cmd.Flags()
	f.StringVar(&reader.Audience, "audience", "", "URI of the resource, as in `client create --resource`")
	f.StringVar(&reader.Listen, "address", "", "host:port where the example listens (default 127.0.0.1:9000)")
	f.StringVar(&verifier, "verifier", "", "name of a registered verifier (keyturn verifier create): fills in its "+
		"JWKS URL, and its resource")
	f.StringVar(&folder, "dir", "", "write the files into this folder instead of printing them; never overwrites a "+
		"file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return e.list()
		}
		set, err := e.readSettings(cmd.Flags(), false)
		if err != nil {
			return err
		}
		reader.Issuer = set.Issuer
		if verifier != "" {
			if err := e.readVerifier(cmd.Context(), set, verifier, args[0], &reader); err != nil {
				return err
			}
		}
		if err := checkReader(reader); err != nil {
			return err
		}
		files, err := examples.Files(args[0], reader)
		if err != nil {
			similar := admin.Nearest(args[0], exampleNames())
			return fmt.Errorf("%w: `keyturn example` lists all examples",
				&admin.MissingError{What: "example", Name: args[0], Similar: similar})
		}
		if folder != "" {
			return e.write(folder, files)
		}
		return e.print(files, func() { e.printFiles(files) })
	}
	return cmd
}

// readVerifier completes the values of an example for a registered verifier.
func (e exampleCommand) readVerifier(
	ctx context.Context, set settings, name, example string, reader *examples.Reader,
) error {
	opened, err := admin.Open(ctx, set.Config, set.place, e.adminOptions(set, who{}))
	if err != nil {
		return err
	}
	defer opened.Close()
	v, err := opened.Verifiers().Find(ctx, name)
	if err != nil {
		return err
	}
	if examples.Introspects(example) {
		return usageError{fmt.Errorf("example %s does not fetch the keys: it needs no key, and no --verifier", example)}
	}
	reader.Handle = v.Handle
	reader.Issuer, _, _ = strings.Cut(v.JWKSURI, api.PathJWKS)
	if reader.Audience == "" {
		reader.Audience = v.Resource
	}
	return nil
}

// checkReader checks the values that are filled into an example.
func checkReader(r examples.Reader) error {
	if r.Issuer == "" || r.Audience == "" {
		return usageError{errors.New("example: set --issuer to the URL of keyturn and --audience to the URI of the " +
			"resource")}
	}
	if err := config.CheckIssuer(r.Issuer); err != nil {
		return &config.Error{Problems: []error{err}}
	}
	for _, uri := range []string{r.Issuer, r.Audience} {
		if !harmless.MatchString(uri) {
			return usageError{fmt.Errorf("example: want issuer and audience as URIs without fragment and quotes, "+
				"for instance https://api.example.com, not %q", uri)}
		}
	}
	if r.Listen != "" && !hostPort.MatchString(r.Listen) {
		return usageError{fmt.Errorf("example: address %q is not HOST:PORT", r.Listen)}
	}
	return nil
}

func (e exampleCommand) list() error {
	all := examples.All()
	return e.print(all, func() {
		var rows [][]string
		for _, example := range all {
			rows = append(rows, []string{example.Name, string(example.Kind), example.Title})
		}
		e.table([]string{"NAME", "KIND", "FOR"}, rows)
	})
}

// printFiles prints the README to standard error and the other files to standard output. Several files have headings.
func (e exampleCommand) printFiles(files []examples.File) {
	e.say("%s", strings.TrimSpace(files[0].Text))
	for _, f := range files[1:] {
		if len(files) > 2 {
			fmt.Fprintf(e.stdout, "==> %s <==\n", f.Path)
		}
		fmt.Fprint(e.stdout, f.Text)
		if len(files) > 2 {
			fmt.Fprintln(e.stdout)
		}
	}
}

// write writes the files, unless one of them exists.
func (e exampleCommand) write(folder string, files []examples.File) error {
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
		e.say("%s", path)
	}
	return nil
}
