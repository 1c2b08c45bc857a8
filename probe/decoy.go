package probe

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// decoy serves the public key of somebody else, and counts who asks for it. It listens on the address of this host by
// which the API is reached, at a path that nobody guesses.
type decoy struct {
	base           string
	server         *http.Server
	keys, certs    atomic.Int64
	jwks, certText []byte
}

// newDecoy begins to listen.
func newDecoy(local net.IP, jwk claims, own *rsa.PrivateKey, now time.Time) (*decoy, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(local.String(), "0"))
	if err != nil {
		return nil, err
	}
	secret := "/" + rand.Text()
	d := &decoy{base: "http://" + listener.Addr().String() + secret}
	if d.jwks, err = json.Marshal(map[string]any{"keys": []any{jwk}}); err == nil {
		d.certText, err = certificate(own, now)
	}
	if err != nil {
		listener.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc(secret+"/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		d.keys.Add(1)
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Write(d.jwks)
	})
	mux.HandleFunc(secret+"/cert.pem", func(w http.ResponseWriter, _ *http.Request) {
		d.certs.Add(1)
		w.Header().Set("Content-Type", "application/x-pem-file")
		w.Write(d.certText)
	})
	d.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Second, MaxHeaderBytes: 8 << 10}
	go d.server.Serve(listener)
	return d, nil
}

// certificate returns a certificate of a key that the key itself has signed, as PEM.
func certificate(own *rsa.PrivateKey, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "keyturn probe"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &own.PublicKey, own)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

func (d *decoy) keysURL() string        { return d.base + "/jwks.json" }
func (d *decoy) certificateURL() string { return d.base + "/cert.pem" }

// asked reports how often a case has led the API to the decoy.
func (d *decoy) asked(id string) int64 {
	switch id {
	case caseJKU:
		return d.keys.Load()
	case caseX5U:
		return d.certs.Load()
	}
	return 0
}

func (d *decoy) close() { d.server.Close() }
