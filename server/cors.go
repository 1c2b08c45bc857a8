package server

import (
	"net/http"
	"slices"

	"github.com/keyturn/keyturn/config"
)

// cors lets only pages of the configured origins call an endpoint (Fetch standard; RFC 9700 §2.6). It answers their
// preflight requests.
func cors(config func() *config.Config, h handler) handler {
	return func(w *response, r *http.Request) {
		w.Header().Add("Vary", "Origin")
		origin := r.Header.Get("Origin")
		if origin != "" && slices.Contains(config().CORSOrigins, origin) {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate, X-Request-Id")
			if isPreflight(r) {
				allowMethod(w, http.MethodPost, "Authorization, Content-Type")
				return
			}
		}
		h(w, r)
	}
}

// anyOrigin lets every page read a public resource. It never allows credentials.
func anyOrigin(h handler) handler {
	return func(w *response, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Expose-Headers", "ETag, X-Request-Id")
		if isPreflight(r) {
			allowMethod(w, http.MethodGet, "Authorization, Content-Type, If-None-Match")
			return
		}
		h(w, r)
	}
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions &&
		r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
}

func allowMethod(w http.ResponseWriter, method, headers string) {
	w.Header().Set("Access-Control-Allow-Methods", method)
	w.Header().Set("Access-Control-Allow-Headers", headers)
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}
