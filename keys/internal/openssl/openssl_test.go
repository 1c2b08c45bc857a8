//go:build openssl && linux && (amd64 || arm64)

package openssl

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func mustLoad(t testing.TB) *Library {
	t.Helper()
	l, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustGenerate(t testing.TB, l *Library) *Key {
	t.Helper()
	k, err := l.Generate(2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign makes a signature that Go must verify.
func sign(t testing.TB, k *Key, text string) []byte {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	signature, err := k.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(k.public, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}
	return signature
}

func TestVersion(t *testing.T) {
	if l := mustLoad(t); !strings.HasPrefix(l.Version(), "OpenSSL 3.") || l.FIPS() {
		t.Errorf("%q, FIPS %v", l.Version(), l.FIPS())
	}
}

// A key goes to Go and back, and both make the same signatures.
func TestKeysTravel(t *testing.T) {
	l := mustLoad(t)
	for _, bits := range []int{2048, 3072, 4096} {
		theirs, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(theirs)
		if err != nil {
			t.Fatal(err)
		}
		k, err := l.Parse(der)
		if err != nil {
			t.Fatal(err)
		}
		back, err := k.PKCS8()
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParsePKCS8PrivateKey(back)
		if err != nil || !theirs.Equal(parsed) || !theirs.PublicKey.Equal(k.Public()) {
			t.Errorf("%d bits: another key came back: %v", bits, err)
		}
		digest := sha256.Sum256([]byte("x"))
		want, err := theirs.Sign(nil, digest[:], crypto.SHA256)
		if err != nil || string(want) != string(sign(t, k, "x")) {
			t.Errorf("%d bits: another signature, %v", bits, err)
		}
		if err := l.Verify(&theirs.PublicKey, digest, want); err != nil {
			t.Error(err)
		}
		want[7] ^= 1
		if err := l.Verify(&theirs.PublicKey, digest, want); err == nil {
			t.Error("an altered signature verifies")
		}
		k.Close()
	}
}

func TestBadKeys(t *testing.T) {
	l, before := mustLoad(t), Live()
	k := mustGenerate(t, l)
	good, err := k.PKCS8()
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	other, err := x509.MarshalPKCS8PrivateKey(mustP256(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"nothing":       nil,
		"half a key":    good[:len(good)/2],
		"bytes after":   append(append([]byte(nil), good...), 0),
		"not RSA":       other,
		"text":          []byte("-----BEGIN PRIVATE KEY-----"),
		"another inner": append(append([]byte(nil), good[:40]...), make([]byte, len(good)-40)...),
	} {
		if k, err := l.Parse(der); err == nil || k != nil || !strings.HasPrefix(err.Error(), "openssl: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.Generate(8); err == nil || !strings.Contains(err.Error(), "key size too small") {
		t.Errorf("the reason of OpenSSL is lost: %v", err)
	}
	if now := Live(); now != before {
		t.Errorf("%d objects before, %d after", before, now)
	}
}

// Sign refuses what is not RS256, and any use of a closed key.
func TestSignRefuses(t *testing.T) {
	k, digest := mustGenerate(t, mustLoad(t)), make([]byte, sha256.Size)
	for name, do := range map[string]func() ([]byte, error){
		"PSS":          func() ([]byte, error) { return k.Sign(nil, digest, &rsa.PSSOptions{Hash: crypto.SHA256}) },
		"SHA-512":      func() ([]byte, error) { return k.Sign(nil, make([]byte, 64), crypto.SHA512) },
		"short digest": func() ([]byte, error) { return k.Sign(nil, digest[:31], crypto.SHA256) },
		"no options":   func() ([]byte, error) { return k.Sign(nil, digest, nil) },
	} {
		if _, err := do(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	k.Close()
	k.Close()
	if _, err := k.Sign(nil, digest, crypto.SHA256); err != errClosed {
		t.Errorf("a closed key signs: %v", err)
	}
	if _, err := k.PKCS8(); err != errClosed {
		t.Errorf("a closed key is exported: %v", err)
	}
}

// Nothing is left of many keys and signatures, whether somebody closes a key while it signs, or forgets it. The long
// form makes 10,000,000 signatures.
func TestNothingIsLeft(t *testing.T) {
	rotations, signatures, workers := 100, 50, 8
	if os.Getenv("KEYTURN_SOAK") != "" {
		signatures = 10_000_000 / rotations / workers
	}
	l, before, memory := mustLoad(t), Live(), resident(t)
	for rotation := range rotations {
		k := mustParse(t, l)
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				digest := sha256.Sum256([]byte("x"))
				for range signatures {
					if _, err := k.Sign(nil, digest[:], crypto.SHA256); err != nil && err != errClosed {
						t.Error(err)
					}
				}
			})
		}
		if rotation%10 == 3 {
			k.Close() // while it signs
		}
		all.Wait()
		if rotation%2 == 0 {
			k.Close()
		} // or else it is forgotten
	}
	for end := time.Now().Add(time.Minute); Live() != before && time.Now().Before(end); {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if now := Live(); now != before {
		t.Errorf("%d objects before, %d after", before, now)
	}
	if now := resident(t); now > memory+64<<20 {
		t.Errorf("%d MiB before, %d MiB after", memory>>20, now>>20)
	}
}

// The memory that held a key does not hold it after Close.
func TestCleansed(t *testing.T) {
	l := mustLoad(t)
	k := mustGenerate(t, l)
	der, err := k.PKCS8()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	clear(der)
	if err != nil {
		t.Fatal(err)
	}
	prime := parsed.(*rsa.PrivateKey).Primes[0].Bytes() // as in DER
	reverse := make([]byte, 32)                         // OpenSSL keeps words with the least one first
	for i := range reverse {
		reverse[i] = prime[len(prime)-1-i]
	}
	sign(t, k, "x")
	if found := occurrences(t, reverse); found == 0 {
		t.Fatal("the search does not find a key in use")
	}
	k.Close()
	if found := occurrences(t, reverse); found != 0 {
		t.Errorf("%d copies of a prime are left", found)
	}
	if found := occurrences(t, prime[:32]); found != 0 {
		t.Errorf("%d copies of a prime are left in DER", found)
	}
}
