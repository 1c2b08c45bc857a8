package storagetest

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
)

// Fault is in the error text of a write that was made to fail.
const Fault = "fault injected by a test"

// Faults makes the database itself refuse a write, by triggers: the transaction is rolled back as after a crash.
type Faults struct {
	t   testing.TB
	raw *sql.DB
}

// NewFaults adds a trigger before every insert, update and delete on the tables, which must exist.
func NewFaults(t testing.TB, databaseURL string, tables ...string) Faults {
	t.Helper()
	f := Faults{t, Raw(t, databaseURL)}
	MustExec(t, f.raw, `CREATE TABLE faults (n BIGINT NOT NULL)`, `INSERT INTO faults (n) VALUES (0)`)
	trigger := `CREATE TRIGGER fault_%[1]s_%[2]s BEFORE %[2]s ON %[1]s FOR EACH ROW EXECUTE FUNCTION fault() -- %[3]s`
	if SQLiteFile(databaseURL) != "" {
		trigger = `CREATE TRIGGER fault_%[1]s_%[2]s BEFORE %[2]s ON %[1]s BEGIN UPDATE faults SET n = n - 1; SELECT
			RAISE(ABORT, '%[3]s') FROM faults WHERE n = 0; END`
	} else {
		MustExec(t, f.raw, `CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			UPDATE faults SET n = n - 1;
			IF (SELECT n FROM faults) = 0 THEN RAISE EXCEPTION '`+Fault+`'; END IF;
			IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
			RETURN NEW;
		END $$`)
	}
	for _, table := range tables {
		for _, op := range strings.Fields("INSERT UPDATE DELETE") {
			MustExec(t, f.raw, fmt.Sprintf(trigger, table, op, Fault))
		}
	}
	return f
}

// Arm makes the n-th write from now on fail, and every attempt to repeat it. Writes before it that are committed count.
func (f Faults) Arm(n int) {
	f.t.Helper()
	MustExec(f.t, f.raw, fmt.Sprintf(`UPDATE faults SET n = %d`, n))
}

// Disarm lets every write through.
func (f Faults) Disarm() {
	f.t.Helper()
	f.Arm(0)
}
