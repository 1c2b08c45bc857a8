package config

import (
	"crypto/tls"
	"fmt"
)

// Certificate reads the certificate of the public listener. It is nil if the listener is plaintext.
func (c Config) Certificate() (*tls.Certificate, error) {
	if c.TLSCertFile == "" || c.TLSKeyFile == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls_cert_file, tls_key_file: %w", err)
	}
	return &certificate, nil
}
