package servertest

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Rush is the result of many clients that refreshed at the same moment.
type Rush struct {
	Clients  int
	Lost     int // clients that lost their login: invalid_grant
	Unserved int // clients without an answer at the end of the context
	Timeouts int // requests that timed out
	Refusals int // number of 503
	Took     time.Duration
	Next     []string // the new refresh token of each client; "": none
}

// Rush makes all clients refresh at the same moment, each with its own token. As docs/clients.md requires, a client
// sends the same token again after a timeout of patience, or after Retry-After. Rush ends when all clients have an
// answer, or when the context ends.
func (c *Crowd) Rush(ctx context.Context, tokens []string, patience time.Duration) Rush {
	result := Rush{Clients: len(tokens), Next: make([]string, len(tokens))}
	transport := &http.Transport{MaxIdleConnsPerHost: len(tokens), DisableCompression: true}
	defer transport.CloseIdleConnections()
	r := rusher{crowd: c, client: &http.Client{Transport: transport, Timeout: patience}}
	began := time.Now()
	var all sync.WaitGroup
	var lost, unserved atomic.Int64
	for i, token := range tokens {
		all.Go(func() {
			switch next, status := r.refresh(ctx, token); status {
			case http.StatusOK:
				result.Next[i] = next
			case 0:
				unserved.Add(1)
			default:
				lost.Add(1)
			}
		})
	}
	all.Wait()
	result.Lost, result.Unserved, result.Took = int(lost.Load()), int(unserved.Load()), time.Since(began)
	result.Timeouts, result.Refusals = int(r.timeouts.Load()), int(r.refusals.Load())
	return result
}

// rusher simulates the clients of one rush.
type rusher struct {
	crowd              *Crowd
	client             *http.Client
	timeouts, refusals atomic.Int64
}

// refresh sends a token until it is answered. The status is 0 if the context ended first.
func (r *rusher) refresh(ctx context.Context, token string) (next string, status int) {
	for ctx.Err() == nil {
		status, header, body := r.send(ctx, token)
		switch status {
		case http.StatusOK:
			return successor(answer{status, body}), status
		case 0:
			r.timeouts.Add(1)
			pause(ctx, rand.N(r.client.Timeout))
		case http.StatusServiceUnavailable:
			r.refusals.Add(1)
			seconds, _ := strconv.Atoi(header.Get("Retry-After"))
			pause(ctx, time.Duration(seconds)*time.Second+rand.N(time.Second))
		default:
			return "", status
		}
	}
	return "", 0
}

func pause(ctx context.Context, span time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(span):
	}
}

func (r *rusher) send(ctx context.Context, token string) (status int, header http.Header, body []byte) {
	base := r.crowd.Bases[rand.IntN(len(r.crowd.Bases))]
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, nil
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(r.crowd.App.ID), url.QueryEscape(r.crowd.App.Secret))
	return roundTrip(r.client, request)
}
