package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

// tokenCommands are the verbs of keyturn token.
type tokenCommands struct{ *app }

func (t tokenCommands) root() *cobra.Command {
	return noun("token", "Explain tokens", t.inspect())
}

func (t tokenCommands) inspect() *cobra.Command {
	return t.verb(verb{
		use:   "inspect",
		short: "Explain an access or refresh token from standard input, without printing it",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			token, err := t.readToken()
			if err != nil {
				return err
			}
			report, err := op.Tokens().Inspect(ctx, strings.TrimSpace(token))
			if err != nil {
				return err
			}
			return t.printAsItIs(report, func() { t.explain(report) }) // its claims are those of somebody else
		},
	})
}

// readToken reads a token from standard input, or from a prompt without echo.
func (t tokenCommands) readToken() (string, error) {
	f, ok := t.terminal()
	if !ok {
		return readText(t.stdin, maxTokenInput)
	}
	fmt.Fprint(t.stderr, "Token (it is not shown): ")
	token, err := readUnseen(f)
	fmt.Fprintln(t.stderr)
	return string(token), err
}

// maxTokenInput is the maximum number of bytes of a token on standard input.
const maxTokenInput = 64 << 10

func (t tokenCommands) explain(r admin.TokenReport) {
	pairs := [][2]string{{"verdict", r.Verdict}}
	if r.Why != nil {
		pairs = append(pairs, [2]string{"why", *r.Why})
	}
	pairs = append(pairs, [2]string{"kind", r.Kind})
	switch {
	case r.Key != nil:
		pairs = append(pairs, [2]string{"key", fmt.Sprintf("%s (%s)", r.Key.KID, r.Key.State)})
	case r.Header != nil:
		pairs = append(pairs, [2]string{"key", "none of this server"})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		pairs = append(pairs, [2]string{"header " + name, plain(r.Header[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		pairs = append(pairs, [2]string{"claim " + name, t.claim(name, r.Claims[name])})
	}
	if g := r.Grant; g != nil {
		pairs = append(pairs,
			[2]string{"login", g.ID.String()},
			[2]string{"login of", orDash(deref(g.Username))},
			[2]string{"login ended", t.when(g.EndedAt)})
	}
	t.pairs(pairs)
}

// claim formats a claim, with the meaning of times.
func (t tokenCommands) claim(name string, value any) string {
	seconds, ok := value.(float64)
	const year10000 = 253402300800
	times := []string{"exp", "iat", "nbf", "auth_time"}
	if !ok || seconds < 0 || seconds >= year10000 || !slices.Contains(times, name) {
		return plain(value)
	}
	return fmt.Sprintf("%.0f, %s", seconds, t.when(&admin.Time{Time: time.Unix(int64(seconds), 0).UTC()}))
}

// plain formats a JSON value on one line.
func plain(value any) string {
	if text, ok := value.(string); ok && !strings.ContainsFunc(text, unicode.IsControl) {
		return text
	}
	text, _ := json.Marshal(value) // it came from JSON
	return string(text)
}
