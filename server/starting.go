package server

import (
	"net/http"

	"github.com/keyturn/keyturn/config"
)

// starting returns the handlers of both listeners before the server is open. They have the same routes as the server.
// They answer what depends only on the configuration, and 503 to other requests.
func starting(c config.Config) (public, admin http.Handler) {
	config := func() *config.Config { return &c }
	e := endpoints{
		token:      formsLater,
		revoke:     formsLater,
		introspect: formsLater,
		jwks:       later,
		metadata:   metadata(config, func() []string { return nil }),
		openAPI:    openAPI,
		livez:      livez,
		readyz:     later,

		statusList:  later,
		aggregation: later,
	}
	a := adminEndpoints{metrics: later, livez: livez, readyz: later, console: later}
	return e.routes(config).starting(), a.routes().starting()
}

func (t routes) starting() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.ServeHTTP(newResponse(w, r, randomHex(8)), r)
	})
}

// formsLater is the 503 of an endpoint that takes forms.
func formsLater(x *response, _ *http.Request) { writeError(x, unavailable(retrySoon)) }

// later is the 503 of other endpoints.
func later(x *response, _ *http.Request) {
	x.Header().Set("Retry-After", "1")
	plain(x, http.StatusServiceUnavailable, "not ready: starting")
}
