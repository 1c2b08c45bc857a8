// Package openssl makes RSA keys and signs with libcrypto.so.3 of the system, which is OpenSSL 3.
//
// It needs the build tag openssl, and no cgo: purego calls the library. The configuration of the system chooses the
// providers of OpenSSL that do the work, for instance a FIPS provider. Without the tag the package is empty.
package openssl
