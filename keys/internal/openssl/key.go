//go:build openssl && linux && (amd64 || arm64)

package openssl

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	pkcs1Padding = 1           // RSA_PKCS1_PADDING
	mPerturb     = ^uintptr(5) // M_PERTURB, which is -6
)

// live counts the EVP_PKEY and EVP_PKEY_CTX that are not freed yet.
var live atomic.Int64

// Live returns the number of objects of OpenSSL that this process holds.
func Live() int64 { return live.Load() }

// Key is an RSA private key in the memory of libcrypto. It is safe for concurrent use. Its memory is cleansed by Close,
// or some time after the last reference to it is gone.
type Key struct {
	public *rsa.PublicKey
	state  *state
	undo   runtime.Cleanup
}

// state is what outlives a Key until its last signature is done.
type state struct {
	library *Library
	key     uintptr // EVP_PKEY
	mu      sync.Mutex
	idle    []*signature
	busy    int
	closed  bool
}

// signature is one EVP_PKEY_CTX, ready to sign, with the memory that it reads and writes.
type signature struct {
	context uintptr
	digest  [sha256.Size]byte
	bytes   []byte
	size    uintptr
}

// exporting lets one key be exported at a time, since mallopt is for the whole process.
var exporting sync.Mutex

var errClosed = errors.New("openssl: the key is closed")

// Generate makes a key.
func (l *Library) Generate(bits int) (*Key, error) {
	var key uintptr
	name := []byte("RSA\x00")
	err := l.within("make a key", func() bool {
		context := l.call("EVP_PKEY_CTX_new_from_name", 0, uintptr(unsafe.Pointer(&name[0])), 0)
		defer l.call("EVP_PKEY_CTX_free", context)
		return context != 0 &&
			is1(l.call("EVP_PKEY_keygen_init", context)) &&
			is1(l.call("EVP_PKEY_CTX_set_rsa_keygen_bits", context, uintptr(bits))) &&
			is1(l.call("EVP_PKEY_generate", context, uintptr(unsafe.Pointer(&key))))
	})
	if err != nil {
		return nil, err
	}
	return l.newKey(key)
}

// Parse reads the PKCS #8 form of an RSA private key. It makes no copy of it in the memory of Go.
func (l *Library) Parse(pkcs8 []byte) (*Key, error) {
	if len(pkcs8) == 0 {
		return nil, errors.New("openssl: an empty key")
	}
	var pin runtime.Pinner // C gets the address by a pointer to it
	pin.Pin(&pkcs8[0])
	defer pin.Unpin()
	var key uintptr
	err := l.within("read a key", func() bool {
		next := uintptr(unsafe.Pointer(&pkcs8[0]))
		end := next + uintptr(len(pkcs8))
		info := l.call("d2i_PKCS8_PRIV_KEY_INFO", 0, uintptr(unsafe.Pointer(&next)), uintptr(len(pkcs8)))
		if info == 0 || next != end {
			l.call("PKCS8_PRIV_KEY_INFO_free", info)
			return false
		}
		key = l.call("EVP_PKCS82PKEY", info)
		l.call("PKCS8_PRIV_KEY_INFO_free", info)
		return key != 0
	})
	if err != nil {
		return nil, err
	}
	return l.newKey(key)
}

// newKey takes over an EVP_PKEY.
func (l *Library) newKey(key uintptr) (*Key, error) {
	live.Add(1)
	s := &state{library: l, key: key}
	public, err := l.publicOf(key)
	if err != nil {
		s.close()
		return nil, err
	}
	k := &Key{public: public, state: s}
	k.undo = runtime.AddCleanup(k, (*state).close, s)
	return k, nil
}

// publicOf returns the public half of an EVP_PKEY, which must be an RSA key.
func (l *Library) publicOf(key uintptr) (*rsa.PublicKey, error) {
	der, err := l.encode("i2d_PUBKEY", key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("openssl: %w", err)
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("openssl: not an RSA key")
	}
	return public, nil
}

// encode calls a function that writes the DER of an object.
func (l *Library) encode(function string, object uintptr) (der []byte, err error) {
	err = l.within(function, func() bool {
		size := int32(l.call(function, object, 0))
		if size <= 0 {
			return false
		}
		der = make([]byte, size)
		next := uintptr(unsafe.Pointer(&der[0]))
		wrote := int32(l.call(function, object, uintptr(unsafe.Pointer(&next))))
		runtime.KeepAlive(der)
		return wrote == size
	})
	return der, err
}

// Public returns the public half, an *rsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// PKCS8 returns the private half. Clear it when it is sealed.
func (k *Key) PKCS8() (der []byte, err error) {
	s := k.state
	s.mu.Lock() // Close waits
	defer s.mu.Unlock()
	defer runtime.KeepAlive(k)
	if s.closed {
		return nil, errClosed
	}
	// OpenSSL does not cleanse a buffer of its encoder: glibc overwrites what is freed meanwhile.
	exporting.Lock()
	defer exporting.Unlock()
	s.library.call("mallopt", mPerturb, 0xff)
	defer s.library.call("mallopt", mPerturb, 0)
	var info uintptr
	err = s.library.within("encode a key", func() bool {
		info = s.library.call("EVP_PKEY2PKCS8", s.key)
		return info != 0
	})
	if err != nil {
		return nil, err
	}
	defer s.library.call("PKCS8_PRIV_KEY_INFO_free", info)
	return s.library.encode("i2d_PKCS8_PRIV_KEY_INFO", info)
}

// Sign makes the RSASSA-PKCS1-v1_5 signature of a SHA-256 digest (RFC 8017 §8.2).
func (k *Key) Sign(_ io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	_, pss := options.(*rsa.PSSOptions)
	if pss ||
		options == nil ||
		options.HashFunc() != crypto.SHA256 ||
		len(digest) != sha256.Size {
		return nil, errors.New("openssl: only RSASSA-PKCS1-v1_5 with SHA-256 is supported")
	}
	c, err := k.state.borrow(k.public.Size())
	if err != nil {
		return nil, err
	}
	defer runtime.KeepAlive(k)
	defer k.state.giveBack(c)
	copy(c.digest[:], digest)
	if l := k.state.library; !c.sign(l) {
		// Once more, for the reason. To lock every signature to a thread would cost latency.
		if err := l.within("sign", func() bool { return c.sign(l) }); err != nil {
			return nil, err
		}
	}
	return append([]byte(nil), c.bytes[:c.size]...), nil
}

func (c *signature) sign(l *Library) bool {
	c.size = uintptr(len(c.bytes))
	return is1(l.call("EVP_PKEY_sign", c.context,
		uintptr(unsafe.Pointer(&c.bytes[0])), uintptr(unsafe.Pointer(&c.size)),
		uintptr(unsafe.Pointer(&c.digest[0])), uintptr(len(c.digest))))
}

// borrow returns a context that nobody else uses. There are as many as signatures are made at once.
func (s *state) borrow(size int) (*signature, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if n := len(s.idle); n > 0 {
		c := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.busy++
		return c, nil
	}
	context, err := s.library.context(s.key, "sign")
	if err != nil {
		return nil, err
	}
	s.busy++
	return &signature{context: context, bytes: make([]byte, size)}, nil
}

// context makes an EVP_PKEY_CTX for RS256. The operation is sign or verify.
func (l *Library) context(key uintptr, operation string) (context uintptr, err error) {
	err = l.within("prepare to "+operation, func() bool {
		context = l.call("EVP_PKEY_CTX_new_from_pkey", 0, key, 0)
		if context == 0 {
			return false
		}
		live.Add(1)
		return is1(l.call("EVP_PKEY_"+operation+"_init", context)) &&
			is1(l.call("EVP_PKEY_CTX_set_rsa_padding", context, pkcs1Padding)) &&
			is1(l.call("EVP_PKEY_CTX_set_signature_md", context, l.call("EVP_sha256")))
	})
	if err != nil && context != 0 {
		l.free("EVP_PKEY_CTX_free", context)
	}
	return context, err
}

func (l *Library) free(function string, object uintptr) {
	l.call(function, object)
	live.Add(-1)
}

func (s *state) giveBack(c *signature) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.idle = append(s.idle, c)
	if s.closed {
		s.freeIdle()
	}
}

// Close frees the key, after the signatures that are being made. The memory that held it is cleansed. Later signatures
// return an error.
func (k *Key) Close() {
	k.undo.Stop()
	k.state.close()
	runtime.KeepAlive(k)
}

func (s *state) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.freeIdle()
}

// freeIdle frees the contexts, and with the last one the key: EVP_PKEY_free overwrites the private numbers.
func (s *state) freeIdle() {
	for _, c := range s.idle {
		s.library.free("EVP_PKEY_CTX_free", c.context)
	}
	s.idle = nil
	if s.busy == 0 && s.key != 0 {
		s.library.free("EVP_PKEY_free", s.key)
		s.key = 0
	}
}

// Verify checks a signature that Sign could have made.
func (l *Library) Verify(public *rsa.PublicKey, digest [sha256.Size]byte, signature []byte) error {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil || len(signature) == 0 {
		return errors.Join(errors.New("openssl: verify: bad input"), err)
	}
	var key uintptr
	err = l.within("read a public key", func() bool {
		next := uintptr(unsafe.Pointer(&der[0]))
		key = l.call("d2i_PUBKEY", 0, uintptr(unsafe.Pointer(&next)), uintptr(len(der)))
		runtime.KeepAlive(der)
		return key != 0
	})
	if err != nil {
		return err
	}
	live.Add(1)
	defer l.free("EVP_PKEY_free", key)
	context, err := l.context(key, "verify")
	if err != nil {
		return err
	}
	defer l.free("EVP_PKEY_CTX_free", context)
	return l.within("verify", func() bool {
		return is1(l.call("EVP_PKEY_verify", context,
			uintptr(unsafe.Pointer(&signature[0])), uintptr(len(signature)),
			uintptr(unsafe.Pointer(&digest[0])), uintptr(len(digest))))
	})
}
