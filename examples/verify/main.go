//go:build ignore

// A resource server that verifies keyturn's access tokens with keyturn/verify.
package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"

	"github.com/keyturn/keyturn/verify"
)

func main() {
	verifier, err := verify.New(context.Background(), verify.Config{
		Issuer:   "https://auth.example.com",
		Resource: "https://api.example.com",
		JWKSURL:  "https://auth.example.com/.well-known/jwks.json",
		Problem:  func(err error) { slog.Error("cannot fetch what verifies tokens", "error", err) },
	})
	if err != nil {
		slog.Error("cannot start", "error", err)
		os.Exit(1)
	}
	http.Handle("GET /{$}", verifier.Middleware(http.HandlerFunc(show), "read"))
	slog.Error("stopped", "error", http.ListenAndServe("127.0.0.1:9000", nil))
	os.Exit(1)
}

// show answers requests whose token has the scope read.
func show(w http.ResponseWriter, r *http.Request) {
	token := verify.FromContext(r.Context())
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"sub": token.Subject, "scope": token.Scope})
}
