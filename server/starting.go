package server

import (
	"net/http"

	"github.com/keyturn/keyturn/config"
)

// starting are the handlers of both listeners while there is no server yet. They answer what follows from the
// configuration alone, and 503 to the rest, by the same rules of paths, methods and origins as the server.
func starting(c config.Config) (public, admin http.Handler) {
	e := endpoints{
		token:      formsLater,
		revoke:     formsLater,
		introspect: formsLater,
		jwks:       later,
		metadata:   metadata(c),
		openAPI:    openAPI,
		livez:      livez,
		readyz:     later,
	}
	config := func() *config.Config { return &c }
	return e.routes(config).starting(), adminEndpoints{metrics: later, livez: livez, readyz: later}.routes().starting()
}

func (t routes) starting() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.ServeHTTP(newResponse(w, r, randomHex(8)), r)
	})
}

func formsLater(x *response, _ *http.Request) { writeError(x, unavailable(retrySoon)) }

func later(x *response, _ *http.Request) {
	x.Header().Set("Retry-After", "1")
	plain(x, http.StatusServiceUnavailable, "not ready: starting")
}
