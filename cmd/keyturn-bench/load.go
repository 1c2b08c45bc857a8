package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// call is one encoded request and a check of its response. A status other than 200 ends the measurement.
type call struct {
	request []byte
	took    func(body []byte) error // handles the body of the response; may be nil
}

// errNoMore says that no requests are left.
var errNoMore = errors.New("nothing left to ask")

// load describes workers that make calls one after the other, each over its own connection to one of the servers.
type load struct {
	bases   []string
	workers int
	pause   time.Duration // between two calls of one worker
	next    func(worker int) (call, error)
}

// result is the outcome of a load.
type result struct {
	took  time.Duration
	times []time.Duration // of each call, sorted
}

func (r result) percentile(p int) time.Duration {
	if len(r.times) == 0 {
		return 0
	}
	return r.times[min(len(r.times)-1, len(r.times)*p/100)]
}

// run makes calls for a span of time. Each worker makes one at least.
func (l load) run(span time.Duration) (result, error) {
	began := time.Now()
	times, failures := make([][]time.Duration, l.workers), make([]error, l.workers)
	var all sync.WaitGroup
	for w := range l.workers {
		all.Go(func() { times[w], failures[w] = l.work(w, began.Add(span)) })
	}
	all.Wait()
	return newResult(time.Since(began), times, failures)
}

func newResult(took time.Duration, times [][]time.Duration, failures []error) (result, error) {
	r := result{took: took, times: slices.Concat(times...)}
	slices.Sort(r.times)
	err := errors.Join(failures...)
	if err == nil && len(r.times) == 0 {
		err = errNoMore
	}
	return r, err
}

func (l load) work(worker int, until time.Time) (times []time.Duration, err error) {
	address := strings.TrimPrefix(l.bases[worker%len(l.bases)], "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for {
		began := time.Now()
		if len(times) > 0 && !began.Before(until) {
			return times, nil
		}
		c, err := l.next(worker)
		if errors.Is(err, errNoMore) {
			return times, nil
		}
		if err != nil {
			return times, err
		}
		if err := c.over(conn, answers); err != nil {
			return times, err
		}
		times = append(times, time.Since(began))
		time.Sleep(l.pause)
	}
}

func (c call) over(conn net.Conn, answers *bufio.Reader) error {
	if _, err := conn.Write(c.request); err != nil {
		return err
	}
	answer, err := http.ReadResponse(answers, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, bytes.TrimSpace(body))
	}
	if c.took != nil {
		return c.took(body)
	}
	return nil
}

// party is a client and its secret.
type party struct{ id, secret string }

// post encodes a form POST with Basic credentials, as a client would send it.
func (p party) post(path string, form url.Values) []byte {
	body := form.Encode()
	credentials := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(p.id) + ":" + url.QueryEscape(p.secret)))
	return fmt.Appendf(
		nil,
		"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: keyturn-bench\r\nAccept: application/json\r\n"+
			"Authorization: Basic %s\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
			"Content-Length: %d\r\n\r\n%s",
		path,
		credentials,
		len(body),
		body,
	)
}

func get(path string) []byte {
	return fmt.Appendf(
		nil,
		"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: keyturn-bench\r\nAccept: application/json\r\n\r\n",
		path,
	)
}

// field returns a string field of a JSON body from keyturn.
func field(body []byte, name string) string {
	_, rest, _ := bytes.Cut(body, []byte(`"`+name+`":"`))
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(value)
}
