package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// misframedRequests are heads about whose length a proxy may disagree.
var misframedRequests = map[string]string{
	"both":                 "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"both, the other way":  "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
	"in any case":          "tRANSFER-eNCODING: chunked\r\nX: y\r\ncONTENT-lENGTH:0\r\n\r\n0\r\n\r\n",
	"bare line feeds":      "Content-Length: 4\nTransfer-Encoding: chunked\n\n0\r\n\r\n",
	"a coding in the next": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
	"a length in the next": "Content-Length:\r\n\t0\r\n\r\n",
}

// A request whose length is ambiguous is refused, and nothing behind it is a request.
func TestAmbiguousLengths(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		hidden := "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
		before := "GET /livez?first HTTP/1.1\r\nHost: x\r\n\r\n" +
			"POST /token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" +
			"Content-Type: application/x-www-form-urlencoded\r\n\r\n3;x=y\r\na=b\r\n0\r\nContent-Length: 1\r\n\r\n" +
			"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\n" +
			"Content-Type: application/x-www-form-urlencoded\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\nb"
		for name, rest := range misframedRequests {
			for _, path := range []string{"/token", "/revoke", "/introspect", "/livez", "/nowhere"} {
				ambiguous := "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: " + formMediaType + "\r\n" + rest
				for _, first := range []string{"", before} {
					answers := h.answersTo(first + ambiguous + hidden)
					want := 1
					if first != "" {
						want = 4
					}
					if len(answers) != want {
						t.Errorf("%s at %s: %d answers, want %d", name, path, len(answers), want)
						continue
					}
					last := answers[want-1]
					json := strings.HasPrefix(last.Body, `{"error":"invalid_request"`)
					named := last.Header.Get("X-Request-Id") != ""
					if last.Status != http.StatusBadRequest || json != isPost(path) || !named {
						t.Errorf("%s at %s: %d %s", name, path, last.Status, last.Body)
					}
				}
			}
		}
	})
}

// answersTo sends bytes on one connection and reads answers until the server closes it.
func (h *Harness) answersTo(requests string) (answers []Reply) {
	h.T.Helper()
	conn := Must(net.Dial("tcp", h.HTTP.Listener.Addr().String()))
	defer conn.Close()
	Must(0, conn.SetDeadline(time.Now().Add(20*time.Second)))
	Must(conn.Write([]byte(requests)))
	for r := bufio.NewReader(conn); ; {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			if isTimeout(err) {
				h.T.Error("the connection stays open")
			}
			return answers
		}
		body, _ := io.ReadAll(res.Body)
		answers = append(answers, Reply{res.StatusCode, res.Header, string(body)})
	}
}

// HTTP/1.0 has no Transfer-Encoding: what follows may be a body to one and a request to another.
func TestTransferEncodingOfHTTP10(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	answers := h.answersTo("POST /token HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"GET /livez HTTP/1.0\r\n\r\n")
	if len(answers) != 1 || answers[0].Status != http.StatusBadRequest {
		t.Errorf("%+v", answers)
	}
}

// * is a path like others: it is counted among the requests of its connection.
func TestAmbiguousLengthAfterAsterisk(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	answers := h.answersTo("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" +
		"POST /token HTTP/1.1\r\nHost: x\r\n" + misframedRequests["both"])
	if len(answers) != 2 || answers[0].Status != http.StatusNotFound || answers[1].Status != http.StatusBadRequest {
		t.Errorf("%+v", answers)
	}
}

// However the bytes are cut into reads, the same is found.
func TestFramingInPieces(t *testing.T) {
	t.Parallel()
	stream := "GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab" +
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"1\r\n\n\r\nA ;x\r\n0123456789\r\n0\r\nContent-Length: 3\r\n\r\n" +
		"POST / HTTP/1.1\r\n" + misframedRequests["both"]
	for size := 1; size <= len(stream); size++ {
		var f framing
		for rest := []byte(stream); len(rest) > 0; {
			n := min(size, len(rest))
			f.follow(bytes.Clone(rest[:n]))
			rest = rest[n:]
		}
		if f.faulty.Load() != 3 {
			t.Errorf("in pieces of %d: head %d", size, f.faulty.Load())
		}
	}
	var f framing
	for range 1 << 20 {
		f.follow([]byte("a line without an end"))
	}
	if cap(f.begun) > 2*maxBegun {
		t.Errorf("%d bytes are held", cap(f.begun))
	}
}

// Whatever the bytes are, net/http and framing see the same requests.
func FuzzFraming(f *testing.F) {
	for _, rest := range misframedRequests {
		f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\n" + rest))
	}
	f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\naGET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" +
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var follows framing
		follows.follow(bytes.Clone(stream))
		requests := int64(0)
		for r := bufio.NewReader(bytes.NewReader(stream)); ; {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			requests++
			if q.ProtoMajor != 1 || follows.faulty.Load() == requests { // refused
				return
			}
			if follows.heads < requests {
				t.Fatalf("net/http sees %d requests, framing %d: %q", requests, follows.heads, stream)
			}
			if _, err := io.Copy(io.Discard, q.Body); err != nil || q.Body.Close() != nil {
				return
			}
		}
	})
}

// BenchmarkBareRequest is what following the bytes costs a request that does nothing.
func BenchmarkBareRequest(b *testing.B) {
	head := "POST /token HTTP/1.1\r\nHost: auth.example.com\r\nUser-Agent: python-requests/2.32.3\r\n" +
		"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n" +
		"Authorization: Basic YXBwOmFwcGFwcGFwcGFwcGFwcGFwcGFwcA==\r\nContent-Length: 120\r\n" +
		"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + strings.Repeat("x", 120)
	for _, followed := range []bool{false, true} {
		b.Run(fmt.Sprintf("followed=%v", followed), func(b *testing.B) {
			var l net.Listener = Must(net.Listen("tcp", "127.0.0.1:0"))
			address := l.Addr().String()
			if followed {
				l = &connections{Listener: l, name: "public", log: slog.New(slog.DiscardHandler)}
			}
			server := httpServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				isMisframed(r)
			}))
			go server.Serve(l)
			defer server.Close()
			conn := Must(net.Dial("tcp", address))
			defer conn.Close()
			answers := bufio.NewReader(conn)
			b.ReportAllocs()
			for b.Loop() {
				Must(conn.Write([]byte(head)))
				res := Must(http.ReadResponse(answers, nil))
				io.Copy(io.Discard, res.Body)
			}
		})
	}
	b.Run("follow alone", func(b *testing.B) {
		var f framing
		for b.Loop() {
			f.follow([]byte(head))
		}
	})
}
