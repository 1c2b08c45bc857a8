package keys_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// masterOf writes master keys to a file, a line each, and returns its path.
func masterOf(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	must(t, os.WriteFile(path, nil, 0o600))
	for _, from := range lines {
		must(t, keys.AppendMaster(path, from))
	}
	return path
}

// A running server keeps working during a rewrap: it reads the new master key from its file when it first needs it.
// Afterwards nothing opens with the old key alone, and everything opens with the new key alone.
func TestRewrapUnderARunningServer(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, dir, module := newClock(), t.TempDir(), keystest.Module()
		before, after := filepath.Join(dir, "old"), filepath.Join(dir, "new")
		must(t, keys.CreateMaster(before))
		must(t, keys.CreateMaster(after))
		file := masterOf(t, before)
		ring := func(path string) (*keys.Ring, error) {
			m, err := keys.ReadMaster(path)
			must(t, err)
			o := c.options(module)
			o.ReadMaster = func() (*keys.Master, error) { return keys.ReadMaster(path) }
			return keys.Open(ctx, storagetest.MustOpen(t, url), m, keystest.Config, o)
		}
		server, err := ring(file)
		must(t, err)
		must(t, server.LifeCycle().Maintain(ctx))
		token, _ := mustSign(t, server, c.now().Add(time.Minute))
		_, mac := server.Secrets().RefreshKey(c.now())

		must(t, keys.AppendMaster(file, after))
		command, err := ring(file)
		must(t, err)
		to, err := keys.ReadMaster(after)
		must(t, err)
		done, err := command.LifeCycle().Rewrap(ctx, admin, to)
		must(t, err)
		if done.MasterKey != to.ID() || done.SigningKeys != 2 || done.SecretKeys != 4 || done.Left != 0 {
			t.Errorf("%+v", done)
		}

		c.step(time.Hour) // it has cached what it knew
		must(t, server.LifeCycle().Maintain(ctx))
		if _, err := server.Verify(token); err != nil {
			t.Error(err)
		}
		mustSign(t, server, c.now().Add(time.Minute))
		if _, again := server.Secrets().RefreshKey(noon); string(again) != string(mac) {
			t.Error("the key of refresh tokens has changed")
		}
		c.step(keystest.Config.RotationInterval)
		must(t, server.LifeCycle().Maintain(ctx)) // seals new keys

		if _, err := ring(before); !errors.Is(err, keys.ErrWrongMaster) {
			t.Error("the old master key still opens:", err)
		}
		alone, err := ring(after)
		must(t, err)
		must(t, alone.LifeCycle().Maintain(ctx))
		mustSign(t, alone, c.now().Add(time.Minute))
		done, err = alone.LifeCycle().Rewrap(ctx, admin, to)
		if err != nil || done.SigningKeys+done.SecretKeys+done.Left != 0 {
			t.Errorf("something was left: %+v, %v", done, err)
		}
	})
}

// A server that has seen a rewrap does not trust the old master key, even if its file still holds that key.
func TestOldMasterIsNotBelieved(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		server := mustOpen(t, storagetest.MustOpen(t, url), c, module) // made by the first of the two in its file
		must(t, server.LifeCycle().Maintain(ctx))
		_, err := server.LifeCycle().Rewrap(ctx, admin, newMaster(t))
		must(t, err)
		must(t, server.Poll(ctx))
		thief := mustOpen(t, storagetest.MustOpen(t, url), c, module)
		back, err := keys.NewMaster(make32(3))
		must(t, err)
		_, err = thief.LifeCycle().Rewrap(ctx, admin, back)
		must(t, err)
		if err := server.Poll(ctx); !errors.Is(err, keys.ErrWrongMaster) {
			t.Error("a master key that it was never given:", err)
		}
	})
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module, old := newClock(), keystest.Module(), keystest.MustMaster(t, 1)
		db := storagetest.MustOpen(t, url)
		both, err := keys.NewMaster(make32(1), make32(2))
		must(t, err)
		keystest.MustRing(t, db, c.now, module)
		o := c.options(module)
		o.ReadMaster = func() (*keys.Master, error) { return both, nil }
		server := mustRing(t, db, both, o)
		_, err = mustOpen(t, db, c, module).LifeCycle().Rewrap(ctx, admin, newMaster(t))
		must(t, err)
		must(t, server.Poll(ctx))
		thief := mustRing(t, db, newMaster(t), c.options(module))
		if _, err := thief.LifeCycle().Rewrap(ctx, admin, old); !errors.Is(err, keys.ErrRetiredMaster) {
			t.Error("back to a retired master key:", err)
		}
		storagetest.MustExec(
			t,
			storagetest.Raw(t, url),
			`DELETE FROM meta WHERE name = 'retired master keys'`,
		) // as a thief would
		_, err = thief.LifeCycle().Rewrap(ctx, admin, old)
		must(t, err)
		if err := server.Poll(ctx); !errors.Is(err, keys.ErrWrongMaster) {
			t.Error("the old master key is believed:", err)
		}
	})
}

// The order of the master keys in a file does not matter: the new key may be on top.
func TestRewrapWithTheNewKeyOnTop(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		onTop, err := keys.NewMaster(make32(2), make32(1))
		must(t, err)
		o := c.options(module)
		o.ReadMaster = func() (*keys.Master, error) { return onTop, nil }
		server := mustRing(t, storagetest.MustOpen(t, url), onTop, o)
		must(t, server.LifeCycle().Maintain(ctx))
		_, err = mustOpen(t, storagetest.MustOpen(t, url), c, module).LifeCycle().Rewrap(ctx, admin, newMaster(t))
		must(t, err)
		must(t, server.LifeCycle().Maintain(ctx))
		mustSign(t, server, c.now())
	})
}

// Of two rewraps to different keys at once, one finishes. The other finishes after it or returns an error.
func TestTwoRewrapsAtOnce(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		all, err := keys.NewMaster(make32(1), make32(2), make32(3))
		must(t, err)
		var rings []*keys.Ring
		for range 2 {
			rings = append(rings, mustRing(t, storagetest.MustOpen(t, url), all, c.options(module)))
		}
		results := make(chan error)
		for i, r := range rings {
			go func() {
				_, err := r.LifeCycle().Rewrap(ctx, admin, keystest.MustMaster(t, byte(2+i)))
				results <- err
			}()
		}
		errs := []error{<-results, <-results}
		if errs[0] != nil && errs[1] != nil {
			t.Errorf("none was finished: %v", errs)
		}
		for _, err := range errs {
			if err != nil && !errors.Is(err, storage.ErrConflict) && !errors.Is(err, keys.ErrWrongMaster) {
				t.Error(err)
			}
		}
		last := mustRing(t, storagetest.MustOpen(t, url), all, c.options(keystest.Module()))
		if s := mustStatus(t, last); !s.Healthy {
			t.Errorf("%+v", s)
		}
	})
}

// A server whose file lacks the new master key stops signing, since it cannot check the rows. It recovers by itself.
func TestRewrapWithoutTheNewKeyInTheFile(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c, today := newClock(), keystest.MustMaster(t, 1)
		o := c.options(keystest.Module())
		o.ReadMaster = func() (*keys.Master, error) { return today, nil }
		server := mustRing(t, db, today, o)
		must(t, server.LifeCycle().Maintain(ctx))
		command := mustOpen(t, db, c, keystest.Module())
		_, err := command.LifeCycle().Rewrap(ctx, admin, newMaster(t))
		must(t, err)
		if err := server.LifeCycle().Maintain(ctx); !errors.Is(err, keys.ErrWrongMaster) {
			t.Error(err)
		}
		c.step(keys.StaleAfter + time.Second)
		if err := server.Healthy(); !errors.Is(err, keys.ErrStale) {
			t.Error(err)
		}
		today = newMaster(t)
		must(t, server.LifeCycle().Maintain(ctx))
		must(t, server.Healthy())
	})
}
