package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Level is the severity of a problem.
type Level string

// The levels, as cron and Nagios know them.
const (
	LevelOK       Level = "ok"
	LevelWarning  Level = "warning"  // somebody should look today
	LevelCritical Level = "critical" // somebody should look now
)

// Problem is something about the keys that needs a person, with advice.
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
	Healthy        bool       `json:"healthy"` // no problems
	Problems       []Problem  `json:"problems"`
	Level          Level      `json:"level"` // of the worst problem
	Sentence       string     `json:"sentence"`
	NextEvent      *Event     `json:"next_event"`
}

// Bounds of Status. Servers take each step within seconds, so that a late step means that no server runs.
const (
	lateAfter     = time.Hour          // a step this late is a warning
	critLateAfter = 7 * 24 * time.Hour // a rotation this late is critical
	clockWarning  = 5 * time.Second
)

// facts are all that the health of the keys depends on.
type facts struct {
	rows       []storage.SigningKey
	altered    *AlteredError
	refresh    []secretKey   // keys of refresh tokens
	left       int           // rows that are not under the master key that seals
	unreadable int           // keys of refresh tokens that do not open
	begun      bool          // there were keys once
	forged     []string      // kids of trusted keys that have signed tokens that no server made
	exempt     time.Time     // until then, tokens without a MAC are not taken for forgeries
	clockOff   time.Duration // how far the clock of this machine is ahead of the clock of the database

	unready []VerifierReading // verifiers that a rotation that is due waits for
}

// Status reads everything again and returns the health of the keys. With a tolerant Ring, it also describes altered
// rows.
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
	if len(f.rows) == 0 { // the answer is not needed otherwise, and the audit trail may be long
		if f.begun, err = l.ring.db.Audit().HasType(ctx, eventBegin); err != nil {
			return Status{}, err
		}
	}
	f.exempt = v.secrets.exemptUntil()
	if f.forged, err = l.ring.db.Forgeries().OfTrustedKeys(ctx); err != nil {
		return Status{}, err
	}
	if f.clockOff, err = l.ring.ClockOff(ctx); err != nil {
		return Status{}, err
	}
	c := l.ring.config()
	if at := rotatesAt(f.rows, c); f.altered == nil && waits(f.rows, c) && !at.IsZero() && !now.Before(at) {
		o, err := l.observe(ctx, f.rows)
		if err != nil {
			return Status{}, err
		}
		f.unready = o.Judge(c, now).Unready(nil)
	}
	return judge(f, l.ring.config(), now), nil
}

// judge derives the health of the keys from facts alone.
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
		if at := rotatesBy(f.rows, c, now).UTC(); !at.IsZero() {
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

// nextEvent returns the first planned moment at which verifiers see a change.
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

// report adds a problem.
type report func(level Level, advice, format string, args ...any)

// problems returns all problems, the worst first.
func (f facts) problems(c Config, now time.Time) []Problem {
	problems := []Problem{}
	add := func(level Level, advice, format string, args ...any) {
		problems = append(problems, Problem{level, fmt.Sprintf(format, args...), advice})
	}
	if f.altered != nil {
		f.alteredProblems(add)
		return problems
	}
	for _, kid := range f.forged {
		add(LevelCritical, "somebody else has it, and can sign whatever tokens they like until it is revoked",
			"Key %s has signed tokens that this server did not make. Revoke it: keyturn keys revoke %s", kid, kid)
	}
	switch {
	case len(f.rows) > 0:
		f.stepProblems(c, now, add)
	case f.begun:
		add(LevelCritical, mendRows, problemRemoved)
	default:
		add(LevelWarning, "the first start of a server makes them", "there are no signing keys yet")
	}
	f.refreshProblems(c, now, add)
	if now.Before(f.exempt) {
		add(LevelWarning, "this is right for an hour after an upgrade or the restore of an old backup; "+
			"if there was none, somebody has deleted the keys of token ids from the database",
			"forged tokens are not recognized by their jti until %s", stamp(f.exempt))
	}
	if f.left > 0 {
		add(
			LevelWarning,
			"run the same `keyturn keys rewrap` again: it goes on where it stopped",
			"a rewrap is not finished: %d rows are under another master key",
			f.left,
		)
	}
	if f.clockOff.Abs() > clockWarning {
		add(
			LevelWarning,
			"set the clock of this machine (NTP), then that of the database",
			"the clock of this machine is %v off that of the database",
			f.clockOff.Round(time.Second),
		)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return b.Level.Rank() - a.Level.Rank() })
	return problems
}

// alteredProblems reports altered rows, and nothing else: the rows cannot be trusted.
func (f facts) alteredProblems(add report) {
	advice := mendRows
	if f.altered.UnknownMaster {
		advice = "if a rewrap is under way, add its new key to the master key file of this host, as a further line, " +
			"and look again; if none is: " + mendRows
	}
	for _, p := range f.altered.Problems {
		add(LevelCritical, advice, "%s", p)
	}
}

// refreshProblems reports problems with the keys of refresh tokens.
func (f facts) refreshProblems(c Config, now time.Time, add report) {
	if _, free := freeNumber(f.refresh); !free {
		add(
			LevelWarning,
			"shorten refresh_max_ttl: the key in use stays in use until the oldest grant has ended",
			"all numbers for keys of refresh tokens are taken by keys that some grant needs",
		)
	} else if due, _ := nextRefreshKey(f.refresh, c, now.Add(-lateAfter)); due {
		add(LevelWarning, startServer, "the next key of refresh tokens is overdue")
	}
	if f.unreadable > 0 {
		add(
			LevelCritical,
			"bring the table back from a backup: clients with tokens of that key must log in again otherwise",
			"%d keys of refresh tokens were altered outside keyturn",
			f.unreadable,
		)
	}
}

// Rank orders the levels: 0 ok, 1 warning, 2 critical.
func (l Level) Rank() int { return slices.Index([]Level{LevelOK, LevelWarning, LevelCritical}, l) }

const mendRows = "servers refuse to sign: bring the tables back from a backup, or, since whoever can write them may " +
	"have read them, `keyturn keys revoke all --store-leaked`, which makes fresh keys"

const startServer = "servers take this step by themselves: see that one runs, and what its log says of signing keys"

// stepProblems reports missing keys and late steps.
func (f facts) stepProblems(c Config, now time.Time, add report) {
	current, next := find(f.rows, storage.KeyCurrent), find(f.rows, storage.KeyNext)
	if current == nil {
		add(LevelCritical, startServer, "no key signs")
	}
	if next == nil {
		add(LevelWarning, startServer, "there is no next key: a rotation would break verifiers")
	}
	f.incidentProblem(c, now, add)
	if at := rotatesAt(f.rows, c); len(f.unready) > 0 && now.Sub(at) <= c.Patience+lateAfter {
		add(LevelWarning, "`keyturn keys readiness` has the evidence; `keyturn keys rotate --when-ready --except "+
			"NAME` leaves one out", "the rotation that was due at %s waits for %s, until %s at the latest",
			stamp(at), named(f.unready), stamp(at.Add(c.Patience)))
	} else if !at.IsZero() && now.Sub(at) > lateAfter {
		level := LevelWarning
		if now.Sub(at) > critLateAfter || secondRotation(f.rows) {
			level = LevelCritical
		}
		add(level, startServer, "the rotation that was due at %s has not been made", stamp(at))
	}
	for _, row := range f.rows {
		if row.State == storage.KeyPrevious && now.Sub(row.RetiresAt.Time) > lateAfter {
			add(LevelWarning, startServer, "key %s was due to leave the JWKS at %s", row.KID, stamp(row.RetiresAt.Time))
		}
	}
}

// incidentProblem reports a leak that is not over.
func (f facts) incidentProblem(c Config, now time.Time, add report) {
	if !incident(f.rows, now) {
		return
	}
	revoked, exposed := lastRevocation(f.rows), exposedUntil(f.rows)
	const restart = "restart verifiers that keep a key set longer than they were told"
	if secondRotation(f.rows) {
		add(
			LevelWarning,
			"leave it to the servers; "+restart,
			"a key was revoked at %s: verifiers that obey max-age may accept forgeries until %s, and the second "+
				"rotation "+
				"is at %s",
			stamp(revoked),
			stamp(exposed),
			stamp(later(rotatesAt(f.rows, c), now)),
		)
		return
	}
	add(
		LevelWarning,
		"wait; "+restart,
		"a key was revoked at %s: verifiers that obey max-age may accept forgeries until %s",
		stamp(revoked),
		stamp(exposed),
	)
}
