package server

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	logDelay   = 50 * time.Millisecond  // how long a line may wait for others
	logFlush   = 32 << 10               // bytes that do not wait
	logBuffer  = 1 << 20                // bytes that wait for a slow reader; what comes after them is dropped
	logTimeout = 500 * time.Millisecond // how long Flush and Close wait for a slow reader
)

// Lines writes lines without waiting for their reader: callers put lines into a bounded buffer, and one goroutine
// writes the buffer. A line that does not fit, or that the writer refuses, is dropped and counted. Close must follow.
type Lines struct {
	to      io.Writer
	delay   time.Duration            // 0: each line is written at once
	notice  func(lines int64) []byte // the line that tells how many lines were dropped; nil: none
	some    chan struct{}            // the buffer is no longer empty
	urgent  chan struct{}            // do not wait for more lines
	flushes chan chan struct{}       // each is closed when everything before it is written
	closing chan struct{}
	close   func()
	done    chan struct{} // the goroutine has ended
	dropped atomic.Int64

	mu          sync.Mutex
	held, spare []byte
	overflow    int64 // lines that did not fit behind held

	lost   int64 // lines that the writer refused and that no notice has told of; of the goroutine alone
	broken bool  // the last write ended inside a line; of the goroutine alone
}

// NewLines writes lines to w. Unless w is a terminal, a line waits a moment for others, so that a line does not cost a
// system call of its own.
func NewLines(w io.Writer, terminal bool) *Lines {
	l := &Lines{
		to:      w,
		delay:   logDelay,
		some:    make(chan struct{}, 1),
		urgent:  make(chan struct{}, 1),
		flushes: make(chan chan struct{}),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	if terminal {
		l.delay = 0
	}
	l.close = sync.OnceFunc(func() { close(l.closing) })
	go l.run()
	return l
}

// Write implements [io.Writer]. It never waits for the writer, and never fails.
func (l *Lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	before := len(l.held)
	fits := before == 0 || l.overflow == 0 && before+len(line) <= logBuffer // nothing overtakes a dropped line
	if fits {
		l.held = append(l.held, line...)
	} else {
		l.overflow++
	}
	l.mu.Unlock()
	switch {
	case !fits:
		l.dropped.Add(1)
	case before == 0:
		signal(l.some)
	case before < logFlush && before+len(line) >= logFlush:
		signal(l.urgent)
	}
	return len(line), nil
}

// hurry has the goroutine write what is held at once.
func (l *Lines) hurry() { signal(l.urgent) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Dropped is how many lines were dropped.
func (l *Lines) Dropped() int64 { return l.dropped.Load() }

// Flush waits until everything is written, but not for long.
func (l *Lines) Flush() {
	written, timeout := make(chan struct{}), time.NewTimer(logTimeout)
	defer timeout.Stop()
	select {
	case l.flushes <- written:
	case <-l.done:
		return
	case <-timeout.C:
		return
	}
	select {
	case <-written:
	case <-timeout.C:
	}
}

// Close is Flush, and ends the goroutine as soon as its writer lets it.
func (l *Lines) Close() {
	l.Flush()
	l.close()
}

// run writes what is held, until Close.
func (l *Lines) run() {
	defer close(l.done)
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-l.some:
		case written := <-l.flushes:
			l.write()
			close(written)
			continue
		case <-l.closing:
			return
		}
		wait.Reset(l.delay)
		select {
		case <-wait.C:
			l.write()
		case <-l.urgent:
			l.write()
		case written := <-l.flushes:
			l.write()
			close(written)
		case <-l.closing:
			return
		}
	}
}

// write writes what is held, between notices of what was dropped before and after it.
func (l *Lines) write() {
	held, overflow := l.take()
	if len(held) == 0 {
		return
	}
	before := l.tell(l.lost)
	if l.broken {
		before = append([]byte{'\n'}, before...)
	}
	chunk := held
	if len(before) > 0 {
		chunk = append(before, held...)
	}
	if overflow > 0 {
		chunk = append(chunk, l.tell(overflow)...)
	}
	n, err := l.to.Write(chunk)
	l.account(chunk, max(0, n), len(before), len(held), overflow, err)
	if cap(held) <= 4*logFlush { // a buffer that has grown is let go
		l.spare = held
	}
}

// take empties the buffer.
func (l *Lines) take() (held []byte, overflow int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) == 0 {
		return nil, 0
	}
	held, overflow = l.held, l.overflow
	l.held, l.spare, l.overflow = l.spare[:0], nil, 0
	return held, overflow
}

// account counts what was lost of a chunk: a notice, the lines held, a notice of overflow.
func (l *Lines) account(chunk []byte, n, before, held int, overflow int64, err error) {
	if n >= before {
		l.lost = 0
	}
	if err == nil {
		l.broken = false
		return
	}
	if n > 0 {
		l.broken = chunk[n-1] != '\n'
	}
	refused := int64(bytes.Count(chunk[min(max(n, before), before+held):before+held], []byte{'\n'}))
	l.dropped.Add(refused)
	l.lost += refused + overflow
}

// tell is the notice of dropped lines.
func (l *Lines) tell(lines int64) []byte {
	if lines == 0 || l.notice == nil {
		return nil
	}
	return l.notice(lines)
}
