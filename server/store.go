package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// masterKeyName is the file of the master key beside an SQLite database.
const masterKeyName = "keyturn-master.key"

// metaStamp marks a database that dev has made; serve refuses it.
const (
	metaStamp = "stamp"
	stampDev  = "dev"
)

// store is database and keys, opened together.
type store struct {
	db   *storage.DB
	ring *keys.Ring
}

func (s store) close() error { return s.db.Close() }

// masterKeyPath is where the master key lies; "" if nothing says it.
func (c Config) masterKeyPath() string {
	if c.MasterKeyFile != "" {
		return c.MasterKeyFile
	}
	if file := c.source().File(); file != "" {
		return filepath.Join(filepath.Dir(file), masterKeyName)
	}
	return ""
}

// openStore opens database and keys. With create it makes an SQLite database, and its master key, that are not there
// yet. A master key that does not belong to the database is found out before anything is written.
func openStore(ctx context.Context, c Config, create bool, o keys.Options) (store, error) {
	o.ReadMaster = func() (*keys.Master, error) { return keys.ReadMaster(c.masterKeyPath()) }
	master, err := openMaster(c, create)
	if err != nil {
		return store{}, err
	}
	if err := checkNotLost(c); err != nil {
		return store{}, err
	}
	source, err := storage.ParseSource(c.Database, c.AllowInsecureDatabase)
	if err != nil {
		return store{}, err
	}
	db, err := storage.Open(
		ctx,
		storage.Options{Source: source, Create: create, Migrate: c.Migrate,
			Guard: func(ctx context.Context, db *storage.DB) error { return keys.CheckMaster(ctx, db, master) }},
	)
	if err != nil {
		return store{}, withMasterPath(err, c)
	}
	ring, err := keys.Open(ctx, db, master, c.Keys(), o)
	if err != nil {
		db.Close()
		return store{}, withMasterPath(err, c)
	}
	return store{db, ring}, nil
}

// checkNotLost refuses to make an SQLite database where this host has seen one.
func checkNotLost(c Config) error {
	file := c.source().File()
	if file == "" {
		return nil
	}
	// The anchor first: another process that makes the database just now writes it later.
	a, err := keys.PeekAnchor(c.anchorPath())
	if info, e := os.Stat(file); e == nil && info.Size() > 0 || e != nil && !errors.Is(e, os.ErrNotExist) {
		return nil
	}
	if err != nil || a.Heartbeat.IsZero() && a.AuditSeq == 0 {
		return err
	}
	return fmt.Errorf(
		"database %s is gone or empty, and this host has seen it as of %s: bring it back, or `keyturn restore FILE "+
			"--confirm` a backup; to begin anew, remove %s",
		file,
		a.Heartbeat.Format(time.RFC3339),
		c.anchorPath(),
	)
}

func withMasterPath(err error, c Config) error {
	if errors.Is(err, keys.ErrWrongMaster) {
		return fmt.Errorf(
			"master key: %s does not belong to this database (%w): name the one that was used before with "+
				"--master-key-file, or add to it, as a line, the new key of a rewrap",
			c.masterKeyPath(),
			err,
		)
	}
	return err
}

// openMaster reads the master key, or makes one for an SQLite database that holds nothing yet.
func openMaster(c Config, create bool) (*keys.Master, error) {
	path := c.masterKeyPath()
	m, err := keys.ReadMaster(path)
	if !errors.Is(err, os.ErrNotExist) {
		return m, err
	}
	file := c.source().File()
	if file == "" {
		return nil, fmt.Errorf(
			"master key: %s does not exist: `openssl rand -base64 32 > %s && chmod 600 %s` makes one for a new database",
			path,
			path,
			path,
		)
	}
	if info, err := os.Stat(file); err == nil && info.Size() > 0 {
		if m, err := keys.ReadMaster(path); !errors.Is(err, os.ErrNotExist) {
			return m, err // another process has just made both, the key first
		}
		return nil, fmt.Errorf(
			"master key: %s does not exist, but %s does, and was sealed under it: bring the key file back, or name it with "+
				"--master-key-file",
			path,
			file,
		)
	}
	if !create {
		return nil, fmt.Errorf(
			"%w at %s: `keyturn migrate up` or `keyturn serve` makes one, --database names another",
			storage.ErrNoDatabase,
			file,
		)
	}
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		return nil, fmt.Errorf("database %s: its folder does not exist: make it first", file)
	}
	if err := keys.CreateMaster(path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return keys.ReadMaster(path)
}

// checkStamp tells whether the database was made for the purpose: by dev, or not.
func checkStamp(ctx context.Context, db *storage.DB, dev bool) error {
	stamp, err := db.Meta().Value(ctx, metaStamp)
	if errors.Is(err, storage.ErrNotFound) {
		stamp, err = "", nil
	}
	if err != nil {
		return err
	}
	if err := checkMoved(ctx, db); err != nil {
		return err
	}
	switch {
	case stamp == stampDev && !dev:
		return &ConfigError{
			[]error{errors.New("database: it was made by `keyturn dev`, its secrets are known to everybody: use another one")},
		}
	case stamp != stampDev && dev:
		return errors.New("database: it was not made by `keyturn dev`, which would add a demo user to it: use another folder")
	}
	return nil
}

// checkMoved refuses a database that was copied to another: what is changed in it is seen by nobody.
func checkMoved(ctx context.Context, db *storage.DB) error {
	moved, err := db.Meta().Value(ctx, storage.MetaMoved)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return &ConfigError{
		[]error{
			fmt.Errorf(
				"database: it was copied to %s, and what has happened there since is not in it: use that one; to go back to "+
					"this one, `keyturn restore --confirm` ends every login",
				moved,
			),
		},
	}
}

// ConfigError is a configuration that keyturn does not run with: all its problems at once.
type ConfigError struct{ Problems []error }

func (e *ConfigError) Error() string { return errors.Join(e.Problems...).Error() }

// MakeMasterKey makes the file of the master key, unless it is there. It tells whether it did.
func MakeMasterKey(c Config) (made bool, err error) {
	path := c.masterKeyPath()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := checkNotLost(c); err != nil { // a new key would not open the database that was here
		return false, err
	}
	return true, keys.CreateMaster(path)
}
