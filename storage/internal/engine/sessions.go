package engine

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

const (
	sessionRest   = 5 * time.Minute        // an idle session is closed after this
	scarceRest    = 250 * time.Millisecond // the same, while sessions are scarce
	scarceFor     = 10 * time.Second       // how long sessions count as scarce after PostgreSQL has refused one
	growAfter     = time.Second            // after a refusal, before the next attempt
	redialAfter   = 25 * time.Millisecond  // the same, without any session
	handOverAfter = 300 * time.Millisecond // while scarce, a busy replica gives up one session per this time
	longestWait   = 5 * time.Second        // for a session
)

// sessions are the connections of a process to PostgreSQL. All pools share them, and wait for one another where
// PostgreSQL, or a pooler in front of it, grants fewer than they would use.
type sessions struct {
	hosts *hosts

	mu         sync.Mutex
	idle       []*session // the most recently used last
	waiting    []*waiter
	open       int // including those in use
	dialing    int
	room       int  // how many are allowed now
	most       int  // how many are useful
	small      bool // the limit of PostgreSQL is lower than that
	generation int
	scarceTill time.Time
	growAt     time.Time
	aheadAt    time.Time // when a spare session may be opened again
	handOverAt time.Time
	allowed    int         // for all processes together; 0: unknown
	sweeper    *time.Timer // nil while no session is idle
	closed     bool
	listener   net.Conn // closed when sessions are scarce
	waited     time.Duration
}

// session is one connection to PostgreSQL.
type session struct {
	*preparedConn
	wire       *impatient
	generation int
	rested     time.Time
	lent       *lending // the pool that used it last
	// A commit was answered before the standby had it.
	unreplicated atomic.Bool
}

// hear notes a warning of PostgreSQL. Its text is in the language of the server, the name of its routine is not.
func (s *session) hear(warning *pq.Error) {
	if warning.Routine == "SyncRepWaitForLSN" {
		s.unreplicated.Store(true)
	}
}

// waiter waits for a session, or for the error of opening one.
type waiter struct {
	got chan offer
}

type offer struct {
	session *session
	err     error
}

// The errors of a caller that waited too long: there was no session, or all were in use.
var (
	errNoSession = errors.New("there was no connection to PostgreSQL in time")
	errAllInUse  = errors.New("no connection to PostgreSQL was free in time")
)

// lease takes an idle session, or waits for one to be opened or returned, whichever comes first. A pool with priority
// goes to the front of the queue.
func (p *sessions) lease(ctx context.Context, l *lending) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, longestWait)
	defer cancel()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errors.New("the database is closed")
	}
	if s := p.rested(l); s != nil {
		p.dialAhead()
		p.mu.Unlock()
		return s, nil
	}
	w := &waiter{make(chan offer, 1)}
	if l.plain {
		p.waiting = slices.Insert(p.waiting, 0, w)
	} else {
		p.waiting = append(p.waiting, w)
	}
	p.dial()
	p.mu.Unlock()
	began := time.Now()
	var o offer
	select {
	case o = <-w.got:
	case <-ctx.Done():
		o = p.leave(w, ctx.Err())
	}
	p.mu.Lock()
	p.waited += time.Since(began)
	p.mu.Unlock()
	return o.session, o.err
}

// rested takes an idle session, if there is one. It prefers one that last served the same pool, because that has
// prepared its statements. The caller holds the lock.
func (p *sessions) rested(l *lending) *session {
	i := len(p.idle) - 1
	for i > 0 && p.idle[i].lent != l {
		i--
	}
	switch {
	case i < 0:
		return nil
	case p.idle[i].lent != l:
		i = len(p.idle) - 1
	}
	s := p.idle[i]
	p.idle = slices.Delete(p.idle, i, i+1)
	return s
}

// leave ends a wait. It still takes a session that was offered in the meantime.
func (p *sessions) leave(w *waiter, cause error) offer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		if p.open > 0 || time.Now().Before(p.scarceTill) {
			return offer{err: errAllInUse}
		}
		return offer{err: fmt.Errorf("%w: %w", errNoSession, cause)}
	}
	return <-w.got
}

// dial opens as many sessions as there are waiters and room for. The caller holds the lock.
func (p *sessions) dial() {
	now := time.Now()
	full := len(p.waiting) > p.dialing && p.open+p.dialing >= p.room
	if full && p.room < p.most && now.After(p.growAt) {
		p.growAt = now.Add(growAfter)
		p.room++
	}
	p.dialFor(len(p.waiting))
}

// dialAhead opens spare sessions, as many as are in use, if more than one is. When PostgreSQL slows down, many sessions
// are needed at once, and opening them then takes the longest. The caller holds the lock.
func (p *sessions) dialAhead() {
	used := p.open - len(p.idle)
	if spare := used - len(p.idle); spare > 0 && used > 1 && !p.scarce() && time.Now().After(p.aheadAt) {
		p.dialFor(len(p.waiting) + spare)
	}
}

// dialFor opens sessions, as far as there is room, until n are being opened. The caller holds the lock.
func (p *sessions) dialFor(n int) {
	for p.dialing < n && p.open+p.dialing < p.room && !p.closed {
		p.dialing++
		go p.dialOne(p.generation)
	}
}

func (p *sessions) dialOne(generation int) {
	s, err := p.hosts.connect()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing--
	if err != nil {
		p.aheadAt = time.Now().Add(growAfter)
	}
	switch {
	case err == nil:
		p.open++
		s.generation = generation
		p.put(s)
	case p.tooMany(err) && len(p.waiting) == 0: // nobody waits for one
	case p.tooMany(err):
		p.shrink()
	default:
		p.offer(offer{err: err})
		p.dial()
	}
}

// tooMany reports whether the error means that there are too many connections, so that waiting for an existing session
// helps. PgBouncer has one code for everything that it refuses, and lets clients wait when it has no connection left:
// where other sessions work, both count as too many. The caller holds the lock.
func (p *sessions) tooMany(err error) bool {
	code, ok := postgresCode(err)
	var network net.Error
	switch {
	case ok && code == "53300":
		return true
	case ok && code == "08P01":
		return p.open > 0
	}
	return p.open > 0 && errors.As(err, &network) && network.Timeout()
}

// shrink makes do with the existing sessions. The caller holds the lock.
func (p *sessions) shrink() {
	now := time.Now()
	p.room = max(1, p.open)
	p.scarceTill = now.Add(scarceFor)
	p.growAt = now.Add(growAfter)
	p.sweepSooner()
	if p.listener != nil {
		p.listener.Close()
	}
	if p.open == 0 {
		time.AfterFunc(redialAfter+mathrand.N(redialAfter), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.dial()
		})
	}
}

// scarce reports whether other processes may need the connections of this one. The caller holds the lock.
func (p *sessions) scarce() bool { return p.small || time.Now().Before(p.scarceTill) }

// offer gives o to the longest waiter, if there is one. The caller holds the lock.
func (p *sessions) offer(o offer) bool {
	if len(p.waiting) == 0 {
		return false
	}
	p.waiting[0].got <- o
	p.waiting = p.waiting[1:]
	return true
}

// put hands a session on, or keeps it idle. The caller holds the lock.
func (p *sessions) put(s *session) {
	now := time.Now()
	others := now.Before(p.scarceTill) || 2*p.open >= p.allowed && p.small
	handOver := others && p.open > 1 && now.After(p.handOverAt)
	switch {
	case p.closed, s.generation != p.generation, handOver:
		if handOver {
			p.room = max(1, p.open-1)
			p.handOverAt = now.Add(handOverAfter + mathrand.N(handOverAfter))
			p.growAt = now.Add(growAfter)
		}
		p.drop(s)
	case p.offer(offer{session: s}):
	default:
		s.rested = now
		p.idle = append(p.idle, s)
		p.sweepLater()
	}
}

// abandoned reports whether a session is broken only because its user stopped waiting: the network is fine.
func (s *session) abandoned() bool {
	return s.latest != nil && s.latest.Err() != nil && !s.wire.failed.Load()
}

// release takes a session back. A broken one makes the idle ones suspect, since PostgreSQL may have restarted. An
// abandoned one does not.
func (p *sessions) release(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.IsValid():
		p.put(s)
		return
	case !s.abandoned():
		for _, other := range p.idle {
			p.drop(other)
		}
		p.idle = nil
	}
	p.drop(s)
}

// drop closes a session, in a goroutine because that writes to the network. The caller holds the lock.
func (p *sessions) drop(s *session) {
	p.open--
	go s.connection.Close()
	p.dial()
}

func (p *sessions) rest() time.Duration {
	if p.scarce() {
		return scarceRest
	}
	return sessionRest
}

// sweepLater schedules sweep. The caller holds the lock.
func (p *sessions) sweepLater() {
	if p.sweeper == nil {
		p.sweeper = time.AfterFunc(p.rest(), p.sweep)
	}
}

// sweepSooner brings sweep forward when sessions become scarce. The caller holds the lock.
func (p *sessions) sweepSooner() {
	if p.sweeper != nil {
		p.sweeper.Reset(p.rest())
	}
}

// sweep closes the sessions that have been idle for too long.
func (p *sessions) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeper = nil
	limit := time.Now().Add(-p.rest())
	n := 0
	for n < len(p.idle) && !p.idle[n].rested.After(limit) {
		p.drop(p.idle[n])
		n++
	}
	p.idle = slices.Delete(p.idle, 0, n)
	if len(p.idle) > 0 {
		p.sweepLater()
	}
}

// renew closes every session, those in use on their return.
func (p *sessions) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	for _, s := range p.idle {
		p.drop(s)
	}
	p.idle = nil
}

// limit sets how many connections all processes together may have. This process uses half of them, to leave some for
// others.
func (p *sessions) limit(all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := max(min(all, 2), (all+1)/2)
	if most < p.most {
		p.most, p.small, p.allowed = most, true, all
		p.room = min(p.room, most)
		p.sweepSooner()
	}
}

// close closes all sessions, those in use on their return.
func (p *sessions) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, s := range p.idle {
		p.drop(s)
	}
	p.idle = nil
	for p.offer(offer{err: errors.New("the database is closed")}) {
	}
	if p.listener != nil {
		p.listener.Close()
	}
}

// atLeast reports whether n sessions are allowed.
func (p *sessions) atLeast(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most >= n
}

func (p *sessions) stats() (open, inUse, room int, waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.open - len(p.idle), p.room, p.waited
}

// lending is the connector of one pool. Its connections are leased sessions.
type lending struct {
	sessions *sessions
	patience time.Duration
	plain    bool // for upkeep and reports: unprepared statements that end with their context, and priority
}

// Connect implements [driver.Connector].
func (l *lending) Connect(ctx context.Context) (driver.Conn, error) {
	s, err := l.sessions.lease(ctx, l)
	if err != nil {
		return nil, connectFault(err, l.sessions.hosts.opened)
	}
	s.wire.patience.Store(int64(l.patience))
	s.plain, s.lent, s.latest = l.plain, l, nil
	s.unreplicated.Store(false)
	return &leased{preparedConn: s.preparedConn, session: s, sessions: l.sessions}, nil
}

// Driver implements [driver.Connector].
func (l *lending) Driver() driver.Driver { return l.sessions.hosts.servers[0].connector.Driver() }

// leased is a session that a pool has leased.
type leased struct {
	*preparedConn
	session  *session
	sessions *sessions
	once     sync.Once
}

// Close implements [driver.Conn]: it returns the session.
func (l *leased) Close() error {
	l.once.Do(func() { l.sessions.release(l.session) })
	return nil
}
