//go:build !openssl || !linux || !(amd64 || arm64)

package keys

func openSSL() (CryptoModule, error) { return nil, ErrNoOpenSSL }
