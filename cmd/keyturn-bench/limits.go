package main

import (
	"context"
	"crypto"
	cryptorand "crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
)

// serveBare serves bare HTTP, to measure its cost. POST / parses a form with Basic credentials and answers JSON of the
// size of an introspection. GET / answers bytes of the size of a JWKS.
func serveBare() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	document := []byte(strings.Repeat("x", 850))
	http.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		id, _, ok := r.BasicAuth()
		if err := r.ParseForm(); err != nil || !ok {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{
			"active":    true,
			"client_id": id,
			"sub":       "b3c7d3e4a1",
			"scope":     "read write",
			"iss":       "http://127.0.0.1:8080",
			"aud":       "https://api.example.com",
			"exp":       1800000000,
			"iat":       1799999400,
			"jti":       r.PostForm.Get("token")[:16],
		})
	})
	http.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(document)
	})
	sign, verify, err := rsaLimits(2048)
	if err != nil {
		return err
	}
	for name, do := range map[string]func(){"S": sign, "V": verify, "argon2id": hashLimit} {
		http.HandleFunc("GET /compute/"+name, func(w http.ResponseWriter, r *http.Request) {
			span, _ := time.ParseDuration(r.URL.Query().Get("span"))
			json.NewEncoder(w).Encode(perRun(span, do))
		})
	}
	fmt.Fprintf(os.Stderr, "{\"msg\":\"serving\",\"listen\":%q}\n", l.Addr())
	return http.Serve(l, nil)
}

// computed measures a computation in the bare server, whose heap is as small as a keyturn server's.
func computed(base, name string, span time.Duration) (s sample, err error) {
	answer, err := http.Get(base + "/compute/" + name + "?span=" + span.String())
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}

// perRun returns the CPU time of one run of a computation. It runs one on each CPU at the same time, because a loaded
// server also shares its cores.
func perRun(span time.Duration, do func()) sample {
	var runs atomic.Int64
	var all sync.WaitGroup
	before, until := cpuOf(false, os.Getpid()), time.Now().Add(span)
	for range runtime.NumCPU() {
		all.Go(func() {
			for time.Now().Before(until) {
				do()
				runs.Add(1)
			}
		})
	}
	all.Wait()
	used := cpuOf(false, os.Getpid()) - before
	return sample{Server: used / time.Duration(max(1, runs.Load())), Rate: float64(runs.Load()) / span.Seconds()}
}

// rsaLimits signs and verifies as RS256 does.
func rsaLimits(bits int) (sign, verify func(), err error) {
	key, err := rsa.GenerateKey(cryptorand.Reader, bits)
	if err != nil {
		return nil, nil, err
	}
	digest := sha256.Sum256([]byte("a token"))
	signature, err := rsa.SignPKCS1v15(cryptorand.Reader, key, crypto.SHA256, digest[:])
	sign = func() { rsa.SignPKCS1v15(cryptorand.Reader, key, crypto.SHA256, digest[:]) }
	verify = func() { rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature) }
	return sign, verify, err
}

// hashLimit computes one argon2id hash with keyturn's default parameters.
func hashLimit() {
	argon2.IDKey([]byte("correct horse battery staple"), []byte("sixteen bytes ..."), 2, 19<<10, 1, 32)
}

// rowLimits measures the cost of a statement: a prepared SELECT of one row of grants by its key, and a prepared UPDATE
// of one row with a durable commit.
type rowLimits struct {
	pool           *sql.DB
	choose, change *sql.Stmt
	ids            []int64
}

func newRowLimits(driver, dsn string, connections int) (*rowLimits, error) {
	pool, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	r := &rowLimits{pool: pool}
	rows, err := pool.Query(`SELECT id FROM grants ORDER BY id DESC LIMIT 500`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		r.ids = append(r.ids, id)
	}
	if r.choose, err = pool.Prepare(`SELECT generation FROM grants WHERE id = $1`); err != nil {
		return nil, err
	}
	r.change, err = pool.Prepare(`UPDATE grants SET rotated_at = rotated_at + 1 WHERE id = $1`)
	return r, errors.Join(err, rows.Err())
}

func (r *rowLimits) id() int64 { return r.ids[rand.IntN(len(r.ids))] }

func (r *rowLimits) selectOne() error {
	var generation int64
	return r.choose.QueryRow(r.id()).Scan(&generation)
}

func (r *rowLimits) updateOne() error {
	_, err := r.change.Exec(r.id())
	return err
}

// repeat runs do in parallel workers for a span of time, in each once at least.
func repeat(workers int, span time.Duration, do func() error) (result, error) {
	until := time.Now().Add(span)
	times, failures := make([][]time.Duration, workers), make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for began := time.Now(); len(times[w]) == 0 || began.Before(until); began = time.Now() {
				if failures[w] = do(); failures[w] != nil {
					return
				}
				times[w] = append(times[w], time.Since(began))
			}
		})
	}
	all.Wait()
	return newResult(span, times, failures)
}

// openssl returns the signatures and verifications a second of OpenSSL on one core.
func openssl(ctx context.Context, bits int) (sign, verify float64, err error) {
	out, err := exec.CommandContext(ctx, "openssl", "speed", "-seconds", "1", "rsa"+strconv.Itoa(bits)).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("openssl speed: %w", err)
	}
	fields := strings.Fields(strings.TrimSpace(string(out)))
	if len(fields) < 2 {
		return 0, 0, errors.New("openssl speed printed no result")
	}
	sign, err1 := strconv.ParseFloat(fields[len(fields)-2], 64)
	verify, err2 := strconv.ParseFloat(fields[len(fields)-1], 64)
	return sign, verify, errors.Join(err1, err2)
}
