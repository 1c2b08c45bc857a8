package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// replica makes this server visible to people: by its row in the table of replicas, and by log lines for the changes
// that people make with the command line.
type replica struct {
	*core
	forged    *forgeries
	lists     *statusLists
	row       storage.Replica
	news      storage.News             // of the last look
	scopes    atomic.Pointer[[]string] // of enabled clients, sorted
	scopesSeq int64                    // the audit record at which they were read
	scopesAt  time.Time                // when they were read

	handlesSeq int64 // the audit record at which the handles of verifiers were read
}

// scopesInterval is the shortest time between two reads of the scopes.
const scopesInterval = 5 * time.Second

// scopesNow returns the scopes of enabled clients.
func (s *replica) scopesNow() []string {
	if scopes := s.scopes.Load(); scopes != nil {
		return *scopes
	}
	return nil
}

// readScopes reads the scopes of enabled clients.
func (s *replica) readScopes(ctx context.Context) error {
	texts, err := s.db.Clients().Scopes(ctx)
	if err != nil {
		return err
	}
	var scopes []string
	for _, text := range texts {
		scopes = append(scopes, strings.Fields(text)...)
	}
	slices.Sort(scopes)
	scopes = slices.Compact(scopes)
	s.scopes.Store(&scopes)
	s.scopesAt = s.now()
	return nil
}

func newReplica(c *core, started time.Time) *replica {
	row := storage.Replica{ID: randomHex(8), Version: Version().Version, StartedAt: storage.At(started)}
	return &replica{core: c, forged: newForgeries(c, row.ID), lists: newStatusLists(c), row: row}
}

// keepVisible writes the row with each heartbeat and at each roll call, and logs the alarms of the audit trail, until
// the context ends. Then it deletes the row.
func (s *replica) keepVisible(ctx context.Context, public net.Addr) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	s.row.Name = host + " " + public.String()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		s.lookForNews(ctx)
		s.forged.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastBeat)
			defer cancel()
			s.forged.flush(last)
			if err := s.db.Replicas().Leave(last, s.row.ID); err != nil {
				s.log.Warn("this server still counts as running, for a few minutes", "error", err.Error())
			}
			return
		}
	}
}

// lookForNews reads the news once. The checks of readiness report an unavailable database.
func (s *replica) lookForNews(ctx context.Context) {
	ctx, cancel := s.databaseTimeout(ctx)
	defer cancel()
	news, err := s.db.Replicas().News(ctx)
	now := s.now()
	if err == nil && (news.RollCall != s.news.RollCall || now.Sub(s.row.SeenAt.Time) >= keys.HeartbeatInterval) {
		s.row.SeenAt = storage.At(now)
		err = s.db.Replicas().See(ctx, s.row, now.Add(-keepEnded))
	}
	if err == nil && s.news.AuditSeq == 0 { // the first look: go on where a server stopped
		s.news.AuditSeq, err = s.db.Replicas().Alarmed(ctx, news.AuditSeq)
	}
	if err == nil && news.AuditSeq != s.handlesSeq { // a new verifier has an audit record
		if err = s.observed.readHandles(ctx); err == nil {
			s.handlesSeq = news.AuditSeq
		}
	}
	if err == nil && news.AuditSeq > s.news.AuditSeq {
		err = s.logAlarms(ctx, s.news.AuditSeq, news.AuditSeq)
	}
	// A change of a client is an audit record.
	if stale := now.Sub(s.scopesAt); err == nil && stale.Abs() >= scopesInterval && news.AuditSeq != s.scopesSeq {
		if err = s.readScopes(ctx); err == nil {
			s.scopesSeq = news.AuditSeq
		}
	}
	if err == nil {
		s.news = news
	} else if !errors.Is(err, storage.ErrUnavailable) && ctx.Err() == nil {
		s.log.Error("the news of the database could not be read", "error", err.Error())
	}
}

// keyturnActor is the actor of the changes that servers make by themselves. The server that makes one logs it.
const keyturnActor = "keyturn"

// logAlarms logs the alarms among the audit records after a number, up to another.
func (s *replica) logAlarms(ctx context.Context, after, until int64) error {
	for {
		records, err := s.db.Audit().Alarms(ctx, after, until)
		if err != nil || len(records) == 0 {
			return err
		}
		for _, r := range records {
			if r.Type == storage.AuditForgery {
				s.forged.heed(r)
				continue
			}
			s.logAlarm(r)
		}
		after = records[len(records)-1].Seq
		if err := s.db.Replicas().SetAlarmed(ctx, after); err != nil {
			return err
		}
		s.news.AuditSeq = after
	}
}

// logAlarm logs what a person has changed.
func (s *replica) logAlarm(r storage.AuditRecord) {
	if r.Actor == keyturnActor {
		return
	}
	s.log.Warn("an administrator changed something",
		slog.String("event", r.Type),
		slog.Int64("seq", r.Seq),
		slog.Time("at", r.Time.Time),
		slog.String("actor", r.Actor),
		slog.String("target", r.Target),
		slog.String("reason", r.Reason),
		slog.String("details", string(r.Details)))
}
