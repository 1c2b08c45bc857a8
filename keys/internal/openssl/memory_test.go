//go:build openssl && linux && (amd64 || arm64)

package openssl

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

func mustP256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// mustParse reads a key that is made once, since making one takes long.
func mustParse(t testing.TB, l *Library) *Key {
	t.Helper()
	der, err := os.ReadFile("../../known_answer/key.der")
	if err != nil {
		t.Fatal(err)
	}
	k, err := l.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// resident returns the memory in use, in bytes.
func resident(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// occurrences counts a secret in the heap of libc. It does not look into the heap of Go, where the test itself has it.
func occurrences(t testing.TB, secret []byte) (found int) {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	ofGo := int64(uintptr(unsafe.Pointer(&secret[0])) >> 36)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var start, end int64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x rw-p", &start, &end); err != nil || start>>36 == ofGo {
			continue
		}
		region := make([]byte, end-start)
		if n, _ := memory.ReadAt(region, start); n > 0 {
			found += bytes.Count(region[:n], secret)
		}
	}
	return found
}
