package keys

import (
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// proxies lists the sources that say in Via that they are proxies, at most a few.
func proxies(fetches []storage.Fetch, now time.Time) (sources []string) {
	for _, f := range fetches {
		if f.Via && now.Sub(f.LastAt.Time) <= SeenRecently && len(sources) < shownProxies &&
			!slices.Contains(sources, f.Source) {
			sources = append(sources, f.Source)
		}
	}
	return sources
}

// counting returns the fetches that count: the recent ones, or else the last one.
func counting(fetches []storage.Fetch, now time.Time) []storage.Fetch {
	var recent []storage.Fetch
	for _, f := range fetches {
		if now.Sub(f.LastAt.Time) <= SeenRecently {
			recent = append(recent, f)
		}
	}
	if len(recent) == 0 && len(fetches) > 0 {
		return fetches[:1]
	}
	return recent
}

// judgeSource judges one source.
func judgeSource(f storage.Fetch, next *storage.SigningKey, c Config, now time.Time) SourceReading {
	h, _ := habit(f.Times)
	s := SourceReading{
		FetchKey: f.FetchKey,
		Verdict:  VerdictWaiting,
		Habit:    Span(h),
		LastAt:   f.LastAt,
		KIDs:     f.KIDs,
	}
	switch {
	case next == nil:
	case slices.Contains(f.KIDs, next.KID):
		at := f.GotAt.UTC()
		s.GotAt = &at
		if by := allBack(f, now); by.IsZero() {
			s.Verdict = VerdictReady
		} else {
			s.By = &by
		}
	default:
		if by := comesBy(f, c, now); by.IsZero() {
			s.Verdict = VerdictStuck
		} else {
			s.By = &by
		}
	}
	return s
}

// habit returns the longest gap between fetches, without those of one start; 0 if there is none. regular reports
// whether the gaps are much alike, as those of a timer.
func habit(times storage.FetchTimes) (longest time.Duration, regular bool) {
	shortest, gaps := time.Duration(0), 0
	for i := 1; i < len(times); i++ {
		if gap := times[i-1].Sub(times[i].Time); gap >= minGap {
			if longest = max(longest, gap); gaps == 0 || gap < shortest {
				shortest = gap
			}
			gaps++
		}
	}
	return longest, gaps == storage.MaxFetchTimes-1 && longest <= shortest+shortest/10
}

// allBack returns the zero time if everybody behind a source that has the key has probably fetched it, and otherwise
// when that will be. Several processes may share an address. If the source fetched before the key was published, one of
// them may not have come back: until a timer has fetched the key three times, or until seven days later, when whoever
// fetched before no longer counts.
func allBack(f storage.Fetch, now time.Time) time.Time {
	if !f.FirstAt.Before(f.GotAt.Time) {
		return time.Time{} // all its fetches got the key
	}
	since := 0
	for _, t := range f.Times {
		if !t.Before(f.GotAt.Time) {
			since++
		}
	}
	h, regular := habit(f.Times)
	forgotten := f.GotAt.Add(SeenRecently)
	if regular && since >= enoughFetches || !forgotten.After(now) {
		return time.Time{}
	}
	by := f.LastAt.Add(time.Duration(max(enoughFetches-since, 1)) * (h + h/10))
	if regular && by.After(now) && by.Before(forgotten) {
		return by.UTC()
	}
	return forgotten.UTC()
}

// comesBy returns by when a source fetches again, by its habit, or else counts as stuck. It returns the zero time if it
// is overdue. Of a source that fetched once, keyturn expects what the life of keys relies on: a fetch in each
// key_publish_lead.
func comesBy(f storage.Fetch, c Config, now time.Time) time.Time {
	h, regular := habit(f.Times)
	if h == 0 {
		h = c.PublishLead
	}
	if by := f.LastAt.Add(h + h/10); regular && by.After(now) {
		return by.UTC()
	}
	if by := f.LastAt.Add(overdue * h); by.After(now) {
		return by.UTC()
	}
	return time.Time{}
}
