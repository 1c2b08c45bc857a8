package keys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Place names the database, and the files of the master key and the anchor on this host.
type Place struct {
	Database      storage.Source
	MasterKeyFile string
	AnchorFile    string
}

// masterKeyName is the default name of the master key file, in the folder of an SQLite database.
const masterKeyName = "keyturn-master.key"

// errNoMasterKeyFile means that PostgreSQL is used and master_key_file is not set.
var errNoMasterKeyFile = errors.New("master_key_file: is required with PostgreSQL: `openssl rand -base64 32` makes " +
	"the content, chmod 600 the file")

// NewPlace returns the place of a database. By default the master key is in the folder of an SQLite database, and the
// anchor in the folder of the master key.
func NewPlace(database storage.Source, masterKeyFile, anchorFile string) (Place, error) {
	p := Place{Database: database, MasterKeyFile: masterKeyFile, AnchorFile: anchorFile}
	if file := database.File(); p.MasterKeyFile == "" && file != "" {
		p.MasterKeyFile = filepath.Join(filepath.Dir(file), masterKeyName)
	}
	if p.MasterKeyFile == "" {
		return p, errNoMasterKeyFile
	}
	if p.AnchorFile == "" {
		p.AnchorFile = p.MasterKeyFile + ".anchor"
	}
	return p, nil
}

// Store holds an open database and its keys.
type Store struct {
	DB   *storage.DB
	Ring *Ring
}

// Close closes the connections to the database.
func (s Store) Close() error { return s.DB.Close() }

// StoreOptions are the options of OpenStore.
type StoreOptions struct {
	Create  bool // create the SQLite database and its master key if they do not exist
	Migrate bool // migrate an older schema
	Keys    Options
}

// OpenStore opens the database and the keys. The error is ErrWrongMaster, and nothing is written, if the master key
// does not belong to the database.
func OpenStore(ctx context.Context, p Place, c Config, o StoreOptions) (Store, error) {
	o.Keys.ReadMaster = func() (*Master, error) { return ReadMaster(p.MasterKeyFile) }
	master, err := openMaster(p, o.Create)
	if err != nil {
		return Store{}, err
	}
	if err := checkNotLost(p); err != nil {
		return Store{}, err
	}
	db, err := storage.Open(ctx, storage.Options{
		Source:  p.Database,
		Create:  o.Create,
		Migrate: o.Migrate,
		Guard:   func(ctx context.Context, db *storage.DB) error { return CheckMaster(ctx, db, master) },
	})
	if err != nil {
		return Store{}, p.nameMaster(err)
	}
	ring, err := Open(ctx, db, master, c, o.Keys)
	if err != nil {
		db.Close()
		return Store{}, p.nameMaster(err)
	}
	return Store{db, ring}, nil
}

// CheckBackup returns an error if a copied SQLite file cannot be restored here: it is not a complete database, or it is
// sealed under another master key (ErrWrongMaster). name is the name of the file in the error.
func (p Place) CheckBackup(ctx context.Context, copied, name string) error {
	master, err := ReadMaster(p.MasterKeyFile)
	if err != nil {
		return err
	}
	guard := func(ctx context.Context, db *storage.DB) error { return CheckMaster(ctx, db, master) }
	if err := storage.CheckBackup(ctx, copied, guard); err != nil {
		return p.nameMaster(fmt.Errorf("%s: %w", name, err))
	}
	return nil
}

// checkNotLost returns an error if the SQLite file is missing or empty, but the anchor shows that it existed.
func checkNotLost(p Place) error {
	file := p.Database.File()
	if file == "" {
		return nil
	}
	// Read the anchor first. Another process that creates the database now writes the anchor later.
	a, err := PeekAnchor(p.AnchorFile)
	if isMissing, e := missingOrEmpty(file); e != nil || !isMissing {
		return nil // storage.Open reports the error
	}
	known := !a.Heartbeat.IsZero() || a.AuditSeq != 0
	if err != nil || !known {
		return err
	}
	return fmt.Errorf(
		"database %s is gone or empty, but this host last used it at %s: bring it back, or restore a backup with "+
			"`keyturn restore FILE --confirm`; to begin anew, remove %s",
		file,
		a.Heartbeat.Format(time.RFC3339),
		p.AnchorFile,
	)
}

// missingOrEmpty reports whether a file does not exist or has no content.
func missingOrEmpty(file string) (bool, error) {
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return info.Size() == 0, nil
}

// nameMaster adds the name of the master key file to ErrWrongMaster.
func (p Place) nameMaster(err error) error {
	if errors.Is(err, ErrWrongMaster) {
		return fmt.Errorf(
			"master key: %s does not belong to this database (%w): name the right one with --master-key-file, or, "+
				"after a rewrap, append the new key to it as a line",
			p.MasterKeyFile,
			err,
		)
	}
	return err
}

// openMaster reads the master key, or creates one for a new SQLite database.
func openMaster(p Place, create bool) (*Master, error) {
	path := p.MasterKeyFile
	m, err := ReadMaster(path)
	if !errors.Is(err, os.ErrNotExist) {
		return m, err
	}
	file := p.Database.File()
	if file == "" {
		return nil, fmt.Errorf(
			"master key: %s does not exist: for a new database, create it with `openssl rand -base64 32 > %s && "+
				"chmod 600 %s`",
			path,
			path,
			path,
		)
	}
	if info, err := os.Stat(file); err == nil && info.Size() > 0 {
		if m, err := ReadMaster(path); !errors.Is(err, os.ErrNotExist) {
			return m, err // another process has just created both, first the key
		}
		return nil, fmt.Errorf(
			"master key: %s does not exist, but %s does, and it is sealed under that key: bring the key file back, or "+
				"name it with --master-key-file",
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
	if err := CreateMaster(path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return ReadMaster(path)
}

// MakeMasterKey creates the master key file unless it exists. made reports whether it did.
func (p Place) MakeMasterKey() (made bool, err error) {
	if _, err := os.Lstat(p.MasterKeyFile); !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := checkNotLost(p); err != nil { // a new key would not open the database that was here
		return false, err
	}
	return true, CreateMaster(p.MasterKeyFile)
}
