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

// A server that runs goes on through a rewrap: it reads the new master key from its file when it first meets it. Afterwards nothing
// opens with the old key alone, and everything with the new one alone.
func TestRewrapUnderARunningServer(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, url string) {
		c, dir := newClock(), t.TempDir()
		before, after := filepath.Join(dir, "old"), filepath.Join(dir, "new")
		must(t, keys.CreateMaster(before))
		must(t, keys.CreateMaster(after))
		file := masterOf(t, before)
		ring := func(path string) (*keys.Ring, error) {
			m, err := keys.ReadMaster(path)
			must(t, err)
			return keys.Open(ctx, storagetest.MustOpen(t, url), m, keystest.Config, keys.Options{Now: c.now, Generate: keystest.Generator(), Log: keystest.Quiet,
				ReadMaster: func() (*keys.Master, error) { return keys.ReadMaster(path) }})
		}
		server, err := ring(file)
		must(t, err)
		must(t, server.Maintain(ctx))
		token, _ := mustSign(t, server, c.now().Add(time.Minute))
		_, mac := server.Secrets().RefreshKey(c.now())

		must(t, keys.AppendMaster(file, after))
		command, err := ring(file)
		must(t, err)
		to, err := keys.ReadMaster(after)
		must(t, err)
		done, err := command.Rewrap(ctx, admin, to)
		must(t, err)
		if done.MasterKey != to.ID() || done.SigningKeys != 2 || done.SecretKeys != 3 || done.Left != 0 {
			t.Errorf("%+v", done)
		}

		c.step(time.Hour) // it has cached what it knew
		must(t, server.Maintain(ctx))
		if _, _, err := server.Verify(token); err != nil {
			t.Error(err)
		}
		mustSign(t, server, c.now().Add(time.Minute))
		if _, again := server.Secrets().RefreshKey(noon); string(again) != string(mac) {
			t.Error("the key of refresh tokens has changed")
		}
		c.step(keystest.Config.RotationInterval)
		must(t, server.Maintain(ctx)) // seals new keys

		if _, err := ring(before); !errors.Is(err, keys.ErrWrongMaster) {
			t.Error("the old master key still opens:", err)
		}
		alone, err := ring(after)
		must(t, err)
		must(t, alone.Maintain(ctx))
		mustSign(t, alone, c.now().Add(time.Minute))
		if done, err := alone.Rewrap(ctx, admin, to); err != nil || done.SigningKeys+done.SecretKeys+done.Left != 0 {
			t.Errorf("something was left: %+v, %v", done, err)
		}
	})
}

// A server whose file lacks the new master key stops signing rather than go on with what it can no longer check, and recovers by itself.
func TestRewrapWithoutTheNewKeyInTheFile(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c, today := newClock(), keystest.MustMaster(t, 1)
		server, err := keys.Open(ctx, db, today, keystest.Config, keys.Options{Now: c.now, Generate: keystest.Generator(), Log: keystest.Quiet,
			ReadMaster: func() (*keys.Master, error) { return today, nil }})
		must(t, err)
		must(t, server.Maintain(ctx))
		command := mustOpen(t, db, c, keystest.Generator())
		_, err = command.Rewrap(ctx, admin, newMaster(t))
		must(t, err)
		if err := server.Maintain(ctx); !errors.Is(err, keys.ErrWrongMaster) {
			t.Error(err)
		}
		c.step(keys.StaleAfter + time.Second)
		if err := server.Healthy(); !errors.Is(err, keys.ErrStale) {
			t.Error(err)
		}
		today = newMaster(t)
		must(t, server.Maintain(ctx))
		must(t, server.Healthy())
	})
}
