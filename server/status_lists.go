package server

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/statuslist"
	"github.com/keyturn/keyturn/storage"
)

const (
	// statusFresh is the age of a look at the database up to which a list may be signed. An older look may miss marks.
	statusFresh = 3 * time.Second
	// statusSlot is how long the signed form of an unchanged list is used. All replicas sign the same bytes in a slot.
	statusSlot = time.Minute
	// servedAfterEnd is how long the list of a client whose grants have all ended is served.
	servedAfterEnd = time.Hour + time.Minute
)

// statusLists holds the Token Status Lists in memory. Once a second it asks whether anything has ended, and reads the
// marks only then.
type statusLists struct {
	*core
	looking  sync.Mutex
	head     string    // the hash of the newest audit record at the last read; looking guards it
	failed   time.Time // of the last look that failed; looking guards it
	lateTill time.Time // until then, a login may still be written that was judged before its end; looking guards it
	snapshot atomic.Pointer[statusSnapshot]
}

// statusSnapshot is all lists at one read.
type statusSnapshot struct {
	lists     map[storage.StatusListID]*servedList
	confirmed time.Duration // elapsed time at the begin of the last look that found nothing newer
}

// servedList is one list. It is immutable, except for its signed form.
type servedList struct {
	storage.StatusList
	marks  []storage.StatusMark
	mu     sync.Mutex
	signed *signedList // mu guards it; nil: not signed yet
}

// signedList is the signed form of a list.
type signedList struct {
	kid     string
	slot    int64
	expires time.Time
	plain   statusBody
	gzipped statusBody
}

func newStatusLists(c *core) *statusLists { return &statusLists{core: c} }

// heed takes the hash of the newest audit record, which every ending writes. It reads the lists if it is another one: a
// number could be the same after a failover that lost records.
func (s *statusLists) heed(ctx context.Context, head string, begun time.Duration) error {
	s.looking.Lock()
	defer s.looking.Unlock()
	return s.update(ctx, head, begun)
}

// update is heed; looking is locked. begun is the elapsed time before the hash was read.
func (s *statusLists) update(ctx context.Context, head string, begun time.Duration) error {
	old, now := s.snapshot.Load(), s.now()
	if old == nil || head != s.head {
		s.lateTill = now.Add(lateLogins)
	}
	if old != nil && head == s.head && !now.Before(s.lateTill) {
		s.snapshot.Store(&statusSnapshot{old.lists, begun})
		return nil
	}
	if _, err := s.db.StatusMarks().AddLate(ctx, now); err != nil {
		return err
	}
	lists, err := s.read(ctx, old, now)
	if err != nil {
		return err
	}
	s.head = head
	s.snapshot.Store(&statusSnapshot{lists, begun})
	return nil
}

// lateLogins is how long after an ending the lists are read each second: a login that was judged before the ending may
// be written after it.
const lateLogins = 10 * time.Second

// noHead is no hash: the lists are read, whatever the audit trail says.
const noHead = "none"

// read reads all lists. A list that has not changed keeps its signed form.
func (s *statusLists) read(
	ctx context.Context, old *statusSnapshot, now time.Time,
) (map[storage.StatusListID]*servedList, error) {
	rows, err := s.db.StatusLists().All(ctx)
	if err != nil {
		return nil, err
	}
	marks, err := s.db.StatusMarks().All(ctx, now)
	if err != nil {
		return nil, err
	}
	byList := map[storage.StatusListID][]storage.StatusMark{}
	for _, m := range marks {
		byList[m.List] = append(byList[m.List], m)
	}
	lists := make(map[storage.StatusListID]*servedList, len(rows))
	for _, row := range rows {
		list := &servedList{StatusList: row, marks: byList[row.ID]}
		if old != nil {
			if before := old.lists[row.ID]; before != nil && before.same(list) {
				list = before
			}
		}
		lists[row.ID] = list
	}
	return lists, nil
}

// same reports whether two reads of a list are equal.
func (l *servedList) same(other *servedList) bool {
	ended := func(l *servedList) int64 {
		if l.EndedAt == nil {
			return 0
		}
		return l.EndedAt.UnixMilli()
	}
	return l.Over == other.Over && ended(l) == ended(other) &&
		slices.EqualFunc(l.marks, other.marks, func(a, b storage.StatusMark) bool { return a.Index == b.Index })
}

// current returns the lists. It looks at the database itself if the loop has not done so in the last second, and nobody
// else is looking. since is the elapsed time from which on the lists must be read; zero: any time.
func (s *statusLists) current(ctx context.Context, since time.Duration) (*statusSnapshot, error) {
	enough := func(v *statusSnapshot) bool {
		return v != nil && v.confirmed >= since && s.elapsed()-v.confirmed <= watchInterval
	}
	if v := s.snapshot.Load(); enough(v) {
		return v, nil
	}
	if v := s.snapshot.Load(); v != nil && since == 0 {
		if !s.looking.TryLock() {
			return v, nil
		}
	} else {
		s.looking.Lock()
	}
	defer s.looking.Unlock()
	v, now := s.snapshot.Load(), s.now()
	if enough(v) {
		return v, nil
	}
	if now.Sub(s.failed).Abs() < watchInterval {
		return v, storage.ErrUnavailable
	}
	begun := s.elapsed()
	ctx, cancel := s.databaseTimeout(ctx)
	defer cancel()
	news, err := s.db.Replicas().News(ctx)
	if err == nil && since > 0 {
		s.head = noHead
	}
	if err == nil {
		err = s.update(ctx, news.AuditHash, begun)
	}
	if err != nil {
		s.failed = now
		return v, err
	}
	return s.snapshot.Load(), nil
}

// find returns the list with an id. A list that is not known yet is read: another replica may have begun it just now.
func (s *statusLists) find(ctx context.Context, id storage.StatusListID) (*servedList, *statusSnapshot, error) {
	arrived := s.elapsed()
	v, err := s.current(ctx, 0)
	if v != nil && v.lists[id] != nil {
		return v.lists[id], v, nil // without the database, the last signed form is served
	}
	if err != nil {
		return nil, v, err
	}
	v, err = s.current(ctx, max(arrived, 1))
	if err != nil {
		return nil, v, err
	}
	return v.lists[id], v, nil
}

// gone reports whether the last access token of a list has expired.
func (l *servedList) gone(now time.Time) bool {
	return l.Over && l.EndedAt != nil && now.Sub(l.EndedAt.Time) > servedAfterEnd
}

// errNoList means that the signed form of a list has expired, and no new one can be made now.
var errNoList = errors.New("the status list cannot be signed now")

// sign returns the signed form of a list: the last one, or a new one if it is too old and the snapshot is fresh.
func (s *statusLists) sign(ctx context.Context, l *servedList, v *statusSnapshot) (*signedList, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := s.now()
	slot := now.Truncate(statusSlot)
	fresh := s.elapsed()-v.confirmed <= statusFresh
	var failed error
	if fresh && (l.signed == nil || l.signed.slot != slot.Unix() || s.ring.Trusts(l.signed.kid) != nil) {
		signer, err := s.ring.Signer(ctx, slot.Add(statuslist.Lifetime))
		if err == nil {
			var signed *signedList
			if signed, err = s.signWith(signer, l, slot); err == nil {
				l.signed = signed
			}
		}
		failed = err
	}
	if l.signed == nil || !now.Before(l.signed.expires) || errors.Is(s.ring.Trusts(l.signed.kid), keys.ErrRevoked) {
		return nil, errors.Join(errNoList, failed)
	}
	return l.signed, nil
}

// signWith makes the signed form of a list for one slot.
func (s *statusLists) signWith(signer keys.Signer, l *servedList, slot time.Time) (*signedList, error) {
	list, err := l.encode(slot)
	if err != nil {
		return nil, err
	}
	expires := slot.Add(statuslist.Lifetime)
	payload, err := json.Marshal(statuslist.Claims{
		Subject:  api.StatusURI(s.config().Issuer, l.ID.String()),
		IssuedAt: slot.Unix(),
		Expires:  expires.Unix(),
		TTL:      int64(statuslist.TTL / time.Second),
		List:     list,
	})
	if err != nil {
		return nil, err
	}
	token, err := signer.SignStatusList(payload)
	if err != nil {
		return nil, err
	}
	signed := &signedList{kid: signer.KID, slot: slot.Unix(), expires: expires, plain: newStatusBody([]byte(token), "")}
	signed.gzipped, err = gzipped(signed.plain)
	return signed, err
}

// encode compresses the marks that have not expired.
func (l *servedList) encode(now time.Time) (statuslist.List, error) {
	if l.Over {
		return statuslist.AllMarked()
	}
	var indexes []int64
	for _, m := range l.marks {
		if now.Before(m.ExpiresAt.Time) {
			indexes = append(indexes, m.Index)
		}
	}
	return statuslist.Marked(indexes)
}

// uris returns the URIs of all lists that are served.
func (v *statusSnapshot) uris(issuer string, now time.Time) []string {
	uris := []string{}
	for id, l := range v.lists {
		if !l.gone(now) {
			uris = append(uris, api.StatusURI(issuer, id.String()))
		}
	}
	slices.Sort(uris)
	return uris
}
