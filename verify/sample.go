package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
)

// Sample introspects some of the accepted tokens in the background (RFC 7662), so that the server sees forged ones. At
// 1 in 100, a forged token that is used 300 times is found with a probability of 95 %.
type Sample struct {
	// Every is the number of accepted tokens of which one is introspected, at random.
	Every int
	// ClientID and ClientSecret are the credentials of this resource server.
	ClientID, ClientSecret string
	// Refused is called for an accepted token that the server calls inactive; from several goroutines at once. It must
	// return soon. The login of the token has ended a moment ago, or, if nobody ended it, the token is forged: the
	// server then has an alarm (audit record key.forgery).
	Refused func(*Token)
	// URL is the introspection endpoint; "": Issuer with /introspect.
	URL string
}

func (s *Sample) check() error {
	if s.Every < 1 || s.ClientID == "" || s.ClientSecret == "" || s.Refused == nil {
		return errors.New("verify: Sample wants Every of at least 1, ClientID, ClientSecret and Refused")
	}
	if s.URL != "" {
		return checkURL("Sample.URL", s.URL, false)
	}
	return nil
}

const (
	sampled  = 256 // tokens that may wait for introspection; Counters count what is dropped
	samplers = 8   // introspections at once
)

// sampler introspects tokens. A nil sampler takes none.
type sampler struct {
	Config
	*fetcher
	tokens chan *Token
}

func newSampler(ctx context.Context, c Config) *sampler {
	if c.Sample == nil {
		return nil
	}
	s := &sampler{Config: c, fetcher: newFetcher(c), tokens: make(chan *Token, sampled)}
	for range samplers {
		go s.run(ctx)
	}
	return s
}

// take chooses at random whether to introspect a token.
func (s *sampler) take(t *Token) {
	if s == nil || rand.N(s.Sample.Every) != 0 {
		return
	}
	select {
	case s.tokens <- t:
	default:
		s.Counters.SampleDropped()
	}
}

func (s *sampler) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-s.tokens:
			active, err := s.introspect(ctx, t)
			if err != nil {
				if ctx.Err() == nil {
					s.Problem(fmt.Errorf("introspection of a sample: %w", err))
				}
				continue
			}
			s.Counters.Sampled(active)
			if !active && s.Now().Before(t.Expires) {
				s.Sample.Refused(t.copy())
			}
		}
	}
}

// introspect asks the server about a token.
func (s *sampler) introspect(ctx context.Context, t *Token) (active bool, err error) {
	to := s.Sample.URL
	if to == "" {
		to = s.Issuer + "/introspect"
	}
	form := url.Values{"token": {t.raw}, "token_type_hint": {"access_token"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", s.userAgent)
	// RFC 6749 §2.3.1: each part is encoded first.
	r.SetBasicAuth(url.QueryEscape(s.Sample.ClientID), url.QueryEscape(s.Sample.ClientSecret))
	response, err := s.client.Do(r)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	body, err := readAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	if err != nil {
		return false, err
	}
	var answer struct {
		Active *bool `json:"active"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Active == nil {
		return false, errors.New("the answer has no active")
	}
	return *answer.Active, nil
}
