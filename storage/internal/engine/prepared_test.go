package engine

import (
	"testing"

	"github.com/lib/pq"
)

// A transaction that begins on a server which has become a standby is repeated on another connection, and is no
// internal error.
func TestBeginOnAStandby(t *testing.T) {
	refused := &pq.Error{Code: "0A000", Message: "cannot set transaction read-write mode during recovery"}
	if err := beginFault(refused); !isReadOnly(err) || !isUnavailable(err) {
		t.Error(err)
	}
	if err := beginFault(&pq.Error{Code: "42601"}); isReadOnly(err) || isUnavailable(err) {
		t.Error(err)
	}
	if err := beginFault(nil); err != nil {
		t.Error(err)
	}
}
