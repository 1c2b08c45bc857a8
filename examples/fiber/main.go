//go:build ignore

// A resource server in Fiber that verifies keyturn's access tokens with its jwt middleware.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	jwtware "github.com/gofiber/contrib/jwt"
	"github.com/gofiber/fiber/v2"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

const (
	issuer   = "https://auth.example.com"
	audience = "https://api.example.com"
	jwksAge  = 5 * time.Minute // how long a fetched JWKS is kept
)

type claims struct {
	jwt.RegisteredClaims
	Scope string `json:"scope"`
}

// Validate checks what the middleware does not. golang-jwt calls it after its own checks.
func (c *claims) Validate() error {
	switch {
	case c.Issuer != issuer:
		return errors.New("another issuer")
	case !slices.Contains(c.Audience, audience):
		return errors.New("another audience")
	case c.ExpiresAt == nil:
		return errors.New("no exp")
	}
	return nil
}

func newKeys(ctx context.Context) (keyfunc.Keyfunc, error) {
	return keyfunc.NewDefaultOverrideCtx(ctx, []string{issuer + "/.well-known/jwks.json"}, keyfunc.Override{
		RefreshInterval:   jwksAge,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(time.Second), 1),
		RateLimitWaitMax:  5 * time.Second,
		HTTPTimeout:       5 * time.Second,
	})
}

// keyOf returns the key of an access token. alg and typ separate it from other JWTs. golang-jwt ignores crit, the
// extensions that must be understood.
func keyOf(keys keyfunc.Keyfunc) jwt.Keyfunc {
	return func(token *jwt.Token) (any, error) {
		typ, _ := token.Header["typ"].(string)
		_, extended := token.Header["crit"]
		if token.Method.Alg() != "RS256" || !strings.EqualFold(typ, "at+jwt") || extended {
			return nil, errors.New("not an access token")
		}
		return keys.Keyfunc(token)
	}
}

func main() {
	keys, err := newKeys(context.Background())
	if err != nil {
		slog.Error("cannot start", "error", err)
		os.Exit(1)
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true, ReadTimeout: 10 * time.Second})
	app.Use(jwtware.New(jwtware.Config{
		KeyFunc: keyOf(keys),
		Claims:  &claims{},
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			if held, _ := keys.Storage().KeyReadAll(c.Context()); len(held) == 0 {
				return c.Status(fiber.StatusServiceUnavailable).SendString("try again later")
			}
			slog.Info("token refused", "reason", err)
			c.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			return c.Status(fiber.StatusUnauthorized).SendString("the access token is not valid")
		},
	}))
	app.Get("/", func(c *fiber.Ctx) error {
		got := c.Locals("user").(*jwt.Token).Claims.(*claims)
		return c.JSON(fiber.Map{"sub": got.Subject, "scope": got.Scope})
	})
	slog.Error("stopped", "error", app.Listen("127.0.0.1:9000"))
	os.Exit(1)
}
