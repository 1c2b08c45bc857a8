package keys_test

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// device stands for a device that never releases a private half, such as an HSM: a secret is only a label.
type device struct {
	mu        sync.Mutex
	generate  func(bits int) (*rsa.PrivateKey, error)
	objects   map[string]*rsa.PrivateKey
	destroyed []string
	away      bool
}

type deviceKey struct {
	device *device
	label  string
	public *rsa.PublicKey
}

func newDevice() *device {
	return &device{generate: keystest.Generator(), objects: map[string]*rsa.PrivateKey{}}
}

func (d *device) String() string { return "a device" }

func (d *device) Make(bits int) (keys.PrivateKey, error) {
	private, err := d.generate(bits)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	label := fmt.Sprintf("object %d", len(d.objects)+len(d.destroyed)+1)
	d.objects[label] = private
	return deviceKey{d, label, &private.PublicKey}, nil
}

func (d *device) Open(secret []byte) (keys.PrivateKey, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	private := d.objects[string(secret)]
	if private == nil {
		return nil, fmt.Errorf("no object %q", secret)
	}
	return deviceKey{d, string(secret), &private.PublicKey}, nil
}

func (d *device) Destroy(secret []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away {
		return errors.New("the device is away")
	}
	if d.objects[string(secret)] == nil {
		return fmt.Errorf("no object %q", secret)
	}
	delete(d.objects, string(secret))
	d.destroyed = append(d.destroyed, string(secret))
	return nil
}

func (k deviceKey) Public() crypto.PublicKey { return k.public }

func (k deviceKey) Secret() ([]byte, error) { return []byte(k.label), nil }

func (k deviceKey) Close() {}

func (k deviceKey) Sign(random io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	k.device.mu.Lock()
	defer k.device.mu.Unlock()
	return k.device.objects[k.label].Sign(random, digest, o)
}

// A device makes, publishes, signs and destroys, without that the database or the process has a private half.
func TestPrivateHalvesStayInTheDevice(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, d := newClock(), newDevice()
		db := storagetest.MustOpen(t, url)
		r := keystest.MustRing(t, db, c.now, d)
		replica := mustOpen(t, db, c, d)
		check := func(when string, objects, destroyed int) {
			t.Helper()
			for _, ring := range []*keys.Ring{r, replica} {
				must(t, ring.Poll(ctx))
				token, _ := mustSign(t, ring, c.now().Add(time.Minute))
				if _, err := r.Verify(token); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
			if len(d.objects) != objects || len(d.destroyed) != destroyed {
				t.Errorf("%s: %d objects, %d destroyed, want %d and %d",
					when, len(d.objects), len(d.destroyed), objects, destroyed)
			}
		}
		check("at first", 2, 0) // current and next
		_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
		must(t, err)
		check("after a rotation", 2, 1)
		_, err = r.LifeCycle().Rewrap(ctx, admin, newMaster(t))
		must(t, err)
		check("after a new master key", 2, 1)
		_, err = r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: currentKID(r)})
		must(t, err)
		check("after a revocation", 2, 2)
		d.away = true // which must not undo a rotation
		_, err = r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
		must(t, err)
		check("while it is away", 3, 2)
	})
}

func currentKID(r *keys.Ring) string {
	for _, row := range r.Rows() {
		if row.State == storage.KeyCurrent {
			return row.KID
		}
	}
	return ""
}

func TestNewCryptoModule(t *testing.T) {
	t.Parallel()
	m, err := keys.NewCryptoModule(keys.SignerGo, keystest.Quiet)
	if err != nil || m.String() != "Go crypto/rsa" {
		t.Errorf("%v, %v", m, err)
	}
	m, err = keys.NewCryptoModule(keys.SignerOpenSSL, keystest.Quiet)
	if keystest.Signer == keys.SignerGo && !errors.Is(err, keys.ErrNoOpenSSL) {
		t.Errorf("this build has OpenSSL: %v, %v", m, err)
	}
	if version, other := keys.OpenSSL(); keystest.Signer == keys.SignerOpenSSL && (err != nil || other != nil ||
		m.String() != version) {
		t.Errorf("%v, %v, %q, %v", m, err, version, other)
	}
	auto, err := keys.NewCryptoModule(keys.SignerAuto, keystest.Quiet)
	if err != nil || keystest.Signer == keys.SignerOpenSSL && auto != m {
		t.Errorf("%v, %v", auto, err)
	}
}
