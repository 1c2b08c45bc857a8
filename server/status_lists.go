package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/statuslist"
	"github.com/keyturn/keyturn/storage"
)

// statusLists holds the Token Status Lists in memory. Once a second it asks whether anything has ended, and reads the
// new marks only then.
type statusLists struct {
	*core
	strangers  *rateLimits  // questions about lists that this replica does not know
	complained atomic.Int64 // elapsed time of the last log line about a list that could not be served
	snapshot   atomic.Pointer[statusSnapshot]
	looking    turn         // guards what follows
	news       storage.News // of the last read
	fullAt     time.Time    // when the last read of all marks began
	readAt     time.Time    // when the last read of the marks began
	lateTill   time.Time    // until then, a login may be written that was judged before its end
	// marks has, for each index in each list, when the mark expires.
	marks map[storage.StatusListID]map[int64]storage.Time
}

// statusSnapshot is all lists at one look.
type statusSnapshot struct {
	lists map[storage.StatusListID]*servedList
	at    time.Time // of the last look that found nothing newer: what ended before is in it
}

// servedList is one list. It is immutable, except for its signed form and when it was asked for.
type servedList struct {
	storage.StatusList
	marks   []storage.StatusMark
	asked   *atomic.Int64 // elapsed time of the last request for the list
	signing turn
	signed  atomic.Pointer[signedList] // nil: not signed yet
}

// signedList is the signed form of a list.
type signedList struct {
	kid     string
	slot    int64
	expires time.Time
	plain   statusBody
	gzipped statusBody
}

const (
	// statusSlot is how long the signed form of an unchanged list is used. All replicas sign the same bytes in a slot.
	statusSlot = time.Minute
	// servedAfterEnd is how long the list of a client whose grants have all ended is served.
	servedAfterEnd = time.Hour + time.Minute
	// lateLogins is how long after an ending the marks are read each second: a login that was judged before the ending
	// may be written after it.
	lateLogins = 10 * time.Second
	// marksAgain is how far back each read of marks goes: clocks differ, and a mark is seen when its transaction
	// commits.
	marksAgain = 2 * time.Minute
	// readAllAfter is how long after the last read of all marks the next one comes, with the next change.
	readAllAfter = 10 * time.Minute
	// stillAsked is how long after the last request for a list the loop signs it.
	stillAsked = 2 * time.Minute
	// lookTime bounds one look, which reads all marks when a server starts.
	lookTime = 30 * time.Second
)

func newStatusLists(c *core) *statusLists {
	return &statusLists{
		core:      c,
		strangers: newRateLimits(100, 5*time.Second),
		looking:   newTurn(),
		marks:     map[storage.StatusListID]map[int64]storage.Time{},
	}
}

// keep looks once a second, until the context ends.
func (s *statusLists) keep(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		s.lookAndReport(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookAndReport looks, and logs what readyz does not report.
func (s *statusLists) lookAndReport(ctx context.Context) {
	if err := s.look(ctx, false); err != nil && !errors.Is(err, storage.ErrUnavailable) && ctx.Err() == nil {
		s.log.Error("the status lists could not be read", "error", err.Error())
	}
}

// look asks whether anything has ended, and signs the lists that verifiers ask for. With anew, it reads the lists in
// any case.
func (s *statusLists) look(ctx context.Context, anew bool) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if err := s.looking.take(ctx); err != nil {
		return err
	}
	defer s.looking.pass()
	at := s.now()
	short, done := s.databaseTimeout(ctx)
	news, err := s.db.Replicas().News(short)
	done()
	if err == nil {
		err = s.update(ctx, news, at, anew)
	}
	v := s.snapshot.Load()
	if v == nil {
		return err
	}
	for _, l := range v.lists {
		if asked := l.asked.Load(); asked > 0 && s.elapsed()-time.Duration(asked) < stillAsked {
			if _, signErr := s.sign(ctx, l, v); signErr != nil {
				err = errors.Join(err, signErr)
			}
		}
	}
	return err
}

// update reads what is new since the last read.
func (s *statusLists) update(ctx context.Context, news storage.News, at time.Time, anew bool) error {
	old := s.snapshot.Load()
	lost, err := s.lost(ctx, news)
	if err != nil {
		return err
	}
	changed := anew || lost || old == nil || news.AuditHash != s.news.AuditHash || news.Change != s.news.Change
	if changed {
		s.lateTill = at.Add(lateLogins)
	}
	if !changed && !at.Before(s.lateTill) {
		s.snapshot.Store(&statusSnapshot{old.lists, at})
		return nil
	}
	if _, err := s.db.StatusMarks().AddLate(ctx, at); err != nil {
		return err
	}
	rows, err := s.db.StatusLists().All(ctx)
	if err != nil {
		return err
	}
	all := lost || old == nil || at.Sub(s.fullAt).Abs() > readAllAfter
	touched, err := s.readMarks(ctx, at, all)
	if err != nil {
		return err
	}
	if s.news, s.readAt = news, at; all {
		s.fullAt = at
	}
	s.snapshot.Store(&statusSnapshot{s.build(rows, old, touched, at), at})
	return nil
}

// lost reports whether the database has lost commits, as after a failover: then marks may be gone, too.
func (s *statusLists) lost(ctx context.Context, news storage.News) (bool, error) {
	if s.news.AuditSeq == 0 || news.AuditHash == s.news.AuditHash {
		return false, nil
	}
	hash, err := s.db.Audit().Hash(ctx, s.news.AuditSeq)
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	return hash != s.news.AuditHash, err
}

// readMarks reads the marks since the last read, or all. It returns the lists that have new ones.
func (s *statusLists) readMarks(
	ctx context.Context, at time.Time, all bool,
) (touched map[storage.StatusListID]bool, err error) {
	since, read := s.readAt.Add(-marksAgain), []storage.StatusMark(nil)
	if all {
		since = at.Add(-servedAfterEnd)
	}
	// Marks count from when all are read: of a read that fails halfway, none would be new to the next.
	err = s.db.StatusMarks().Pages(ctx, since, func(page []storage.StatusMark) { read = append(read, page...) })
	if err != nil {
		return nil, err
	}
	touched = map[storage.StatusListID]bool{}
	if all { // marks may be gone
		for id := range s.marks {
			touched[id] = true
		}
		s.marks = map[storage.StatusListID]map[int64]storage.Time{}
	}
	for _, m := range read {
		if s.marks[m.List] == nil {
			s.marks[m.List] = map[int64]storage.Time{}
		}
		if _, known := s.marks[m.List][m.Index]; !known {
			touched[m.List] = true
		}
		s.marks[m.List][m.Index] = m.ExpiresAt
	}
	return touched, nil
}

// build returns the lists of the rows. One that has not changed keeps its signed form.
func (s *statusLists) build(
	rows []storage.StatusList, old *statusSnapshot, touched map[storage.StatusListID]bool, at time.Time,
) map[storage.StatusListID]*servedList {
	lists := make(map[storage.StatusListID]*servedList, len(rows))
	for _, row := range rows {
		var before *servedList
		if old != nil {
			before = old.lists[row.ID]
		}
		list := &servedList{StatusList: row, asked: new(atomic.Int64), signing: newTurn()}
		if before != nil {
			list.asked = before.asked
		}
		if before != nil && !touched[row.ID] && before.same(list) {
			lists[row.ID] = before
			continue
		}
		for index, expires := range s.marks[row.ID] {
			if at.Before(expires.Time) {
				list.marks = append(list.marks, storage.StatusMark{List: row.ID, Index: index, ExpiresAt: expires})
			} else {
				delete(s.marks[row.ID], index)
			}
		}
		lists[row.ID] = list
	}
	return lists
}

// same reports whether two reads of a list are equal, apart from its marks.
func (l *servedList) same(other *servedList) bool {
	ended := func(l *servedList) int64 {
		if l.EndedAt == nil {
			return 0
		}
		return l.EndedAt.UnixMilli()
	}
	return l.Over == other.Over && ended(l) == ended(other)
}

// find returns the list with an id; nil if there is none. A list that this replica does not know is looked up: another
// replica may have begun it just now. Strangers can ask for whatever they like, so that costs little, and is limited.
func (s *statusLists) find(ctx context.Context, id storage.StatusListID) (*servedList, *statusSnapshot, error) {
	if v := s.snapshot.Load(); v != nil && v.lists[id] != nil {
		return v.lists[id], v, nil
	}
	if s.strangers.wait("", s.now()) > 0 {
		return nil, nil, fmt.Errorf("%w: too many unknown lists are asked for", storage.ErrBusy)
	}
	s.strangers.spend("", s.now())
	short, done := s.databaseTimeout(ctx)
	defer done()
	if exists, err := s.db.StatusLists().Exists(short, id); err != nil || !exists {
		return nil, nil, err
	}
	if err := s.look(short, true); err != nil {
		return nil, nil, err
	}
	v := s.snapshot.Load()
	return v.lists[id], v, nil
}

// gone reports whether the last access token of a list has expired.
func (l *servedList) gone(now time.Time) bool {
	return l.Over && l.EndedAt != nil && now.Sub(l.EndedAt.Time) > servedAfterEnd
}

// errNoList means that the signed form of a list has expired, and no new one can be made now.
var errNoList = errors.New("the status list cannot be signed now")

// usable reports whether a signed form may be served.
func (s *statusLists) usable(l *signedList) bool {
	return l != nil && s.now().Before(l.expires) && !errors.Is(s.ring.Trusts(l.kid), keys.ErrRevoked)
}

// sign returns the signed form of a list as of a look: the last one, or a new one if that is from an earlier slot. It
// is valid for five minutes from the look, since what has ended after it is not in it.
func (s *statusLists) sign(ctx context.Context, l *servedList, v *statusSnapshot) (*signedList, error) {
	slot := v.at.Truncate(statusSlot)
	current := func() *signedList {
		if have := l.signed.Load(); s.usable(have) && have.slot == slot.Unix() {
			return have
		}
		return nil
	}
	if have := current(); have != nil {
		return have, nil
	}
	ctx, done := s.databaseTimeout(ctx)
	defer done()
	err := l.signing.take(ctx)
	if err == nil {
		defer l.signing.pass()
		if have := current(); have != nil { // somebody else has just signed it
			return have, nil
		}
		var signed *signedList
		if signed, err = s.signFor(ctx, l, slot); err == nil {
			l.signed.Store(signed)
			return signed, nil
		}
	}
	if have := l.signed.Load(); s.usable(have) {
		return have, nil
	}
	return nil, errors.Join(errNoList, err)
}

// serve returns the signed form of a list for a request. It waits for nothing if there is one, which the loop renews.
func (s *statusLists) serve(ctx context.Context, l *servedList, v *statusSnapshot) (*signedList, error) {
	l.asked.Store(max(int64(s.elapsed()), 1))
	const left = 2 * time.Minute // of its life: if less is left, the loop does not know that somebody asks for it
	if have := l.signed.Load(); s.usable(have) && have.expires.Sub(v.at) >= left {
		return have, nil
	}
	return s.sign(ctx, l, v)
}

// signFor makes the signed form of a list for one slot.
func (s *statusLists) signFor(ctx context.Context, l *servedList, slot time.Time) (*signedList, error) {
	expires := slot.Add(statuslist.Lifetime)
	if !s.now().Before(expires) {
		return nil, fmt.Errorf("what has ended since %v is not known", slot)
	}
	signer, err := s.ring.Signer(ctx, expires)
	if err != nil {
		return nil, err
	}
	list, err := l.encode(slot)
	if err != nil {
		return nil, err
	}
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
