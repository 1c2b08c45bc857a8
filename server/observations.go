package server

import (
	"container/list"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

const (
	maxObserved       = 10_000 // sources, between two writes
	maxObservedHandle = 1000   // of them with the same handle
	maxDoubtful       = 1000   // fetches with a handle that is not known yet
	maxSightings      = 10_000 // audiences and clients
	maxAgent          = 64     // characters of a User-Agent
	burst             = time.Second / 2
	readinessInterval = time.Minute
)

// observations count who fetches the JWKS, who introspects, and which audiences get tokens. They are in memory, and
// written every ten seconds: no request waits for them.
type observations struct {
	*core
	handles atomic.Pointer[map[string]bool] // of registered verifiers
	ready   atomic.Pointer[verdicts]

	mu        sync.Mutex                         // guards what follows
	fetches   map[storage.FetchKey]*list.Element // since the last write; values are *storage.Fetch
	named     *list.List                         // of registered verifiers, the oldest first
	unnamed   *list.List                         // all others, the oldest first
	perHandle map[string]int                     // entries in named
	doubtful  []observedFetch                    // with a handle that is not known
	seen      map[storage.Sighting]time.Time     // by kind and name, since the last write
	pending   []storage.Fetch                    // taken, and not written; the goroutine of keep alone uses it
}

// observedFetch is one request for the JWKS.
type observedFetch struct {
	handle, agent string
	address       netip.Addr
	via           bool
	set           *keys.Published
	at            time.Time
}

// verdicts count registered verifiers.
type verdicts struct{ ready, waiting, stuck int }

func newObservations(c *core) *observations {
	o := &observations{
		core:      c,
		fetches:   map[storage.FetchKey]*list.Element{},
		named:     list.New(),
		unnamed:   list.New(),
		perHandle: map[string]int{},
		seen:      map[storage.Sighting]time.Time{},
	}
	o.handles.Store(&map[string]bool{})
	o.ready.Store(&verdicts{})
	return o
}

// fetched notes that a client got a key set.
func (o *observations) fetched(x *response, r *http.Request, set *keys.Published) {
	if r.Method != http.MethodGet || o.config().JWKSObserve == config.ObserveOff {
		return
	}
	f := observedFetch{
		handle:  handleOf(r.URL.RawQuery),
		agent:   agentOf(r.UserAgent()),
		address: x.address,
		via:     r.Header.Get("Via") != "" && x.address == subscriber(peerAddress(r)), // not by a trusted proxy
		set:     set,
		at:      o.now(),
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if f.handle != "" && !(*o.handles.Load())[f.handle] {
		if len(o.doubtful) < maxDoubtful { // it may have been registered a moment ago
			f.handle, f.agent = strings.Clone(f.handle), strings.Clone(f.agent)
			o.doubtful = append(o.doubtful, f)
			return
		}
		f.handle = ""
	}
	o.note(f)
}

// handleOf returns the handle in a query, or "" if the query is anything else.
func handleOf(query string) string {
	handle, ok := strings.CutPrefix(query, "v=")
	if !ok || !storage.IsHandle(handle) {
		return ""
	}
	return handle
}

// agentOf returns the beginning of a User-Agent, as text for one line.
func agentOf(agent string) string {
	agent = agent[:min(len(agent), 4*maxAgent)] // a character has at most four bytes
	plain := func(n rune) bool { return n >= ' ' && n <= '~' }
	if len(agent) <= maxAgent && !strings.ContainsFunc(agent, func(n rune) bool { return !plain(n) }) {
		return agent
	}
	shown := []rune(strings.Map(func(n rune) rune {
		if !unicode.IsPrint(n) || n == unicode.ReplacementChar {
			return '?'
		}
		return n
	}, agent))
	return string(shown[:min(len(shown), maxAgent)])
}

// sourceOf returns the source of a fetch: the address of a registered verifier, and the network of any other.
func sourceOf(address netip.Addr, named bool) string {
	bits := 24
	if address.Is6() {
		bits = 48
	}
	if prefix, err := address.Prefix(bits); err == nil && !named {
		return prefix.String()
	}
	return address.String()
}

// note adds a fetch to the map; mu is locked. A handle is that of a registered verifier, or "".
func (o *observations) note(f observedFetch) {
	if f.handle == "" && o.config().JWKSObserve != config.ObserveAll {
		return
	}
	key := storage.FetchKey{Handle: f.handle, Source: sourceOf(f.address, f.handle != ""), Agent: f.agent}
	entry := o.fetches[key]
	if entry == nil {
		if f.handle != "" && o.perHandle[f.handle] >= maxObservedHandle {
			return // who uses a handle from many addresses must not push out the others
		}
		key.Agent, key.Handle = strings.Clone(key.Agent), strings.Clone(key.Handle)
		entry = o.insert(key, f)
	} else if f.handle == "" {
		o.unnamed.MoveToBack(entry)
	} else {
		o.named.MoveToBack(entry)
	}
	addFetch(entry.Value.(*storage.Fetch), f)
}

// insert makes an entry, and drops the oldest one if there are too many.
func (o *observations) insert(key storage.FetchKey, f observedFetch) *list.Element {
	if len(o.fetches) >= maxObserved {
		if o.unnamed.Len() > 0 {
			o.remove(o.unnamed.Front())
		} else {
			o.remove(o.named.Front())
		}
	}
	into := o.unnamed
	if key.Handle != "" {
		into = o.named
		o.perHandle[key.Handle]++
	}
	entry := into.PushBack(&storage.Fetch{FetchKey: key, FirstAt: storage.At(f.at)})
	o.fetches[key] = entry
	return entry
}

// remove removes an entry and returns it.
func (o *observations) remove(entry *list.Element) *storage.Fetch {
	f := entry.Value.(*storage.Fetch)
	delete(o.fetches, f.FetchKey)
	if f.Handle == "" {
		o.unnamed.Remove(entry)
		return f
	}
	o.named.Remove(entry)
	if o.perHandle[f.Handle]--; o.perHandle[f.Handle] == 0 {
		delete(o.perHandle, f.Handle)
	}
	return f
}

// addFetch adds one fetch to an entry. Fetches of one burst, as at the start of a process, have one time.
func addFetch(to *storage.Fetch, f observedFetch) {
	at := storage.At(f.at)
	first := to.Count == 0
	if !first && at.Before(to.LastAt.Time) {
		addOlderFetch(to, at)
		return
	}
	newest := ""
	if len(f.set.KIDs) > 0 {
		newest = f.set.KIDs[0]
	}
	apart := first || at.Sub(to.Times[0].Time) >= burst
	if first || newest != to.Newest {
		to.Newest, to.GotAt, to.GotCount = newest, at, 0
	}
	if first || f.set.Signer != to.Signer {
		to.Signer, to.BackAt = f.set.Signer, at
	}
	if apart {
		to.Times = append(storage.FetchTimes{at}, to.Times[:min(len(to.Times), storage.MaxFetchTimes-1)]...)
	}
	if apart || to.GotCount == 0 {
		to.GotCount++
	}
	to.Via, to.Version, to.KIDs, to.LastAt = f.via, f.set.Version, f.set.KIDs, at
	to.Count++
}

// addOlderFetch adds a fetch that was noted late, since its handle was not known before. Later ones decide all but the
// times.
func addOlderFetch(to *storage.Fetch, at storage.Time) {
	if at.Before(to.FirstAt.Time) {
		to.FirstAt = at
	}
	to.Times = append(to.Times, at)
	slices.SortFunc(to.Times, func(a, b storage.Time) int { return b.Compare(a.Time) })
	to.Times = to.Times[:min(len(to.Times), storage.MaxFetchTimes)]
	to.Count++
}

// saw notes that a client introspected, or that an audience got a token.
func (o *observations) saw(kind storage.SightingKind, name string) {
	if o.config().JWKSObserve == config.ObserveOff {
		return
	}
	at := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	key := storage.Sighting{Kind: kind, Name: name}
	if _, known := o.seen[key]; known || len(o.seen) < maxSightings {
		o.seen[key] = at
	}
}

// readHandles reads the handles of registered verifiers.
func (o *observations) readHandles(ctx context.Context) error {
	verifiers, err := o.db.Verifiers().All(ctx)
	if err != nil {
		return err
	}
	handles := make(map[string]bool, len(verifiers))
	for _, v := range verifiers {
		handles[v.Handle] = true
	}
	o.handles.Store(&handles)
	return nil
}

// keep writes what changed every ten seconds, and judges the verifiers every minute, until the context ends.
func (o *observations) keep(ctx context.Context) {
	tick := time.NewTicker(storage.FetchInterval)
	defer tick.Stop()
	var judged time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastBeat)
			defer cancel()
			o.report(last, o.flush(last))
			return
		}
		o.report(ctx, o.flush(ctx))
		if now := o.now(); now.Sub(judged).Abs() >= readinessInterval {
			o.report(ctx, o.judge(ctx))
			judged = now
		}
	}
}

func (o *observations) report(ctx context.Context, err error) {
	if err != nil && !errors.Is(err, storage.ErrUnavailable) && ctx.Err() == nil {
		o.log.Error("who fetches the keys could not be recorded", "error", err.Error())
	}
}

// flush writes what changed since the last write. What fails is kept for the next one.
func (o *observations) flush(ctx context.Context) error {
	ctx, cancel := o.databaseTimeout(ctx)
	defer cancel()
	if err := o.resolve(ctx); err != nil {
		return err
	}
	for more := true; more; {
		if len(o.pending) == 0 {
			o.pending = o.take()
		}
		if err := o.db.Fetches().Add(ctx, o.pending); err != nil {
			return err
		}
		o.pending = nil
		more = o.namedLeft()
	}
	sightings := o.takeSightings()
	err := o.db.Sightings().See(ctx, sightings)
	if err != nil {
		o.putBack(sightings)
	}
	return err
}

// resolve notes the fetches with unknown handles, after it has read the handles again.
func (o *observations) resolve(ctx context.Context) error {
	o.mu.Lock()
	doubts := len(o.doubtful)
	o.mu.Unlock()
	if doubts == 0 {
		return nil
	}
	if err := o.readHandles(ctx); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.doubtful {
		if !(*o.handles.Load())[f.handle] {
			f.handle = ""
		}
		o.note(f)
	}
	o.doubtful = nil
	return nil
}

// namedLeft reports whether registered verifiers are left to write. All others wait for their turn.
func (o *observations) namedLeft() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.named.Len() > 0
}

// take removes the entries of the next write from the map: those of registered verifiers first.
func (o *observations) take() (taken []storage.Fetch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, from := range []*list.List{o.named, o.unnamed} {
		for from.Len() > 0 && len(taken) < storage.MaxFetchRows {
			taken = append(taken, *o.remove(from.Front()))
		}
	}
	return taken
}

func (o *observations) takeSightings() (taken []storage.Sighting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, at := range o.seen {
		if len(taken) == storage.MaxSightingRows {
			break
		}
		delete(o.seen, key)
		key.SeenAt = storage.At(at)
		taken = append(taken, key)
	}
	return taken
}

func (o *observations) putBack(sightings []storage.Sighting) {
	for _, s := range sightings {
		o.mu.Lock()
		key := storage.Sighting{Kind: s.Kind, Name: s.Name}
		if at := o.seen[key]; at.Before(s.SeenAt.Time) {
			o.seen[key] = s.SeenAt.Time
		}
		o.mu.Unlock()
	}
}

// judge counts the verdicts on registered verifiers, for the metrics.
func (o *observations) judge(ctx context.Context) error {
	if o.config().JWKSObserve == config.ObserveOff {
		o.ready.Store(&verdicts{})
		return nil
	}
	ctx, cancel := o.databaseTimeout(ctx)
	defer cancel()
	readiness, err := o.ring.LifeCycle().Readiness(ctx)
	if err != nil {
		return err
	}
	var v verdicts
	for _, reading := range readiness.Verifiers {
		switch reading.Verdict {
		case keys.VerdictReady:
			v.ready++
		case keys.VerdictStuck:
			v.stuck++
		default:
			v.waiting++
		}
	}
	o.ready.Store(&v)
	return nil
}
