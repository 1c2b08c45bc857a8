package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Values of RevocationOrder.EndGrants.
const (
	EndNone  = ""
	EndSince = "since" // logins used since the leak
	EndAll   = "all"   // every login that had a token of the key
)

// RevocationOrder says what has leaked, and which logins end.
type RevocationOrder struct {
	KID         string // "": all keys, if StoreLeaked
	StoreLeaked bool   // database and master key have leaked
	NewMaster   string // file with a new master key
	Since       time.Time
	EndGrants   string
}

// RevocationReport is what a revocation did.
type RevocationReport struct {
	Revocation
	Use        []KeyUse `json:"use"` // null: unknown
	Uncounted  bool     `json:"use_uncounted"`
	EndedCount int64    `json:"ended_grants"`
	// registered verifiers that need somebody to act; null: unknown
	Verifiers []Aftermath `json:"verifiers"`
}

// Execute revokes a leaked key at once, and reports what that means. It counts nothing before the revocation. told gets
// the revocation as soon as it is made; it may be nil. An error with a RevokedAt in the report came after the
// revocation. It may return ErrNotFound or ErrChanged.
func (a Keys) Execute(
	ctx context.Context, o RevocationOrder, told func(Revocation),
) (report RevocationReport, undone error) {
	began := a.now()
	report.Revocation, undone = a.Revoke(ctx, o.KID, o.StoreLeaked, o.NewMaster)
	if undone != nil && report.RevokedAt.IsZero() {
		return report, undone
	}
	if told != nil {
		told(report.Revocation)
	}
	var unread error
	if report.Verifiers, unread = a.Aftermaths(ctx, report.Revocation); unread != nil {
		a.tell("keyturn: the key is revoked, but who has fetched it could not be read: %v", unread)
	}
	if o.EndGrants != EndNone {
		kids := report.Revoked
		if o.StoreLeaked {
			kids = a.In(storage.KeyRevoked) // also those of an earlier run
		}
		var err error
		report.EndedCount, err = a.endGrantsOf(ctx, o, kids)
		undone = errors.Join(undone, err)
	}
	a.countUse(ctx, o, began, &report)
	return report, undone
}

// tell prints a message for a person.
func (a *core) tell(format string, args ...any) {
	if a.say != nil {
		a.say(format, args...)
	}
}

// countUse counts the use of the revoked keys, including the grants that the order has ended.
func (a Keys) countUse(ctx context.Context, o RevocationOrder, began time.Time, report *RevocationReport) {
	kids := []string{o.KID}
	if o.KID == "" {
		kids = report.Revoked
	}
	var err error
	if report.Use, err = a.Use(ctx, kids, o.Since, &began); err != nil {
		report.Use, report.Uncounted = nil, true
		why := "could not be counted"
		if errors.Is(err, ErrTooSlow) {
			why += " in time"
		}
		a.tell("keyturn: the key is revoked, but its use %s: %v", why, err)
	}
}

// endGrantsOf ends the grants of all keys that were revoked together.
func (a Keys) endGrantsOf(ctx context.Context, o RevocationOrder, kids []string) (ended int64, err error) {
	since := o.Since
	if o.EndGrants == EndAll {
		since = time.Time{}
	}
	for _, kid := range kids {
		n, err := a.EndGrants(ctx, kid, since)
		ended += n
		if err != nil {
			return ended, fmt.Errorf(
				"the key is revoked, but only %d of its grants were ended: `keyturn grant revoke --all` ends all "+
					"grants: %w",
				ended,
				err,
			)
		}
	}
	return ended, nil
}
