package console

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
)

const apiPrefix = "/api/v1/"

// answer is the value that an API handler returns, if it has more to say than its JSON.
type answer struct {
	body any
	tag  int64 // the revision or version of what the body shows; 0: none
}

// page is a part of a list in JSON.
type page struct {
	Items any     `json:"items"`
	Next  *string `json:"next"` // the value of after for the next page; null: there is none
}

// pageOf makes a page. The zero value of a key ends the list.
func pageOf[Row any, Key comparable](p admin.Page[Row, Key], text func(Key) string) page {
	rows := p.Rows
	if rows == nil {
		rows = []Row{}
	}
	var end Key
	if p.Next == end {
		return page{Items: rows}
	}
	next := text(p.Next)
	return page{Items: rows, Next: &next}
}

func itself(text string) string { return text }

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// serveAPI runs a handler of the API and writes its JSON.
func (k *call) serveAPI(run func(*call) (any, error)) error {
	value, err := run(k)
	if err != nil {
		return err
	}
	a, ok := value.(answer)
	if !ok {
		a.body = value
	}
	body, err := api.Indented(a.body, "")
	if err != nil {
		return err
	}
	if a.tag != 0 {
		k.w.Header().Set("ETag", `"`+decimal(a.tag)+`"`)
	}
	k.writeJSON(http.StatusOK, append(body, '\n'))
	return nil
}

func (k *call) writeJSON(status int, body []byte) {
	k.w.Header().Set("Content-Type", "application/json")
	k.w.WriteHeader(status)
	k.w.Write(body)
	k.note("ok")
}

// change is what every request for a change carries: its reason, and what it was decided on.
type change struct {
	Reason string `json:"reason"`
	saw    int64
}

func (c *change) given() *change { return c }

// order is the body of a request for a change.
type order interface{ given() *change }

// readOrder reads the JSON body of a change, its reason and If-Match.
func (k *call) readOrder(o order) error {
	body, err := k.body()
	if err != nil {
		return err
	}
	if len(body) == 0 {
		if k.r.Method == http.MethodDelete {
			o.given().Reason = k.r.URL.Query().Get("reason")
		}
		return k.readMatch(o)
	}
	if kind, _, err := mime.ParseMediaType(k.r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return problem(http.StatusUnsupportedMediaType, "media-type", "send the body as application/json")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		return badJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return problem(http.StatusBadRequest, "bad-json", "the body has more than one JSON value")
	}
	return k.readMatch(o)
}

// badJSON explains what is wrong with a body, without quoting values: they may be secrets.
func badJSON(err error) error {
	var kind *json.UnmarshalTypeError
	var moment *time.ParseError
	switch text := err.Error(); {
	case errors.As(err, &kind):
		field := kind.Field[strings.LastIndexByte(kind.Field, '.')+1:]
		return problem(http.StatusBadRequest, "bad-json", "%s: want %s, not %s", cmp.Or(field, "the body"),
			jsonWord(kind.Type), kind.Value)
	case errors.As(err, &moment):
		return problem(http.StatusBadRequest, "bad-json", "since: want a time such as 2026-01-31T12:00:00Z")
	case strings.HasPrefix(text, "json: unknown field "):
		return problem(http.StatusBadRequest, "bad-json", "%s", strings.TrimPrefix(text, "json: "))
	}
	return problem(http.StatusBadRequest, "bad-json", "the body is not a JSON object")
}

// jsonWord is the word of JSON for a type.
func jsonWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array of strings"
	case reflect.String, reflect.Pointer:
		return "a string"
	}
	return "an object"
}

// body reads the whole body, once.
func (k *call) body() ([]byte, error) {
	if k.read == nil {
		read, err := io.ReadAll(http.MaxBytesReader(k.w, k.r.Body, maxBody))
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, problem(http.StatusRequestEntityTooLarge, "too-large", "the body is larger than %d bytes",
				maxBody)
		}
		if err != nil {
			return nil, problem(http.StatusBadRequest, "bad-body", "the body could not be read")
		}
		k.read = append([]byte{}, read...)
	}
	return k.read, nil
}

// maxReason is the largest number of characters of a reason.
const maxReason = 500

// checkReason requires a reason for a change.
func checkReason(reason string) error {
	switch {
	case strings.TrimSpace(reason) == "":
		return problem(http.StatusUnprocessableEntity, "no-reason", "the reason is missing: the audit trail keeps it")
	case utf8.RuneCountInString(reason) > maxReason:
		return problem(http.StatusUnprocessableEntity, "invalid", "the reason is longer than %d characters", maxReason)
	}
	return nil
}

// readMatch reads If-Match: the ETag of what the caller has read, or * (RFC 9110 §13.1.1). It also requires a reason.
func (k *call) readMatch(o order) error {
	c := o.given()
	if err := checkReason(c.Reason); err != nil {
		return err
	}
	values := k.r.Header.Values("If-Match")
	switch {
	case len(values) == 0:
		return problem(http.StatusPreconditionRequired, "no-if-match",
			"If-Match is missing: send the ETag of what you "+
				"have read, or * to change it whatever it is")
	case len(values) == 1 && strings.TrimSpace(values[0]) == "*":
		return nil
	}
	text := strings.TrimSpace(strings.Join(values, ","))
	n, err := strconv.ParseInt(strings.Trim(text, `"`), 10, 64)
	if err != nil || n <= 0 || text != `"`+decimal(n)+`"` {
		return problem(http.StatusBadRequest, "bad-if-match", "If-Match: want one ETag in quotes, or *")
	}
	c.saw = n
	return nil
}
