package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Level is how bad a problem is.
type Level string

// The levels, as cron and Nagios know them.
const (
	LevelOK       Level = "ok"
	LevelWarning  Level = "warning"  // somebody should look today
	LevelCritical Level = "critical" // somebody should look now
)

// Problem is something about the keys that a person should know, and what to do about it.
type Problem struct {
	Level   Level  `json:"level"`
	Problem string `json:"problem"`
	Advice  string `json:"advice"`
}

// Event is a planned moment in the life of a key.
type Event struct {
	At   time.Time `json:"at"`
	KID  string    `json:"kid"`
	What string    `json:"what"` // "begins to sign", "leaves the JWKS"
}

// Status is the health of the signing keys.
type Status struct {
	Current        string     `json:"current"` // kid; "" if none signs
	Next           string     `json:"next"`    // kid; "" if there is none
	NextRotationAt *time.Time `json:"next_rotation_at"`
	Healthy        bool       `json:"healthy"` // there are no problems
	Problems       []Problem  `json:"problems"`
	Level          Level      `json:"level"` // of the worst problem
	Sentence       string     `json:"sentence"`
	NextEvent      *Event     `json:"next_event"`
}

// Bounds of Status. The steps are due by themselves and taken within seconds, so that one left undone tells that no
// server runs.
const (
	lateAfter     = time.Hour          // a step that nobody has taken: warning
	critLateAfter = 7 * 24 * time.Hour // a rotation that nobody has made: critical
	clockWarning  = 5 * time.Second
)

// facts is all that the health of the keys follows from.
type facts struct {
	rows       []storage.SigningKey
	altered    *AlteredError
	refresh    []secretKey   // keys of refresh tokens
	left       int           // rows under another master key than the one that seals
	unreadable int           // keys of refresh tokens that do not open
	begun      bool          // there have been keys
	clockOff   time.Duration // how far the clock here is ahead of that of the database
}

// Status reads everything anew and judges it. It works on altered rows too, if the ring is a tolerant one.
func (l *LifeCycle) Status(ctx context.Context) (Status, error) {
	if err := l.ring.Poll(ctx); err != nil {
		return Status{}, err
	}
	v, now := l.ring.view.Load(), l.ring.options.Now()
	f := facts{rows: v.rows, refresh: v.secrets.byPurpose[purposeRefresh], unreadable: v.secrets.unreadable}
	var err error
	if !errors.As(v.altered, &f.altered) {
		if f.left, err = l.left(ctx, v.master.ID()); err != nil {
			return Status{}, err
		}
	}
	if len(f.rows) == 0 { // otherwise it is not asked, and the trail may be long
		if f.begun, err = l.ring.db.Audit().HasType(ctx, eventBegin); err != nil {
			return Status{}, err
		}
	}
	if f.clockOff, err = l.ring.ClockOff(ctx); err != nil {
		return Status{}, err
	}
	return judge(f, l.ring.config(), now), nil
}

// judge is the health of the keys, a pure function.
func judge(f facts, c Config, now time.Time) Status {
	s := Status{
		Current:  kidOf(find(f.rows, storage.KeyCurrent)),
		Next:     kidOf(find(f.rows, storage.KeyNext)),
		Problems: f.problems(c, now),
		Level:    LevelOK,
	}
	s.Healthy = len(s.Problems) == 0
	for _, p := range s.Problems {
		if s.Level != LevelCritical {
			s.Level = p.Level
		}
	}
	if f.altered == nil {
		if at := rotatesAt(f.rows, c).UTC(); !at.IsZero() {
			s.NextRotationAt = &at
		}
		s.NextEvent = nextEvent(Lives(f.rows, c, now))
	}
	s.Sentence = s.sentence()
	return s
}

func (s Status) sentence() string {
	if s.Healthy {
		return fmt.Sprintf(
			"Healthy: key %s signs, key %s is published and takes over at %s.",
			s.Current,
			s.Next,
			stamp(*s.NextRotationAt),
		)
	}
	i := slices.IndexFunc(s.Problems, func(p Problem) bool { return p.Level == s.Level })
	more := ""
	if n := len(s.Problems) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Sprintf(
		"%s: %s%s.",
		map[Level]string{LevelWarning: "Warning", LevelCritical: "Critical"}[s.Level],
		s.Problems[i].Problem,
		more,
	)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// nextEvent is the first planned moment of all lives that changes what verifiers see.
func nextEvent(lives []Life) *Event {
	var next *Event
	take := func(m *Moment, kid, what string) {
		if m != nil && m.Planned && (next == nil || m.At.Before(next.At)) {
			next = &Event{m.At, kid, what}
		}
	}
	for _, l := range lives {
		if l.KID != "" {
			take(l.Signs, l.KID, "begins to sign")
			take(&l.Leaves, l.KID, "leaves the JWKS")
		}
	}
	return next
}

// problems tells all that is wrong, the worst first.
func (f facts) problems(c Config, now time.Time) []Problem {
	problems := []Problem{}
	tell := func(level Level, advice, format string, args ...any) {
		problems = append(problems, Problem{level, fmt.Sprintf(format, args...), advice})
	}
	if f.altered != nil {
		advice := mendRows
		if f.altered.UnknownMaster {
			advice = "if a rewrap is under way, add its new key to the master key file of this host, as a further line, " +
				"and look again; if none is: " + mendRows
		}
		for _, p := range f.altered.Problems {
			tell(LevelCritical, advice, "%s", p)
		}
		return problems
	}
	switch {
	case len(f.rows) > 0:
		f.stepProblems(c, now, tell)
	case f.begun:
		tell(LevelCritical, mendRows, "there are no signing keys, and there were some: the rows were removed outside keyturn")
	default:
		tell(LevelWarning, "the first start of a server makes them", "there are no signing keys yet")
	}
	if _, free := freeNumber(f.refresh); !free {
		tell(
			LevelWarning,
			"shorten refresh_max_ttl: the key in use stays in use until the oldest grant has ended",
			"all numbers for keys of refresh tokens are taken by keys that some grant needs",
		)
	} else if due, _ := nextRefreshKey(f.refresh, c, now.Add(-lateAfter)); due {
		tell(LevelWarning, startServer, "the next key of refresh tokens is overdue")
	}
	if f.unreadable > 0 {
		tell(
			LevelCritical,
			"bring the table back from a backup: clients with tokens of that key must log in again otherwise",
			"%d keys of refresh tokens were altered outside keyturn",
			f.unreadable,
		)
	}
	if f.left > 0 {
		tell(
			LevelWarning,
			"run the same `keyturn keys rewrap` again: it goes on where it stopped",
			"a rewrap is not finished: %d rows are under another master key",
			f.left,
		)
	}
	if f.clockOff.Abs() > clockWarning {
		tell(
			LevelWarning,
			"set the clock of this machine (NTP), then that of the database",
			"the clock of this machine is %v off that of the database",
			f.clockOff.Round(time.Second),
		)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return b.Level.Rank() - a.Level.Rank() })
	return problems
}

// Rank orders the levels: 0 ok, 1 warning, 2 critical.
func (l Level) Rank() int { return slices.Index([]Level{LevelOK, LevelWarning, LevelCritical}, l) }

const mendRows = "servers refuse to sign: bring the tables back from a backup, or, since whoever can write them " +
	"may have read them, " +
	"`keyturn keys revoke all --store-leaked`, which makes fresh keys"

const startServer = "servers take this step by themselves: see that one runs, and what its log says of signing keys"

// stepProblems tells what the rows lack, and the steps that are late.
func (f facts) stepProblems(c Config, now time.Time, tell func(Level, string, string, ...any)) {
	current, next := find(f.rows, storage.KeyCurrent), find(f.rows, storage.KeyNext)
	if current == nil {
		tell(LevelCritical, startServer, "no key signs")
	}
	if next == nil {
		tell(LevelWarning, startServer, "there is no next key: a rotation would break verifiers")
	}
	f.incidentProblem(c, now, tell)
	if at := rotatesAt(f.rows, c); !at.IsZero() && now.Sub(at) > lateAfter {
		level := LevelWarning
		if now.Sub(at) > critLateAfter || secondRotation(f.rows) {
			level = LevelCritical
		}
		tell(level, startServer, "the rotation that was due at %s has not been made", stamp(at))
	}
	for _, row := range f.rows {
		if row.State == storage.KeyPrevious && now.Sub(row.RetiresAt.Time) > lateAfter {
			tell(LevelWarning, startServer, "key %s was due to leave the JWKS at %s", row.KID, stamp(row.RetiresAt.Time))
		}
	}
}

// incidentProblem tells of a leak that is not over.
func (f facts) incidentProblem(c Config, now time.Time, tell func(Level, string, string, ...any)) {
	if !incident(f.rows, now) {
		return
	}
	revoked, exposed := lastRevocation(f.rows), exposedUntil(f.rows)
	if secondRotation(f.rows) {
		tell(
			LevelWarning,
			"leave it to the servers; restart verifiers that keep a key set longer than they were told",
			"a key was revoked at %s: verifiers that obey max-age may accept forgeries until %s, and the second rotation "+
				"is at %s",
			stamp(revoked),
			stamp(exposed),
			stamp(later(rotatesAt(f.rows, c), now)),
		)
		return
	}
	tell(LevelWarning, "wait; restart verifiers that keep a key set longer than they were told",
		"a key was revoked at %s: verifiers that obey max-age may accept forgeries until %s", stamp(revoked), stamp(exposed))
}
