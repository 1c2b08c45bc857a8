//go:build openssl && linux && (amd64 || arm64)

package openssl

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

const fileName = "libcrypto.so.3"

// names are the functions of libcrypto that this package calls. See the manual pages of OpenSSL 3.
var names = []string{
	"CONF_modules_load_file",
	"ERR_clear_error",
	"ERR_error_string_n",
	"ERR_get_error",
	"EVP_PKCS82PKEY",
	"EVP_PKEY2PKCS8",
	"EVP_PKEY_CTX_free",
	"EVP_PKEY_CTX_new_from_name",
	"EVP_PKEY_CTX_new_from_pkey",
	"EVP_PKEY_CTX_set_rsa_keygen_bits",
	"EVP_PKEY_CTX_set_rsa_padding",
	"EVP_PKEY_CTX_set_signature_md",
	"EVP_PKEY_free",
	"EVP_PKEY_generate",
	"EVP_PKEY_is_a",
	"EVP_PKEY_keygen_init",
	"EVP_PKEY_sign",
	"EVP_PKEY_sign_init",
	"EVP_PKEY_verify",
	"EVP_PKEY_verify_init",
	"EVP_default_properties_is_fips_enabled",
	"EVP_sha256",
	"OPENSSL_cleanse",
	"OPENSSL_init_crypto",
	"OPENSSL_load_builtin_modules",
	"OpenSSL_version",
	"PKCS8_PRIV_KEY_INFO_free",
	"d2i_PKCS8_PRIV_KEY_INFO",
	"d2i_PUBKEY",
	"i2d_PKCS8_PRIV_KEY_INFO",
	"i2d_PUBKEY",
	"mallopt", // of glibc, which libcrypto needs
}

// Library is libcrypto with the addresses of its functions.
type Library struct{ functions map[string]uintptr }

// Load finds libcrypto. The process keeps it until it ends.
var Load = sync.OnceValues(func() (*Library, error) {
	handle, err := purego.Dlopen(fileName, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("openssl: %w", err)
	}
	l := &Library{map[string]uintptr{}}
	for _, name := range names {
		if l.functions[name], err = purego.Dlsym(handle, name); err != nil {
			return nil, fmt.Errorf("openssl: %s is not OpenSSL 3: %w", fileName, err)
		}
	}
	return l, l.configure()
})

// ErrConfiguration means that the configuration of OpenSSL cannot be applied as a whole.
var ErrConfiguration = errors.New("the configuration of OpenSSL (openssl.cnf) cannot be applied")

// Flags of OPENSSL_init_crypto and CONF_modules_load_file, from the headers of OpenSSL 3.
const (
	noLoadConfig      = 0x80
	ignoreMissingFile = 0x10
	defaultSection    = 0x20
)

// configure applies the configuration of the system. By itself, OpenSSL would ignore all that follows the first error
// in it, and that may be the demand for FIPS.
func (l *Library) configure() error {
	err := l.within("configuration", func() bool {
		if !is1(l.call("OPENSSL_init_crypto", noLoadConfig, 0)) {
			return false
		}
		l.call("OPENSSL_load_builtin_modules")
		return int32(l.call("CONF_modules_load_file", 0, 0, ignoreMissingFile|defaultSection)) > 0
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	return nil
}

// call calls a function. Write uintptr(unsafe.Pointer(&x)) in the call itself to pass memory of Go: the directive keeps
// x alive and in place meanwhile.
//
//go:uintptrescapes
func (l *Library) call(name string, args ...uintptr) uintptr {
	result, _, _ := purego.SyscallN(l.functions[name], args...)
	return result
}

// Version returns for instance "OpenSSL 3.0.19 27 Jan 2026".
func (l *Library) Version() string { return text(l.call("OpenSSL_version", 0)) }

// FIPS reports whether the configuration of the system demands FIPS-approved algorithms.
func (l *Library) FIPS() bool { return is1(l.call("EVP_default_properties_is_fips_enabled", 0)) }

// text copies a string of C.
func text(address uintptr) string {
	start := *(*unsafe.Pointer)(unsafe.Pointer(&address)) // not memory of Go, so that the conversion is valid
	var b strings.Builder
	for ; *(*byte)(start) != 0; start = unsafe.Add(start, 1) {
		b.WriteByte(*(*byte)(start))
	}
	return b.String()
}

// is1 reports whether a function that returns an int succeeded.
func is1(result uintptr) bool { return int32(result) == 1 }

// within runs do on one thread, since OpenSSL keeps a queue of errors for each thread. If do reports false, within
// returns the reasons that are in the queue.
func (l *Library) within(operation string, do func() bool) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l.call("ERR_clear_error")
	if do() {
		return nil
	}
	var reasons []string
	for code := l.call("ERR_get_error"); code != 0; code = l.call("ERR_get_error") {
		reason := make([]byte, 256)
		l.call("ERR_error_string_n", code, uintptr(unsafe.Pointer(&reason[0])), uintptr(len(reason)))
		text, _, _ := strings.Cut(string(reason), "\x00")
		reasons = append(reasons, text)
	}
	if reasons == nil {
		reasons = []string{"OpenSSL gives no reason"}
	}
	return fmt.Errorf("openssl: %s: %w", operation, errors.New(strings.Join(reasons, ", ")))
}
