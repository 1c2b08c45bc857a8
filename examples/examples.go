// Package examples contains small, complete resource servers and clients, each in a folder with a README. The files use
// placeholders for the issuer, the audience and the address; Files replaces them. `keyturn example` prints the files,
// and `make interop` runs the same files against a real keyturn.
//
// package.json, package-lock.json and testdata/go pin the versions that the tests run.
package examples

import (
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// The placeholders in the files.
const (
	issuer   = "https://auth.example.com"
	audience = "https://api.example.com"
	listen   = "127.0.0.1:9000"
	jwks     = "/.well-known/jwks.json"
)

//go:embed all:django-simplejwt all:pyjwt all:jose all:express-oauth2-jwt-bearer all:hono
//go:embed all:verify all:fiber all:go-oidc all:jwx all:keyfunc all:zitadel-oidc
//go:embed all:nginx all:haproxy
//go:embed all:apache-jwks all:apache-introspection all:curl
//go:embed all:x-oauth2 all:requests-oauthlib all:authlib all:openid-client all:oauth4webapi all:browser
var folders embed.FS

// Example is one folder.
type Example struct {
	Name  string `json:"name"`
	Kind  Kind   `json:"kind"`
	Title string `json:"title"` // the heading of its README
}

// Kind says whether an example is a resource server or a client.
type Kind string

// The kinds of examples.
const (
	ResourceServer Kind = "resource server"
	Client         Kind = "client"
)

var clients = []string{"x-oauth2", "requests-oauthlib", "authlib", "openid-client", "oauth4webapi", "browser"}

// All lists the examples, resource servers first, by name.
func All() []Example {
	entries, err := folders.ReadDir(".")
	if err != nil {
		panic(err) // the folders are embedded
	}
	var servers, others []Example
	for _, e := range entries {
		text, _ := folders.ReadFile(e.Name() + "/" + readme)
		heading, _, _ := strings.Cut(string(text), "\n")
		x := Example{e.Name(), ResourceServer, strings.TrimPrefix(heading, "# ")}
		if slices.Contains(clients, x.Name) {
			x.Kind = Client
			others = append(others, x)
		} else {
			servers = append(servers, x)
		}
	}
	return append(servers, others...)
}

// Reader holds the reader's values for the placeholders. An empty value keeps the placeholder.
type Reader struct {
	Issuer   string // https URL of keyturn
	Audience string // URI of the resource; the examples also use it as the URL of the API
	Listen   string // host:port of the resource server
	Handle   string // of a registered verifier, which names it in the JWKS URL
}

// File is one file of an example.
type File struct {
	Path string `json:"path"` // relative to the folder of the example
	Text string `json:"text"`
}

const readme = "README.md"

// ignored is the build constraint that keeps an example in Go out of keyturn's module.
const ignored = "//go:build ignore\n\n"

// Files returns the files of an example with the reader's values, README first.
func Files(name string, r Reader) ([]File, error) {
	if !slices.ContainsFunc(All(), func(e Example) bool { return e.Name == name }) {
		return nil, fmt.Errorf("%w: %q", fs.ErrNotExist, name)
	}
	named := jwks
	if r.Handle != "" {
		named += "?v=" + r.Handle
	}
	replace := strings.NewReplacer(
		jwks,
		named,
		issuer,
		cmp.Or(r.Issuer, issuer),
		audience,
		cmp.Or(r.Audience, audience),
		listen,
		cmp.Or(r.Listen, listen),
		ignored,
		"",
	)
	var files []File
	err := fs.WalkDir(folders, name, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := folders.ReadFile(p)
		files = append(files, File{strings.TrimPrefix(p, name+"/"), replace.Replace(string(text))})
		return err
	})
	slices.SortStableFunc(files, func(a, b File) int { return order(a) - order(b) })
	return files, err
}

// Introspects reports whether no file of an example fetches the JWKS: it introspects tokens, or only gets them.
func Introspects(name string) bool {
	files, err := Files(name, Reader{})
	return err == nil && !slices.ContainsFunc(files, func(f File) bool {
		return path.Base(f.Path) != readme && strings.Contains(f.Text, jwks)
	})
}

func order(f File) int {
	if path.Base(f.Path) == readme {
		return 0
	}
	return 1
}
