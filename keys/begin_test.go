package keys_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keyturn/keyturn/keys"
)

// Processes that create a master key at once all read the same complete key.
func TestCreateMasterAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		path := filepath.Join(t.TempDir(), "master.key")
		var all sync.WaitGroup
		var mu sync.Mutex
		ids := map[string]bool{}
		for range 8 {
			all.Go(func() {
				if err := keys.CreateMaster(path); err != nil && !errors.Is(err, os.ErrExist) {
					t.Error(err)
				}
				m, err := keys.ReadMaster(path)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ids[m.ID()] = true
			})
		}
		all.Wait()
		if files, err := os.ReadDir(filepath.Dir(path)); len(ids) != 1 || len(files) != 1 || err != nil {
			t.Error(ids, files, err)
		}
	}
}
