package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// Certificate reads the certificate of the public listener. It is nil if the listener is plaintext.
func (c Config) Certificate() (*tls.Certificate, error) {
	return readCertificate("tls_cert_file, tls_key_file", c.TLSCertFile, c.TLSKeyFile)
}

// AdminCertificate reads the certificate of the admin listener. It is nil if the listener is plaintext.
func (c Config) AdminCertificate() (*tls.Certificate, error) {
	return readCertificate("admin_tls_cert_file, admin_tls_key_file", c.AdminTLSCertFile, c.AdminTLSKeyFile)
}

func readCertificate(what, certFile, keyFile string) (*tls.Certificate, error) {
	if certFile == "" || keyFile == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &certificate, nil
}

// AdminClientCAs reads the authorities of client certificates. It is nil if the admin listener asks for none.
func (c Config) AdminClientCAs() (*x509.CertPool, error) {
	if c.AdminClientCAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.AdminClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("admin_client_ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("admin_client_ca_file: %s holds no PEM certificate", c.AdminClientCAFile)
	}
	return pool, nil
}

// ConsoleURLs returns the URLs of the console; none if the port is not known.
func (c Config) ConsoleURLs() []string {
	if len(c.AdminURLs) > 0 {
		return c.AdminURLs
	}
	_, port, err := net.SplitHostPort(c.AdminListen)
	if err != nil || port == "0" {
		return nil
	}
	scheme := "http"
	if c.AdminTLSCertFile != "" {
		scheme = "https"
	}
	return []string{scheme + "://" + net.JoinHostPort("localhost", port)}
}
