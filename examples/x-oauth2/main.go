//go:build ignore

// A client program for keyturn, with golang.org/x/oauth2. It logs a user in once, keeps the session in a file, and
// calls an API.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"
)

const (
	api         = "https://api.example.com"
	sessionFile = "session.json"
)

var config = oauth2.Config{
	ClientID:     "app",
	ClientSecret: os.Getenv("CLIENT_SECRET"),
	// Without AuthStyle the library repeats a failed request in another style, and a wrong password would count twice.
	Endpoint: oauth2.Endpoint{TokenURL: "https://auth.example.com/token", AuthStyle: oauth2.AuthStyleInHeader},
	Scopes:   []string{"read"},
}

// keeper stores each new token before the program uses it. keyturn replaces the refresh token at every refresh. A
// program that exits without storing the new one loses its session: keyturn treats the old token as stolen, and ends
// the session.
type keeper struct{ oauth2.TokenSource }

func (k keeper) Token() (*oauth2.Token, error) {
	token, err := k.TokenSource.Token()
	if err != nil {
		return nil, err
	}
	return token, save(token)
}

func save(token *oauth2.Token) error {
	data, err := json.Marshal(token)
	if err != nil {
		return err
	}
	if err := os.WriteFile(sessionFile+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(sessionFile+".new", sessionFile)
}

func load() (*oauth2.Token, error) {
	data, err := os.ReadFile(sessionFile)
	if err != nil {
		return nil, err
	}
	token := new(oauth2.Token)
	return token, json.Unmarshal(data, token)
}

func login(ctx context.Context) (*oauth2.Token, error) {
	token, err := config.PasswordCredentialsToken(ctx, os.Getenv("LOGIN_USER"), os.Getenv("LOGIN_PASSWORD"))
	if err != nil {
		return nil, err
	}
	return token, save(token)
}

// client returns an HTTP client that sends the access token, and refreshes it ten seconds before it expires. Any number
// of goroutines may use it: one refreshes while the others wait. Use one client for a session, in one process. If a
// response of keyturn is lost, the next request refreshes with the same refresh token again, which keyturn allows for
// ten seconds.
func client(ctx context.Context, token *oauth2.Token) *http.Client {
	source := oauth2.ReuseTokenSource(token, keeper{config.TokenSource(ctx, token)})
	return &http.Client{Transport: &oauth2.Transport{Source: source}, Timeout: 30 * time.Second}
}

// over reports whether keyturn refused the refresh token or the password. Either way the user must log in again.
func over(err error) bool {
	var refused *oauth2.RetrieveError
	return errors.As(err, &refused) && refused.ErrorCode == "invalid_grant"
}

func run() error {
	// The library uses this context for every request to keyturn, including refreshes: do not pass a request's context.
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Timeout: 10 * time.Second})
	token, err := load()
	if errors.Is(err, os.ErrNotExist) {
		token, err = login(ctx)
	}
	if err != nil {
		return err
	}
	resp, err := client(ctx, token).Get(api)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		// Refused early, for example because its signing key was revoked. The session may still be valid: refresh.
		resp.Body.Close()
		if token, err = load(); err != nil {
			return err
		}
		resp, err = client(ctx, &oauth2.Token{RefreshToken: token.RefreshToken}).Get(api)
	}
	if over(err) {
		slog.Info("the session is over, logging in again")
		if token, err = login(ctx); err != nil {
			return err
		}
		resp, err = client(ctx, token).Get(api)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("the API answered " + resp.Status)
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func main() {
	err := run()
	if over(err) {
		slog.Error("wrong username or password")
	} else if err != nil {
		slog.Error("failed", "error", err)
	}
	if err != nil {
		os.Exit(1)
	}
}
