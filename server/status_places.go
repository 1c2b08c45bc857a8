package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/statuslist"
	"github.com/keyturn/keyturn/storage"
)

// statusPlaces gives each grant a place in a Token Status List. It takes the places from the database in ranges.
type statusPlaces struct {
	*core
	mu     sync.Mutex
	ranges map[statusOwner]*statusRange // mu guards it
}

// statusOwner is an epoch of a client. All its grants end together, so they share lists.
type statusOwner struct {
	clientID string
	epoch    int64
}

// statusRange is a range of places of which some are given away.
type statusRange struct {
	turn    turn // of one caller at a time: whoever takes a range waits for the database
	places  storage.StatusRange
	scatter statuslist.Scatter
	given   int64     // number of places given away
	expires time.Time // of the latest grant that may have a place of it
	ends    time.Time // no place is given away from then on; zero: there are no places
}

// The indexes of a list are those of its places in the database.
var _ [statuslist.Size]struct{} = [storage.StatusListSize]struct{}{}

// maxRanges bounds the ranges in memory. A server with more clients than that takes ranges more often.
const maxRanges = 10_000

func newStatusPlaces(c *core) *statusPlaces {
	return &statusPlaces{core: c, ranges: map[statusOwner]*statusRange{}}
}

// statusPlace is a place that was given to a grant.
type statusPlace struct {
	storage.StatusPlace
	owner statusOwner
	from  *statusRange
}

// stored returns the place as storage takes it.
func (p *statusPlace) stored() *storage.StatusPlace {
	if p == nil {
		return nil
	}
	return &p.StatusPlace
}

// next returns the place for a grant that expires at the given time; nil if tokens have no status.
func (s *statusPlaces) next(ctx context.Context, c storage.Client, expires time.Time) (*statusPlace, error) {
	if s.config().StatusList != config.StatusListOn {
		return nil, nil
	}
	owner := statusOwner{c.ID, c.Epoch}
	r := s.rangeOf(owner)
	if err := r.turn.take(ctx); err != nil {
		return nil, fmt.Errorf("place in a status list: %w", err)
	}
	defer r.turn.pass()
	now := s.now()
	if r.given >= storage.StatusRangeSize || !now.Before(r.ends) || expires.After(r.expires) {
		if err := s.take(ctx, owner, r, now, expires); err != nil {
			return nil, err
		}
	}
	place := storage.StatusPlace{
		List:  r.places.List,
		Index: r.scatter.Index(r.places.First + r.given),
		Range: r.places,
	}
	r.given++
	return &statusPlace{place, owner, r}, nil
}

func (s *statusPlaces) rangeOf(owner statusOwner) *statusRange {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.ranges[owner]
	if r == nil {
		if len(s.ranges) >= maxRanges {
			clear(s.ranges)
		}
		r = &statusRange{turn: newTurn()}
		s.ranges[owner] = r
	}
	return r
}

// take replaces a range by a new one, also for grants of the next hour.
func (s *statusPlaces) take(
	ctx context.Context, owner statusOwner, r *statusRange, now, expires time.Time,
) error {
	expires = expires.Add(storage.MaxRangeAge)
	places, err := s.db.StatusLists().Take(ctx, owner.clientID, owner.epoch, expires, now)
	if err != nil {
		return err
	}
	scatter, err := statuslist.NewScatter(places.Seed)
	if err != nil {
		return err
	}
	r.places, r.scatter, r.given = places, scatter, 0
	r.expires, r.ends = expires, now.Add(storage.MaxRangeAge)
	return nil
}

// drop forgets the range of a place that the database does not confirm.
func (s *statusPlaces) drop(p *statusPlace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ranges[p.owner] == p.from {
		delete(s.ranges, p.owner)
	}
}

// statusAt returns the claim of a token for a place; nil without one.
func (s *core) statusAt(p *statusPlace) *api.Status {
	if p == nil {
		return nil
	}
	return s.statusClaim(p.List, p.Index)
}

func (s *core) statusClaim(list storage.StatusListID, index int64) *api.Status {
	uri := api.StatusURI(s.config().Issuer, list.String())
	return &api.Status{List: api.StatusReference{Index: index, URI: uri}}
}

// statusClaimOf returns the claim of a token of a grant; nil if tokens have no status, or the grant has no place.
func (s *core) statusClaimOf(g storage.GrantState) *api.Status {
	if s.config().StatusList != config.StatusListOn || g.StatusList == nil || g.StatusIndex == nil {
		return nil
	}
	return s.statusClaim(*g.StatusList, *g.StatusIndex)
}

// assignTime bounds assign, which comes after the rotation of a refresh token: the client must get its answer.
const assignTime = 500 * time.Millisecond

// assign gives a place to a grant from before status_list was turned on, at its first refresh. If that fails, the
// tokens of the grant have no status for now.
func (s *statusPlaces) assign(ctx context.Context, c storage.Client, g *storage.GrantState) {
	if s.config().StatusList != config.StatusListOn || g.StatusList != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, assignTime)
	defer cancel()
	place, err := s.next(ctx, c, g.ExpiresAt.Time)
	if err == nil {
		var list storage.StatusListID
		var index int64
		if list, index, err = s.db.StatusLists().Assign(ctx, g.ID, place.StatusPlace); err == nil {
			g.StatusList, g.StatusIndex = &list, &index
			return
		}
		if errors.Is(err, storage.ErrNotFound) { // perhaps this replica has lost the range
			s.drop(place)
		}
	}
	if !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrUnavailable) {
		s.log.Error("a login got no place in a status list", "sid", g.ID.String(), "error", err.Error())
	}
}
