package server

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// One replica at a time cleans up, in batches of limited size.
const (
	cleanUpInterval = time.Minute
	cleanUpBatch    = 1000
	cleanUpBatches  = 200                 // of each kind in one round
	keepEnded       = 24 * time.Hour      // ended and expired grants stay in lists for this time
	keepFailures    = 24 * time.Hour      // counters of few failures
	keepStale       = 90 * 24 * time.Hour // counters of many failures, and familiar addresses
)

// cleaner deletes old rows. Only one goroutine uses it.
type cleaner struct {
	*health
	holder    string          // name of this process in leases
	cleanedTo storage.GrantID // position among the grants
	restedTo  storage.Time    // position among the failed logins, by time
}

// cleanUp runs a round about once a minute until the context ends.
func (s *cleaner) cleanUp(ctx context.Context) {
	for {
		pause := cleanUpInterval/2 + rand.N(cleanUpInterval)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if err := s.cleanUpOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("clean-up failed", "error", err.Error())
		}
	}
}

// cleanUpOnce runs one round if this replica is sure of the time and holds the lease. Two replicas may run the same
// batch without harm.
func (s *cleaner) cleanUpOnce(ctx context.Context) error {
	if err := s.observeClock(ctx); err != nil {
		return err
	}
	now := s.now()
	if s.clock.Rested() != nil { // observeClock has logged it
		s.metrics.cleanedAt.Set(float64(now.Unix()))
		return nil
	}
	mine, err := s.db.Leases().Take(ctx, "clean-up", s.holder, 2*cleanUpInterval, now)
	if err != nil || !mine {
		return err
	}
	for range cleanUpBatches {
		n, err := s.db.Grants().CleanExpired(ctx, cleanUpBatch, now.Add(-keepEnded))
		if err != nil {
			return err
		}
		if s.cleaned(cleanedExpired, n); n < cleanUpBatch {
			break
		}
	}
	if err := s.cleanEnded(ctx, now); err != nil {
		return err
	}
	if err := s.cleanFailures(ctx, now); err != nil {
		return err
	}
	if err := s.concludeForgeries(ctx, now); err != nil {
		return err
	}
	for range cleanUpBatches {
		more, err := s.db.StatusLists().Clean(ctx, now, cleanUpBatch)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if err := s.cleanObservations(ctx, now); err != nil {
		return err
	}
	if _, err := s.db.Endings().Clean(ctx, now.Add(-s.config().RefreshMaxTTL-keepEnded), cleanUpBatch); err != nil {
		return err
	}
	s.metrics.cleanedAt.Set(float64(now.Unix()))
	return nil
}

// cleanObservations deletes what was observed too long ago, or is too much, and what killed probes have left.
func (s *cleaner) cleanObservations(ctx context.Context, now time.Time) error {
	for range cleanUpBatches {
		more, err := s.db.Fetches().Clean(ctx, now.Add(-storage.FetchAge), cleanUpBatch)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if _, err := s.db.Sightings().Clean(ctx, now.Add(-storage.FetchAge), cleanUpBatch); err != nil {
		return err
	}
	return s.db.Probes().Clean(ctx, now)
}

// cleanFailures deletes stale rows, and then counters of few failures that have not changed for a day. It resumes where
// the last round stopped. Counters of many failures stay until they are stale, so that a round need not read them.
func (s *cleaner) cleanFailures(ctx context.Context, now time.Time) error {
	stale := now.Add(-keepStale)
	type clean = func(ctx context.Context, before time.Time, limit int) (int64, error)
	for _, clean := range []clean{s.db.Throttle().CleanStale, s.db.FamiliarAddresses().Clean} {
		for range cleanUpBatches {
			n, err := clean(ctx, stale, cleanUpBatch)
			if err != nil {
				return err
			}
			if s.cleaned(cleanedFailures, n); n < cleanUpBatch {
				break
			}
		}
	}
	few, rested := s.config().LoginFailures, now.Add(-keepFailures)
	for range cleanUpBatches {
		next, n, err := s.db.Throttle().Clean(ctx, few, s.restedTo, rested, cleanUpBatch)
		if err != nil {
			return err
		}
		if s.cleaned(cleanedFailures, n); next == s.restedTo {
			break
		}
		s.restedTo = next
	}
	return nil
}

func (s *cleaner) cleaned(what string, n int64) {
	s.metrics.cleaned.WithLabelValues(what).Add(float64(n))
}

// cleanEnded walks along the primary key and deletes grants that were revoked or idle for too long. It resumes where
// the last round stopped.
func (s *cleaner) cleanEnded(ctx context.Context, now time.Time) error {
	for range cleanUpBatches {
		next, n, err := s.db.Grants().CleanEnded(ctx, s.cleanedTo, cleanUpBatch, now.Add(-keepEnded))
		if err != nil {
			return err
		}
		s.cleaned(cleanedEnded, n)
		if s.cleanedTo = next; next == 0 {
			return nil
		}
	}
	return nil
}
