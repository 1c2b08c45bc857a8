package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// version names this module in the User-Agent.
const version = "1"

// fetcher fetches documents of the server: with limits, and without redirects.
type fetcher struct {
	client    http.Client
	userAgent string
}

func newFetcher(c Config) *fetcher {
	return &fetcher{
		client: http.Client{
			Transport:     c.Transport,
			Timeout:       fetchTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		userAgent: "keyturn-verify/" + version + " (" + headerSafe(c.Resource) + ")",
	}
}

// headerSafe returns a text without the characters that a comment in a header must not have (RFC 9110 §5.6.5).
func headerSafe(text string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`()\"`, r) {
			return '_'
		}
		return r
	}, text)
}

// document is a fetched document.
type document struct {
	body      []byte // nil: it has not changed
	etag      string
	maxAge    time.Duration // of Cache-Control; 0: none
	gone      bool          // 404
	mediaType string
}

// fetch gets a document, unless it still has the entity tag.
func (f *fetcher) fetch(ctx context.Context, url, accept, etag string) (document, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return document{}, err
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", f.userAgent)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	response, err := f.client.Do(r)
	if err != nil {
		return document{}, err
	}
	defer response.Body.Close()
	d := document{
		etag:      response.Header.Get("ETag"),
		maxAge:    maxAge(response.Header.Get("Cache-Control")),
		mediaType: response.Header.Get("Content-Type"),
	}
	switch response.StatusCode {
	case http.StatusOK:
		d.body, err = readAll(response.Body)
		return d, err
	case http.StatusNotModified:
		if etag == "" {
			return document{}, errors.New("304 to a request without If-None-Match")
		}
		return d, nil
	case http.StatusNotFound:
		d.gone = true
		return d, nil
	}
	return document{}, fmt.Errorf("status %d", response.StatusCode)
}

// readAll reads a body of limited size.
func readAll(from io.Reader) ([]byte, error) { return readUpTo(from, maxDocument) }

func readUpTo(from io.Reader, most int) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(from, int64(most)+1))
	if err == nil && len(body) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return body, err
}

// maxAge returns the max-age of a Cache-Control header (RFC 9111 §5.2.2.1); 0: none.
func maxAge(header string) time.Duration {
	for directive := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if seconds, err := strconv.ParseUint(value, 10, 31); err == nil && strings.EqualFold(name, "max-age") {
			return time.Duration(seconds) * time.Second
		}
	}
	return 0
}

// interval returns the time until the next poll of a document that may be kept for the given time; 0: not stated.
func interval(keep time.Duration) time.Duration {
	if keep == 0 {
		return pollInterval
	}
	return min(max(keep, leastInterval), pollInterval)
}
