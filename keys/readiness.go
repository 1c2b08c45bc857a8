package keys

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Verdict says whether a verifier is ready for the next key.
type Verdict string

// The verdicts, the worst last.
const (
	VerdictReady   Verdict = "ready"   // every source of it got a key set with the next key
	VerdictWaiting Verdict = "waiting" // some source has not, and will by its own habit
	VerdictSilent  Verdict = "silent"  // registered and never seen, or only seen through a cache
	VerdictStuck   Verdict = "stuck"   // some source has not, and shows no habit by which it will
)

// Rank orders the verdicts for an exit code: 0 ready, 1 waiting or silent, 2 stuck.
func (v Verdict) Rank() int {
	switch v {
	case VerdictReady:
		return 0
	case VerdictStuck:
		return 2
	}
	return 1
}

const (
	// SeenRecently is how long a source counts after its last fetch.
	SeenRecently = 7 * 24 * time.Hour
	// overdue is after how many times its habit a source is stuck.
	overdue = 3
	// enoughFetches show that everybody behind an address has the key.
	enoughFetches = storage.MaxFetchTimes - 1
	// minGap is the shortest gap that is a habit. Fetches of one start are closer.
	minGap = time.Second / 2
	// shownProxies is how many proxies a note names.
	shownProxies = 5
	// soon is how long after a rotation a verifier has met a token of the new key.
	soon = time.Minute
)

// Readiness says which verifiers have the next key.
type Readiness struct {
	Next        string            `json:"next"` // kid; "" if there is none
	PublishedAt *time.Time        `json:"published_at"`
	Verifiers   []VerifierReading `json:"verifiers"` // by name
	Notes       []string          `json:"notes"`     // what cannot be concluded
}

// VerifierReading is what is known of one registered verifier.
type VerifierReading struct {
	Name         string          `json:"name"`
	Resource     string          `json:"resource"`
	Verdict      Verdict         `json:"verdict"`
	By           *time.Time      `json:"ready_by"` // if it waits: when it will have the key, by its habit
	GotAt        *time.Time      `json:"got_at"`   // when the last of its sources got the key
	Evidence     string          `json:"evidence"`
	LastRotation string          `json:"last_rotation"` // what it did then; "" if unknown
	Sources      []SourceReading `json:"sources"`       // that count, the last fetch first
}

// SourceReading is what is known of one address and User-Agent of a verifier.
type SourceReading struct {
	storage.FetchKey
	Verdict Verdict      `json:"verdict"`
	By      *time.Time   `json:"ready_by"`
	GotAt   *time.Time   `json:"got_at"`
	Habit   Span         `json:"habit"` // the longest of its last gaps; 0: it fetched once
	LastAt  storage.Time `json:"last_at"`
	KIDs    storage.List `json:"kids"` // of the newest set that it got
	cached  bool         // it is a cache, and nothing is concluded
	recent  bool         // seen in the last seven days
}

// Observed is all that the readiness of verifiers depends on.
type Observed struct {
	Keys        []storage.SigningKey
	Verifiers   []storage.Verifier
	Fetches     []storage.Fetch      // of registered verifiers; of each, the last fetch first
	Introspects map[string]time.Time // resources whose resource servers introspect
	Accepted    map[string]time.Time // resources that accepted a token of the next key
}

// Readiness reads everything again and returns which verifiers have the next key.
func (l *LifeCycle) Readiness(ctx context.Context) (Readiness, error) {
	v, err := l.ring.intact(ctx)
	if err != nil {
		return Readiness{}, err
	}
	o, err := l.observe(ctx, v.rows)
	if err != nil {
		return Readiness{}, err
	}
	return o.Judge(l.ring.config(), l.ring.options.Now()), nil
}

func (l *LifeCycle) observe(ctx context.Context, rows []storage.SigningKey) (o Observed, err error) {
	db := l.ring.db
	o.Keys = rows
	if o.Verifiers, err = db.Verifiers().All(ctx); err != nil || len(o.Verifiers) == 0 {
		return o, err
	}
	if o.Fetches, err = db.Fetches().Named(ctx); err != nil {
		return o, err
	}
	o.Introspects, err = db.Sightings().Introspects(ctx, l.ring.options.Now().Add(-SeenRecently))
	if next := find(rows, storage.KeyNext); next != nil && err == nil {
		o.Accepted, err = db.Probes().Accepted(ctx, next.KID)
	}
	return o, err
}

// Judge derives the readiness from the observations alone.
func (o Observed) Judge(c Config, now time.Time) Readiness {
	r := Readiness{Verifiers: []VerifierReading{}, Notes: []string{
		"fetched is not used: a verifier may have fetched a key set and still use an older one",
		"an address is not a process: others behind the same address may not have fetched it",
	}}
	next := find(o.Keys, storage.KeyNext)
	if next != nil {
		at := next.PublishedAt.UTC()
		r.Next, r.PublishedAt = next.KID, &at
	}
	if proxies := proxies(o.Fetches, now); len(proxies) > 0 {
		r.Notes = append(r.Notes, "some fetches come through a proxy or cache that says so in Via ("+
			strings.Join(proxies, ", ")+"): nothing is concluded from them")
	}
	byHandle, ofResource := o.byHandle(), map[string]int{}
	for _, v := range o.Verifiers {
		ofResource[v.Resource]++
	}
	for _, v := range o.Verifiers {
		reading := VerifierReading{Name: v.Name, Resource: v.Resource, Sources: []SourceReading{}}
		for _, f := range counting(byHandle[v.Handle], now) {
			s := judgeSource(f, next, c, now)
			s.cached, s.recent = f.Via, now.Sub(f.LastAt.Time) <= SeenRecently
			reading.Sources = append(reading.Sources, s)
		}
		reading.LastRotation = lastRotation(o.Keys, byHandle[v.Handle], c, now)
		o.conclude(&reading, next, ofResource[v.Resource] == 1)
		r.Verifiers = append(r.Verifiers, reading)
	}
	return r
}

// byHandle returns the fetches of each handle.
func (o Observed) byHandle() map[string][]storage.Fetch {
	fetches := map[string][]storage.Fetch{}
	for _, f := range o.Fetches {
		fetches[f.Handle] = append(fetches[f.Handle], f)
	}
	return fetches
}

// conclude sets the verdict on a verifier: that of its worst source. alone means that it is the only verifier of its
// resource: what is known of the resource is known of it.
func (o Observed) conclude(r *VerifierReading, next *storage.SigningKey, alone bool) {
	if at, ok := o.Accepted[r.Resource]; ok && alone && next != nil {
		r.Verdict, r.GotAt = VerdictReady, &at
		r.Evidence = "it accepted a token of the next key at " + stamp(at)
		return
	}
	recent := slices.ContainsFunc(r.Sources, func(s SourceReading) bool { return s.recent })
	if at, ok := o.Introspects[r.Resource]; ok && alone && !recent {
		r.Verdict, r.Evidence = VerdictReady, "it only introspects, last at "+stamp(at)+": it needs no key"
		return
	}
	direct := slices.DeleteFunc(slices.Clone(r.Sources), func(s SourceReading) bool { return s.cached })
	switch {
	case len(r.Sources) == 0:
		r.Verdict, r.Evidence = VerdictSilent, "no fetch of its jwks_uri is known"
	case len(direct) == 0:
		r.Verdict, r.Evidence = VerdictSilent, "only a cache has fetched its jwks_uri: nothing is concluded"
	case next == nil:
		r.Verdict, r.Evidence = VerdictWaiting, "no next key is published"
	default:
		r.concludeFrom(direct)
	}
}

// concludeFrom sets the verdict of the worst source.
func (r *VerifierReading) concludeFrom(sources []SourceReading) {
	have := 0
	worst := sources[0]
	for _, s := range sources {
		if s.GotAt != nil {
			have++
			if r.GotAt == nil || s.GotAt.After(*r.GotAt) {
				r.GotAt = s.GotAt
			}
		}
		later := s.Verdict == worst.Verdict && s.By != nil && worst.By != nil && s.By.After(*worst.By)
		if s.Verdict.Rank() > worst.Verdict.Rank() || later {
			worst = s
		}
	}
	r.Verdict, r.By = worst.Verdict, worst.By
	r.Evidence = fmt.Sprintf("%d of %d sources have it", have, len(sources))
	if len(sources) == 1 && have == 1 {
		r.Evidence = "its only source has it"
	}
	if have < len(sources) {
		r.GotAt = nil
	}
	switch {
	case r.Verdict != VerdictReady:
		r.Evidence += "; " + worst.describe()
	case len(r.Sources) >= storage.MaxNamedFetches:
		r.Verdict = VerdictWaiting
		r.Evidence += "; it has too many sources to keep, so that one without it may be missing: others may use its URL"
	}
}

// describe says what a source does that is not ready.
func (s SourceReading) describe() string {
	who := s.Source
	if s.Agent != "" {
		who += " (" + s.Agent + ")"
	}
	switch {
	case s.GotAt != nil:
		return who + " has it, and fetched before: another process behind the address may not have it " +
			"(`keyturn probe --next` asks the API)"
	case s.Habit == 0:
		return who + " fetched once, at " + stamp(s.LastAt.Time)
	}
	every := about(time.Duration(s.Habit))
	return fmt.Sprintf("%s fetches about every %v, last at %s", who, every, stamp(s.LastAt.Time))
}

// about rounds a duration for people.
func about(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Hour:
		return d.Round(time.Hour)
	case d > 10*time.Minute:
		return d.Round(time.Minute)
	}
	return d.Round(time.Second)
}

// lastRotation says what the sources of a verifier did after the current key began to sign. It is "" if none of them
// was there before, or if there was no rotation.
func lastRotation(rows []storage.SigningKey, fetches []storage.Fetch, c Config, now time.Time) string {
	current := find(rows, storage.KeyCurrent)
	turned := slices.ContainsFunc(rows, func(k storage.SigningKey) bool { return k.DeactivatedAt != nil })
	if current == nil || !turned {
		return ""
	}
	began := current.ActivatedAt.Time
	var back time.Time
	there := false
	for _, f := range fetches {
		if f.Via || !f.FirstAt.Before(began) {
			continue // it is a cache, or was not there
		}
		there = true
		if f.Signer == current.KID && !f.BackAt.Before(began) && (back.IsZero() || f.BackAt.Before(back)) {
			back = f.BackAt.Time
		}
	}
	switch {
	case !there, back.IsZero() && now.Sub(began) < min(soon, c.PublishLead): // it may still come
		return ""
	case back.IsZero():
		return "at the last rotation it never came back: restart it"
	}
	return fmt.Sprintf("at the last rotation it came back %v after the new key began to sign",
		about(back.Sub(began)))
}

// Unready returns the readings of the verifiers that are not ready, without those in except.
func (r Readiness) Unready(except []string) (readings []VerifierReading) {
	for _, v := range r.Verifiers {
		if v.Verdict != VerdictReady && !slices.Contains(except, v.Name) {
			readings = append(readings, v)
		}
	}
	return readings
}

// Worst returns the worst verdict; ready if no verifier is registered.
func (r Readiness) Worst() Verdict {
	worst := VerdictReady
	for _, v := range r.Verifiers {
		if v.Verdict.Rank() > worst.Rank() {
			worst = v.Verdict
		}
	}
	return worst
}

// NotReadyError refuses a rotation because verifiers do not have the next key.
type NotReadyError struct{ Verifiers []VerifierReading }

// Error names the verifiers.
func (e *NotReadyError) Error() string {
	return "verifiers are not ready for the next key: " + named(e.Verifiers) +
		": `keyturn keys readiness` has the evidence, and --except NAME leaves one out"
}

// named lists verifiers with their verdicts.
func named(readings []VerifierReading) string {
	var names []string
	for _, v := range readings {
		names = append(names, v.Name+" ("+string(v.Verdict)+")")
	}
	return strings.Join(names, ", ")
}
