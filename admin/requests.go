package admin

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/storage"
)

// Requests remembers the answers to requests with an Idempotency-Key, for a day. The answer is sealed under the key, of
// which the database has a hash: it may hold the new secret of a client.
type Requests struct{ *core }

// Requests acts on requests with an Idempotency-Key.
func (a *Admin) Requests() Requests { return Requests(*a) }

// Answer is the answer to a request.
type Answer struct {
	Status int
	Tag    string // ETag; "" for none
	Body   []byte
}

var (
	// ErrRunning means that a request with the same key has not ended yet, or was cut off.
	ErrRunning = errors.New("a request with this Idempotency-Key runs, or was cut off")
	// ErrOtherRequest means that the key was used for another request.
	ErrOtherRequest = errors.New("this Idempotency-Key was used for another request")
)

// bounds of an Idempotency-Key. Shorter ones can be guessed, and with them the answer.
const (
	minRequestKey = 16
	maxRequestKey = 128
)

// Begin notes a request. If the actor has made the same request with the key, it returns the answer. It returns
// ErrRunning, ErrOtherRequest, or ErrInvalid for a key that is too short or too long.
func (a Requests) Begin(ctx context.Context, key, request string) (*Answer, error) {
	if len(key) < minRequestKey || len(key) > maxRequestKey || !isLine(key) {
		return nil, invalid("Idempotency-Key: want %d to %d characters, for instance a UUID", minRequestKey,
			maxRequestKey)
	}
	before, err := a.db.AdminRequests().Begin(ctx, a.row(key, request))
	switch {
	case err != nil || before == nil:
		return nil, err
	case before.RequestHash != hashToken(request):
		return nil, ErrOtherRequest
	case before.Answer == "":
		return nil, ErrRunning
	}
	text, err := a.open(key, before.Answer)
	tag, body, _ := bytes.Cut(text, []byte("\n"))
	return &Answer{before.Status, string(tag), body}, err
}

func (a Requests) row(key, request string) storage.AdminRequest {
	return storage.AdminRequest{
		Actor:       a.by.Name,
		KeyHash:     hashToken(key),
		RequestHash: hashToken(request),
		BegunAt:     storage.At(a.now()),
	}
}

// Finish keeps the answer to a request.
func (a Requests) Finish(ctx context.Context, key, request string, answer Answer) error {
	seal, err := a.sealer(key)
	if err != nil {
		return err
	}
	row := a.row(key, request)
	row.Status = answer.Status
	row.Answer = base64.RawURLEncoding.EncodeToString(seal.Seal(nil, nil, []byte(answer.Tag+"\n"+string(answer.Body)),
		nil))
	return a.db.AdminRequests().Finish(ctx, row)
}

// Forget forgets a request that changed nothing, so that it may be repeated.
func (a Requests) Forget(ctx context.Context, key, request string) error {
	return a.db.AdminRequests().Forget(ctx, a.row(key, request))
}

// sealer returns the cipher of one key. It makes its own random nonces.
func (a Requests) sealer(key string) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, []byte(key), []byte(a.by.Name), "keyturn Idempotency-Key", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (a Requests) open(key, sealed string) ([]byte, error) {
	text, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	seal, err := a.sealer(key)
	if err != nil {
		return nil, err
	}
	return seal.Open(nil, nil, text, nil)
}
