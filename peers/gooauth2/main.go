// Command gooauth2 serves the grants of keyturn-bench with github.com/go-oauth2/oauth2, which has neither introspection
// nor a JWKS. It keeps everything in memory.
package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"

	"github.com/go-oauth2/oauth2/v4"
	oautherrors "github.com/go-oauth2/oauth2/v4/errors"
	"github.com/go-oauth2/oauth2/v4/generates"
	"github.com/go-oauth2/oauth2/v4/manage"
	"github.com/go-oauth2/oauth2/v4/models"
	"github.com/go-oauth2/oauth2/v4/server"
	"github.com/go-oauth2/oauth2/v4/store"
	"github.com/golang-jwt/jwt/v5"

	"github.com/keyturn/keyturn/peers/peer"
)

func main() {
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(peer.NewKey())})
	manager := manage.NewDefaultManager()
	manager.MustTokenStorage(store.NewMemoryTokenStore())
	manager.MapAccessGenerate(generates.NewJWTAccessGenerate(peer.KeyID, key, jwt.SigningMethodRS256))
	clients := store.NewClientStore()
	clients.Set(peer.AppID, &models.Client{ID: peer.AppID, Secret: peer.AppSecret, Domain: peer.Issuer})
	manager.MapClientStorage(clients)
	s := server.NewDefaultServer(manager)
	s.SetClientInfoHandler(basic)
	s.SetAllowedGrantType(oauth2.PasswordCredentials, oauth2.Refreshing)
	s.SetPasswordAuthorizationHandler(func(_ context.Context, _, name, password string) (string, error) {
		if !peer.Matches(password) {
			return "", errors.New("another password")
		}
		return name, nil
	})
	http.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) { s.HandleTokenRequest(w, r) })
	peer.Serve(http.DefaultServeMux)
}

// basic reads the credentials of RFC 6749 §2.3.1, whose handler in the library does not decode them.
func basic(r *http.Request) (id, secret string, err error) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		return "", "", oautherrors.ErrInvalidClient
	}
	secret, err = url.QueryUnescape(secret)
	return id, secret, err
}
