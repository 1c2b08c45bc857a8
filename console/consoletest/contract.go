package consoletest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// contract is the router of admin.yaml.
var contract = sync.OnceValue(func() routers.Router {
	_, file, _, _ := runtime.Caller(0)
	text := Must(os.ReadFile(filepath.Join(filepath.Dir(file), "..", "admin.yaml")))
	doc := Must(openapi3.NewLoader().LoadFromData(text))
	if err := doc.Validate(context.Background()); err != nil {
		panic(err)
	}
	return Must(gorillamux.NewRouter(doc))
})

func init() {
	text := func(r io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		b, err := io.ReadAll(r)
		return string(b), err
	}
	openapi3filter.RegisterBodyDecoder("image/svg+xml", text)
	openapi3filter.RegisterBodyDecoder("application/x-ndjson", text)
	openapi3filter.RegisterBodyDecoder("application/yaml", text)
}

// validate holds an answer of the API to admin.yaml. Requests that it does not know are none of the API.
func validate(method string, u *url.URL, a Answer) error {
	r := &http.Request{Method: method, URL: &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}}
	route, vars, err := contract().FindRoute(r)
	if err != nil || !strings.HasPrefix(u.Path, "/api/v1/") {
		return nil
	}
	return openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: vars, Route: route},
		Status:                 a.Status,
		Header:                 a.Header,
		Body:                   io.NopCloser(bytes.NewReader([]byte(a.Body))),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
}
