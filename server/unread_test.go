package server

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
)

// unread is a request whose body never ends. The server answers before the end.
type unread struct{ name, head string }

func unreadRequests() (all []unread) {
	formType := "Content-Type: application/x-www-form-urlencoded\r\n"
	lengths := map[string]string{
		"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\na",
		"short":   "Content-Length: 50\r\n\r\na",
		"large":   "Content-Length: 1000000\r\n\r\na",
	}
	for name, rest := range lengths {
		all = append(all,
			unread{"400 media type, " + name, "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n" + rest},
			unread{"400 query, " + name, "POST /token?password=x HTTP/1.1\r\nHost: x\r\n" + formType + rest},
			unread{"405 method, " + name, "PUT /revoke HTTP/1.1\r\nHost: x\r\n" + formType + rest},
			unread{"405 method of a document, " + name, "POST /livez HTTP/1.1\r\nHost: x\r\n" + formType + rest},
			unread{"404 path, " + name, "POST /nowhere HTTP/1.1\r\nHost: x\r\n" + formType + rest},
			unread{"200 document, " + name, "GET " + api.PathMetadata + " HTTP/1.1\r\nHost: x\r\n" + rest},
			unread{"200 health, " + name, "GET /livez HTTP/1.1\r\nHost: x\r\n" + rest},
		)
	}
	all = append(all, unread{"413 announced", "POST /token HTTP/1.1\r\nHost: x\r\n" + formType + lengths["large"]})
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 40_000, strings.Repeat("a", 40_000))
	for _, path := range []string{"/token", "/revoke", "/introspect"} {
		all = append(all, unread{"413 chunked at " + path, "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + formType +
			"Transfer-Encoding: chunked\r\n\r\n" + chunk + chunk})
	}
	return all
}

// answeredEarly checks that the answer comes while the body goes on slowly, and that the connection is closed
// afterwards.
func answeredEarly(t *testing.T, address string, u unread, status string) {
	t.Helper()
	conn := Must(net.Dial("tcp", address))
	defer conn.Close()
	Must(conn.Write([]byte(u.head)))
	began := time.Now()
	Must(0, conn.SetDeadline(began.Add(requestTimeout)))
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Errorf("%s: %v", u.name, err)
		return
	}
	if body, err := io.ReadAll(res.Body); err != nil || !strings.HasPrefix(res.Status, status) || !res.Close {
		t.Errorf("%s: %s %v %s", u.name, res.Status, res.Header, body)
	}
	// Left to itself, net/http answers when it gives up on the body, requestTimeout after the request.
	if took := time.Since(began); took > requestTimeout*2/3 {
		t.Errorf("%s: the answer came after %v", u.name, took)
	}
	closed := make(chan error, 1)
	go func() {
		_, err := r.ReadByte()
		closed <- err
	}()
	for {
		select {
		case err := <-closed:
			if isTimeout(err) {
				t.Errorf("%s: the connection stays open", u.name)
			}
			return
		case <-time.After(50 * time.Millisecond):
			conn.Write([]byte("a"))
		}
	}
}

// A request that is refused before its body has ended is answered at once, however slowly its client goes on.
func TestAnswersBeforeTheBodyEnds(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	h.Provision()
	for _, u := range unreadRequests() {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			answeredEarly(t, h.HTTP.Listener.Addr().String(), u, strings.Fields(u.name)[0])
		})
	}
}

// The same holds while the server starts.
func TestAnswersBeforeTheBodyEndsWhileStarting(t *testing.T) {
	t.Parallel()
	address := startingServer(t, ConfigFor(SQLiteURL(t)))
	for _, u := range unreadRequests() {
		if !strings.Contains(u.name, "chunked") {
			continue
		}
		status := strings.Fields(u.name)[0]
		if status == "400" || status == "413" {
			status = "503"
		}
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			answeredEarly(t, address, u, status)
		})
	}
}

// A body that was read to its end leaves the connection open for the next request.
func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	post := "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	answers := h.answersTo(post + "Content-Length: 3\r\n\r\na=b" +
		post + "Transfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n" +
		post + "Content-Length: 0\r\n\r\n" + "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if len(answers) != 4 || answers[3].Status != http.StatusOK {
		t.Errorf("%d answers", len(answers))
	}
}

// startingServer listens while a server waits for its database.
func startingServer(t *testing.T, c config.Config) (address string) {
	t.Helper()
	l := Listeners{Public: Must(net.Listen("tcp", "127.0.0.1:0")), Admin: Must(net.Listen("tcp", "127.0.0.1:0"))}
	public, admin := starting(c)
	f := Must(newListeners(c, l, slog.New(slog.DiscardHandler), public, admin))
	t.Cleanup(func() {
		for _, s := range f.servers {
			s.Close()
		}
	})
	return l.Public.Addr().String()
}

// A form is UTF-8 by any of its usual names.
func TestCharsets(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		formMediaType:                                 true,
		formMediaType + "; charset=utf-8":             true,
		formMediaType + ";charset=UTF-8":              true,
		formMediaType + "; charset=utf8":              true,
		formMediaType + "; Charset=UTF8":              true,
		formMediaType + `; charset="utf8"`:            true,
		formMediaType + `; charset="Utf-8"`:           true,
		formMediaType + "; charset=utf-16":            false,
		formMediaType + "; charset=iso-8859-1":        false,
		formMediaType + "; charset=utf88":             false,
		formMediaType + "; charset=":                  false,
		formMediaType + "; charset=utf8; charset=utf": false,
		"text/plain; charset=utf8":                    false,
	} {
		if err := checkMediaType(http.Header{"Content-Type": {value}}); (err == nil) != want {
			t.Errorf("%s: %v", value, err)
		}
	}
	Each(t, func(t *testing.T, h *Harness) {
		form := "grant_type=password&username=alice&password=" + strings.ReplaceAll(password, " ", "+")
		r := Must(http.NewRequest(http.MethodPost, h.Base+"/token", strings.NewReader(form)))
		r.Header.Set("Content-Type", `application/x-www-form-urlencoded; charset=utf8`)
		r.Header.Set("Authorization", Basic("app", secret))
		h.Send(r).Tokens(t)
	})
}

// While it starts, a server answers browsers and wrong methods as it does later: only the status of what it cannot do
// yet differs.
func TestStartingAnswersByTheSameRules(t *testing.T) {
	t.Parallel()
	for _, issuer := range []string{issuer, "http://localhost:8080/tenant"} {
		c := ConfigFor(SQLiteURL(t))
		c.Issuer, c.CORSOrigins = issuer, config.List{"https://app.example"}
		h := OpenHarness(t, c, nil)
		starting := &Harness{T: t, Base: "http://" + startingServer(t, c)}
		for _, path := range paths(h.Server.publicRoutes()) {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "OPTIONS", "FROB"} {
				for _, origin := range []string{"", "https://app.example", "https://else.example"} {
					for _, asked := range []string{"", "POST"} {
						name := fmt.Sprintf("%s %s from %q asking for %q", method, path, origin, asked)
						later := h.call(method, path, origin, asked)
						compareAnswers(t, name, later, starting.call(method, path, origin, asked))
					}
				}
			}
		}
		if got := starting.call("GET", "/nowhere", "", ""); got.Status != http.StatusNotFound {
			t.Errorf("an unknown path: %d", got.Status)
		}
	}
}

// call is a request as a browser sends it. What is at the root is held to openapi.yaml.
func (h *Harness) call(method, path, origin, asked string) Reply {
	h.T.Helper()
	r := Must(http.NewRequest(method, h.Base+path, nil))
	for name, value := range map[string]string{"Origin": origin, "Access-Control-Request-Method": asked} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	if !strings.Contains(path, "tenant") && (method != http.MethodOptions || asked == "") && method != "FROB" {
		return h.Send(r)
	}
	res := Must(noRedirect.Do(r))
	defer res.Body.Close()
	return Reply{res.StatusCode, res.Header, string(Must(io.ReadAll(res.Body)))}
}

// compareAnswers holds an answer at the start to that of later.
func compareAnswers(t *testing.T, name string, later, now Reply) {
	t.Helper()
	headers := []string{
		"Allow", "Vary", "Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
		"Access-Control-Expose-Headers", "Access-Control-Max-Age", "X-Content-Type-Options",
	}
	for _, header := range headers {
		if got, want := now.Header.Get(header), later.Header.Get(header); got != want {
			t.Errorf("%s: %s %q, later %q", name, header, got, want)
		}
	}
	if now.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s: no request id", name)
	}
	notYet := now.Status == http.StatusServiceUnavailable && now.Header.Get("Retry-After") != ""
	if now.Status != later.Status && !notYet {
		t.Errorf("%s: %d, later %d", name, now.Status, later.Status)
	}
	if now.Status == later.Status && now.Body != later.Body {
		t.Errorf("%s: %s, later %s", name, now.Body, later.Body)
	}
}
