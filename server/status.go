package server

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/gorilla/mux"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/statuslist"
	"github.com/keyturn/keyturn/storage"
)

// statusBody is a body with its entity tag and encoding.
type statusBody struct {
	body     []byte
	etag     string
	encoding string // "": identity
}

func newStatusBody(body []byte, encoding string) statusBody {
	sum := sha256.Sum256(body)
	return statusBody{body, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, encoding}
}

func gzipped(plain statusBody) (statusBody, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(plain.body); err != nil {
		return statusBody{}, err
	}
	if err := w.Close(); err != nil {
		return statusBody{}, err
	}
	return newStatusBody(b.Bytes(), "gzip"), nil
}

// statusList answers GET /status/ID with a Status List Token (draft-ietf-oauth-status-list §8.1), from memory.
func (s *statusLists) statusList(w *response, r *http.Request) {
	if r.URL.Query().Has("time") { // §8.4: lists of the past are not kept
		plain(w, http.StatusNotImplemented, "time: lists of the past are not kept")
		return
	}
	id, err := storage.ParseStatusListID(mux.Vars(r)["id"])
	if err != nil {
		plain(w, http.StatusNotFound, "not found")
		return
	}
	l, v, err := s.find(r.Context(), id)
	if err != nil {
		s.statusUnavailable(w, err)
		return
	}
	if l == nil || l.gone(s.now()) {
		plain(w, http.StatusNotFound, "not found")
		return
	}
	signed, err := s.serve(r.Context(), l, v)
	if err != nil {
		s.statusUnavailable(w, err)
		return
	}
	body := signed.plain
	if acceptsGzip(r) {
		body = signed.gzipped
	}
	// A cache asks each time whether the list is still the newest: what it kept would delay a revocation.
	w.Header().Set("Cache-Control", "public, no-cache")
	w.Header().Add("Vary", "Accept-Encoding")
	w.Header().Set("ETag", body.etag)
	if etagMatches(r.Header.Get("If-None-Match"), body.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if body.encoding != "" {
		w.Header().Set("Content-Encoding", body.encoding)
	}
	document(w, statuslist.MediaType, body.body)
}

// acceptsGzip reports whether a client takes gzip (RFC 9110 §12.5.3).
func acceptsGzip(r *http.Request) bool {
	for _, header := range r.Header.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(header, ",") {
			name, weight, _ := strings.Cut(strings.TrimSpace(item), ";")
			zero := strings.TrimRight(strings.ReplaceAll(weight, " ", ""), "0.") == "q="
			if strings.EqualFold(strings.TrimSpace(name), "gzip") && !zero {
				return true
			}
		}
	}
	return false
}

// aggregation answers GET /status with the URIs of all lists (draft-ietf-oauth-status-list §9.3).
func (s *statusLists) aggregation(w *response, _ *http.Request) {
	v := s.snapshot.Load()
	if v == nil {
		s.statusUnavailable(w, errNoList)
		return
	}
	body, err := json.Marshal(api.StatusLists{URIs: v.uris(s.config().Issuer, s.now())})
	if err != nil {
		writeError(w, visible(err))
		return
	}
	w.Header().Set("Cache-Control", "public, no-cache")
	document(w, "application/json", body)
}

// statusUnavailable is the 503 of a list that cannot be served now.
func (s *statusLists) statusUnavailable(w *response, err error) {
	last, now := s.complained.Load(), int64(s.elapsed())
	if (last == 0 || now-last > int64(readinessWarning)) && s.complained.CompareAndSwap(last, max(now, 1)) {
		s.log.Warn("a status list cannot be served", "error", err.Error())
	}
	w.Header().Set("Retry-After", "1")
	plain(w, http.StatusServiceUnavailable, "the status list cannot be served now: try again later")
}
