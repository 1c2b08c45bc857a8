package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// writeHeartbeat writes a heartbeat and the anchor, and logs the head of the audit trail. An attacker who can write
// database and anchor cannot change a log that is kept elsewhere.
func (s *health) writeHeartbeat(ctx context.Context) {
	a, err := s.ring.Anchor(s.place.AnchorFile).WriteHeartbeat(ctx)
	if err == nil {
		s.metrics.anchored.Set(1)
	} else if !errors.Is(err, storage.ErrUnavailable) {
		s.metrics.anchored.Set(0)
	}
	if a.AuditSeq > 0 {
		s.log.Info("audit head", "event", "audit.head", "seq", a.AuditSeq, "hash", a.AuditHash)
	}
	var older *keys.OlderError
	if err == nil {
		err = s.store.CheckMoved(ctx)
		s.older.Store(err != nil && !errors.Is(err, storage.ErrUnavailable))
	} else if errors.As(err, &older) {
		s.older.Store(true)
	}
	if err != nil && !errors.Is(err, storage.ErrUnavailable) { // the ring logs an unavailable database
		s.log.Error("the anchor could not be kept", "error", err.Error())
	}
}

// errOlder means that the database has gone back to an older state. A person must decide before it is used again.
var errOlder = fmt.Errorf("the database has gone back to an older state: %w", keys.ErrStale)

// lastBeat is the time limit of the last heartbeat, when the server stops.
const lastBeat = 1500 * time.Millisecond

// keepAnchor calls beat regularly until the context ends, and then once more.
func (s *health) keepAnchor(ctx context.Context) {
	tick := time.NewTicker(keys.HeartbeatInterval)
	defer tick.Stop()
	for {
		s.writeHeartbeat(ctx)
		s.warnOfClock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.db.Patience(), lastBeat))
			defer cancel()
			s.writeHeartbeat(last)
			return
		}
	}
}
