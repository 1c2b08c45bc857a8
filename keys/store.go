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

// Place is where keyturn keeps its data: the database, and on this host the master key and the anchor.
type Place struct {
	Database      storage.Source
	MasterKeyFile string
	AnchorFile    string
}

// masterKeyName is the file of the master key beside an SQLite database.
const masterKeyName = "keyturn-master.key"

var errNoMasterKeyFile = errors.New(
	"master_key_file: is required with PostgreSQL: `openssl rand -base64 32` makes the content, chmod 600 the file",
)

// NewPlace returns the place of a database. Unless they are named, the master key is beside an SQLite database, and the
// anchor beside the master key.
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

// Store is a database and its keys, opened together.
type Store struct {
	DB   *storage.DB
	Ring *Ring
}

// Close closes the database.
func (s Store) Close() error { return s.DB.Close() }

// StoreOptions say how a store is opened.
type StoreOptions struct {
	Create  bool // create a missing SQLite database and its master key
	Migrate bool // migrate an older schema
	Keys    Options
}

// OpenStore opens database and keys. It writes nothing if the master key does not belong to the database
// (ErrWrongMaster).
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

// CheckBackup returns an error if a copied SQLite file cannot be restored at this place: it is not a whole database, or
// it was sealed under another master key (ErrWrongMaster). The error calls the file by name.
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

// Begun reports whether the database has keys. Opening a store would make them. It changes nothing.
func (p Place) Begun(ctx context.Context) (bool, error) {
	if err := checkNotLost(p); err != nil {
		return false, err
	}
	master, err := ReadMaster(p.MasterKeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // a server makes it, and the database
	}
	if err != nil {
		return false, err
	}
	db, err := storage.Open(ctx, storage.Options{
		Source: p.Database,
		Guard:  func(ctx context.Context, db *storage.DB) error { return CheckMaster(ctx, db, master) },
	})
	if err != nil {
		return false, p.nameMaster(err)
	}
	secrets, err := db.SecretKeys().All(ctx)
	return len(secrets) > 0, errors.Join(err, db.Close())
}

// checkNotLost returns an error if an SQLite database is missing that this host has seen.
func checkNotLost(p Place) error {
	file := p.Database.File()
	if file == "" {
		return nil
	}
	// Read the anchor first: another process that creates the database now writes the anchor later.
	a, err := PeekAnchor(p.AnchorFile)
	info, e := os.Stat(file)
	if e == nil && info.Size() > 0 || e != nil && !errors.Is(e, os.ErrNotExist) {
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
		p.AnchorFile,
	)
}

// nameMaster adds the path of the master key and advice to ErrWrongMaster.
func (p Place) nameMaster(err error) error {
	if errors.Is(err, ErrWrongMaster) {
		return fmt.Errorf(
			"master key: %s does not belong to this database (%w): name the one that was used before with "+
				"--master-key-file, or add to it, as a line, the new key of a rewrap",
			p.MasterKeyFile,
			err,
		)
	}
	return err
}

// openMaster reads the master key. If create is set, it makes one for a new SQLite database.
func openMaster(p Place, create bool) (*Master, error) {
	path := p.MasterKeyFile
	m, err := ReadMaster(path)
	if !errors.Is(err, os.ErrNotExist) {
		return m, err
	}
	file := p.Database.File()
	if file == "" {
		return nil, fmt.Errorf(
			"master key: %s does not exist: `openssl rand -base64 32 > %s && chmod 600 %s` makes one for a new "+
				"database",
			path,
			path,
			path,
		)
	}
	if info, err := os.Stat(file); err == nil && info.Size() > 0 {
		if m, err := ReadMaster(path); !errors.Is(err, os.ErrNotExist) {
			return m, err // another process has just made the key, and then the database
		}
		return nil, fmt.Errorf(
			"master key: %s does not exist, but %s does, and was sealed under it: bring the key file back, or name "+
				"it with "+
				"--master-key-file",
			path,
			file,
		)
	}
	if !create {
		return nil, fmt.Errorf(
			"%w at %s: `keyturn init`, `keyturn client create` or `keyturn serve` makes one, --database names another",
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

// CheckMasterKey returns what a server would find wrong with the master key file. A file that is missing beside an
// SQLite database that is missing, too, is not wrong: the server makes both.
func (p Place) CheckMasterKey() error {
	_, err := ReadMaster(p.MasterKeyFile)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file := p.Database.File()
	info, e := os.Stat(file)
	if file != "" && (errors.Is(e, os.ErrNotExist) || e == nil && (info.Size() == 0 || info.IsDir())) {
		return nil // a folder is reported as such
	}
	_, err = openMaster(p, false)
	return err
}

// FolderProblems lists what a server would find wrong with the folders of its files, and with the SQLite database.
func (p Place) FolderProblems() (problems []error) {
	add := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	file := p.Database.File()
	if file != "" {
		add(checkWritable("database", file))
		for _, beside := range []string{file + "-wal", file + "-shm"} {
			if _, err := os.Stat(beside); err == nil && len(problems) == 0 {
				add(checkWritable("database", beside))
			}
		}
	}
	if _, err := os.Stat(p.MasterKeyFile); errors.Is(err, os.ErrNotExist) && file != "" {
		if filepath.Dir(file) != filepath.Dir(p.MasterKeyFile) || len(problems) == 0 {
			add(checkWritable("master key", p.MasterKeyFile))
		}
	}
	if _, err := os.Stat(filepath.Dir(p.AnchorFile)); errors.Is(err, os.ErrNotExist) {
		add(fmt.Errorf("anchor_file: the folder of %s does not exist: make it, or name another file", p.AnchorFile))
	}
	return problems
}

// checkWritable returns an error if a file, or a new file in its folder, cannot be written.
func checkWritable(what, file string) error {
	folder := filepath.Dir(file)
	info, err := os.Stat(file)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s %s: it is a folder: name a file", what, file)
	case err == nil:
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("%s: %w: it is read-only for this user, who must be able to write it", what, err)
		}
		f.Close()
	}
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s %s: its folder does not exist: make it first", what, file)
	}
	f, err := os.CreateTemp(folder, ".keyturn-check-*")
	if err != nil {
		return fmt.Errorf("%s %s: the user that runs keyturn must be able to write to its folder: %w", what, file, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// MakeMasterKey makes the file of the master key if it is missing. made reports whether it did.
func (p Place) MakeMasterKey() (made bool, err error) {
	if _, err := os.Lstat(p.MasterKeyFile); !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := checkNotLost(p); err != nil { // a new key would not open the missing database
		return false, err
	}
	return true, CreateMaster(p.MasterKeyFile)
}
