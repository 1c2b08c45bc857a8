//go:build interop

package examples_test

import (
	"os"
	"regexp"
	"strings"
)

// gatekeeper is a program that runs with the settings of docs/verify-more.md and lets people in by their tokens.
type gatekeeper struct {
	*keyturn
	client string // whose tokens it accepts
	letsIn func(token string) bool
}

// judges asserts which tokens the program accepts, and that a planned rotation breaks nothing.
func (g gatekeeper) judges() {
	g.t.Helper()
	good := g.login(g.client)
	g.wants("a good token", good.Access, true)
	for what, token := range g.forged(good.Access) {
		g.wants(what, token, false)
	}
	g.wants("a refresh token", good.Refresh, false)
	g.wants("a token for another audience", g.login("other").Access, false)
	brief := g.login("brief").Access
	await(g.t, "an expired token is refused", patience, func() bool { return !g.letsIn(brief) })
	g.rotate("--force")
	g.wants("a token of the next key, at once", g.login(g.client).Access, true)
	g.wants("a token of the key before", good.Access, true)
}

func (g gatekeeper) wants(what, token string, in bool) {
	g.t.Helper()
	if got := g.letsIn(token); got != in {
		g.t.Errorf("%s: let in: %v", what, got)
	}
}

// settings returns the block of docs/verify-more.md that begins with a text, for this keyturn at an address.
func (k *keyturn) settings(begin, issuer string) string {
	k.t.Helper()
	page, err := os.ReadFile("../docs/verify-more.md")
	if err != nil {
		k.t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)\n```[a-z]+\n(" + regexp.QuoteMeta(begin) + ".*?)\n```").FindSubmatch(page)
	if block == nil {
		k.t.Fatalf("docs/verify-more.md has no block that begins with %q", begin)
	}
	return strings.ReplaceAll(string(block[1]), "https://auth.example.com", issuer)
}
