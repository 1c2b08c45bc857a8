package verify

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4/json"
)

// statusLists polls the Token Status Lists (draft-ietf-oauth-status-list-20) that tokens have named lately.
type statusLists struct {
	*keyRing
	mu    sync.Mutex
	lists map[string]*statusList // by URI; mu guards it
}

// statusList is one list.
type statusList struct {
	uri      string
	state    atomic.Pointer[listState] // nil: not fetched yet
	asked    atomic.Int64              // time of the last fetch
	used     atomic.Int64              // time of the last token that named it
	failed   atomic.Int64              // fetches that have failed in a row
	fetching flight
	failure  atomic.Pointer[failure]
}

// listState is a list at one fetch. It is immutable.
type listState struct {
	places    []byte
	bits      int       // for each place
	issued    time.Time // iat
	expires   time.Time // exp
	etag      string
	confirmed time.Time
	keep      time.Duration // ttl
	gone      bool          // the last token of the list has expired
}

// check refuses a token whose place is marked.
func (s *statusLists) check(ctx context.Context, uri string, index int64) error {
	l, err := s.list(uri)
	if err != nil {
		return err
	}
	state := l.state.Load()
	if state == nil {
		if err := s.first(ctx, l); err != nil {
			// While the server has been away for long, Allow goes on without the lists that were never seen.
			if set := s.set.Load(); s.Stale == Allow && ctx.Err() == nil && set != nil && s.stale(set.confirmed) {
				return nil
			}
			return err
		}
		state = l.state.Load()
	}
	if s.Stale == Refuse && s.stale(state.confirmed) {
		return fmt.Errorf("%w: the status list is older than %v", ErrUnavailable, staleAfter)
	}
	switch value, ok := state.at(index); {
	case state.gone:
		return invalid(Ended)
	case !ok:
		return invalid(Status)
	case value != 0:
		return invalid(Ended)
	}
	return nil
}

// at returns the value of a place (§4.1).
func (s *listState) at(index int64) (value byte, ok bool) {
	perByte := int64(8 / max(s.bits, 1))
	if index < 0 || index/perByte >= int64(len(s.places)) {
		return 0, false
	}
	shift := index % perByte * int64(s.bits)
	return s.places[index/perByte] >> shift & (1<<s.bits - 1), true
}

// list returns the list at a URI of the issuer.
func (s *statusLists) list(uri string) (*statusList, error) {
	id, ok := strings.CutPrefix(uri, s.Issuer+"/status/")
	if !ok || !isID(id) {
		return nil, invalid(Status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lists[uri]
	if l == nil {
		if len(s.lists) >= maxLists {
			s.forgetOldest()
		}
		l = &statusList{uri: uri}
		s.lists[uri] = l
	}
	l.used.Store(s.Now().UnixNano())
	return l, nil
}

// isID reports whether a text can be the id of a list: it must not lead to another path.
func isID(text string) bool {
	return text != "" && len(text) <= 64 && strings.Trim(text,
		"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}

// forgetOldest removes the list that was not used for the longest time; mu is locked.
func (s *statusLists) forgetOldest() {
	var oldest *statusList
	for _, l := range s.lists {
		if oldest == nil || l.used.Load() < oldest.used.Load() {
			oldest = l
		}
	}
	delete(s.lists, oldest.uri)
}

// due returns the lists to poll now, those that fail last, and forgets those that no token has named for a while.
func (s *statusLists) due(now time.Time) (due []*statusList) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uri, l := range s.lists {
		wait := pollInterval
		if state := l.state.Load(); state != nil {
			wait = interval(state.keep)
		}
		switch {
		case now.Sub(time.Unix(0, l.used.Load())) > idleList:
			delete(s.lists, uri)
		case now.Sub(time.Unix(0, l.asked.Load())).Abs() >= wait:
			due = append(due, l)
		}
	}
	slices.SortFunc(due, func(a, b *statusList) int { return cmp.Compare(a.failed.Load(), b.failed.Load()) })
	return due
}

// first fetches a list if nobody has, and if that has not just failed.
func (s *statusLists) first(ctx context.Context, l *statusList) error {
	if f := l.failure.Load(); f != nil {
		if err := f.recent(s.Now()); err != nil {
			return err
		}
	}
	return l.fetching.do(ctx, s.life, func(life context.Context) error {
		if l.state.Load() != nil {
			return nil // a fetch has ended since the caller looked
		}
		return s.renew(life, l)
	})
}

// poll fetches a list.
func (s *statusLists) poll(ctx context.Context, l *statusList) error {
	return l.fetching.do(ctx, s.life, func(life context.Context) error { return s.renew(life, l) })
}

// renew fetches a list. Only l.fetching calls it.
func (s *statusLists) renew(ctx context.Context, l *statusList) error {
	l.asked.Store(s.Now().UnixNano())
	next, outcome, err := s.read(ctx, l)
	if err != nil {
		s.Counters.Fetched(StatusList, Failed)
		l.failed.Add(1)
		f := &failure{fmt.Errorf("%w: the status list %s: %v", ErrUnavailable, l.uri, err), s.Now()}
		l.failure.Store(f)
		return f.err
	}
	l.failed.Store(0)
	l.state.Store(next)
	s.Counters.Fetched(StatusList, outcome)
	return nil
}

// read fetches a list and returns its next state.
func (s *statusLists) read(ctx context.Context, l *statusList) (next *listState, outcome Outcome, err error) {
	old, asked, etag := l.state.Load(), s.Now(), ""
	if old == nil {
		old = &listState{}
	}
	if asked.Before(old.expires) { // the list itself must be fetched again once it has expired
		etag = old.etag
	}
	d, err := s.fetch(ctx, l.uri, mediaStatusList, etag)
	if err != nil {
		return nil, Failed, err
	}
	outcome = Changed
	switch {
	case d.gone:
		gone := *old // a list that comes back must not be older
		gone.gone, next = true, &gone
	case d.body == nil:
		same := *old
		next, outcome = &same, Unchanged
	case d.mediaType != mediaStatusList:
		return nil, Failed, fmt.Errorf("its media type is %q", d.mediaType)
	default:
		if next, err = s.open(ctx, l.uri, string(d.body)); err != nil {
			return nil, Failed, err
		}
		next.etag = d.etag
		if err := next.follow(old); err != nil {
			return nil, Failed, err
		}
	}
	next.confirmed = asked
	return next, outcome, nil
}

// mediaStatusList is the media type of a Status List Token (§8.1).
const mediaStatusList = "application/statuslist+jwt"

// follow keeps the marks of the list before. A replica that lags behind must not revive a token: an older list is
// refused, and one of the same second only adds marks.
func (s *listState) follow(old *listState) error {
	switch {
	case s.issued.After(old.issued):
		return nil
	case s.issued.Before(old.issued):
		return errors.New("it is older than the one before")
	case s.bits != old.bits || len(s.places) != len(old.places):
		return errors.New("it has another form than the one before, of the same second")
	}
	for i, b := range old.places {
		s.places[i] |= b
	}
	return nil
}

// statusClaims are the claims of a Status List Token (§5.1).
type statusClaims struct {
	Subject string   `json:"sub"`
	Issued  *seconds `json:"iat"`
	Expires *seconds `json:"exp"`
	TTL     *seconds `json:"ttl"`
	List    struct {
		Bits int    `json:"bits"`
		List string `json:"lst"`
	} `json:"status_list"`
}

// open verifies a Status List Token and returns its list.
func (s *statusLists) open(ctx context.Context, uri, token string) (*listState, error) {
	payload, _, err := s.verify(ctx, token, "statuslist+jwt")
	if err != nil {
		return nil, err
	}
	var c statusClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, fmt.Errorf("its claims: %w", err)
	}
	now := s.Now()
	switch {
	case c.Subject != uri:
		return nil, errors.New("it is for another URI")
	case c.Issued == nil, *c.Issued <= 0, c.Issued.time().After(now.Add(clockSkew)):
		return nil, errors.New("it was issued in the future, or at no time")
	case c.Expires == nil, !now.Before(c.Expires.time()):
		return nil, errors.New("it has expired")
	}
	next := &listState{bits: c.List.Bits, issued: c.Issued.time(), expires: c.Expires.time()}
	if c.TTL != nil {
		next.keep = time.Duration(min(*c.TTL, seconds(pollInterval/time.Second))) * time.Second
	}
	next.places, err = inflate(c.List.Bits, c.List.List)
	return next, err
}

// inflate returns the places of a compressed list (§4.2).
func inflate(bits int, text string) ([]byte, error) {
	if bits != 1 && bits != 2 && bits != 4 && bits != 8 {
		return nil, fmt.Errorf("%d bits for each place", bits)
	}
	b, err := strictBase64.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("its list: %w", err)
	}
	r, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("its list: %w", err)
	}
	places, err := readUpTo(r, maxPlaces*bits/8) // its end has the checksum
	if err != nil {
		return nil, fmt.Errorf("its list: %w", err)
	}
	return places, nil
}
