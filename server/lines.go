package server

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	logDelay   = 50 * time.Millisecond  // delay of a line, to write several at once
	logFlush   = 32 << 10               // buffered bytes that are written without delay
	logBuffer  = 1 << 20                // limit of buffered bytes; lines above it are dropped
	logTimeout = 500 * time.Millisecond // limit of Flush and Close
)

// Lines is a writer of lines that never blocks its callers, even if a pipe has no reader. Callers append to a bounded
// buffer, which one goroutine writes. A line that does not fit or fails is dropped and counted. Call Close at the end.
type Lines struct {
	to      io.Writer
	delay   time.Duration            // 0: write each line at once
	notice  func(lines int64) []byte // makes the line that reports dropped lines; nil: no such line
	some    chan struct{}            // signals that the buffer is not empty
	urgent  chan struct{}            // signals to write without delay
	flushes chan chan struct{}       // each channel is closed when all earlier lines are written
	closing chan struct{}
	close   func()
	done    chan struct{} // closed when the goroutine has ended
	dropped atomic.Int64

	mu          sync.Mutex
	held, spare []byte
	overflow    int64 // number of lines that did not fit after held

	lost   int64 // number of failed lines that no notice has reported; only the goroutine uses it
	broken bool  // the last write ended inside a line; only the goroutine uses it
}

// NewLines returns Lines that write to w. Unless w is a terminal, it delays lines a moment to write many with one
// system call.
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

// Write implements [io.Writer]. It never blocks and never fails.
func (l *Lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	before := len(l.held)
	room := l.overflow == 0 && before+len(line) <= logBuffer // after a dropped line, drop all until the next write
	fits := before == 0 || room
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

// hurry makes the goroutine write without delay.
func (l *Lines) hurry() { signal(l.urgent) }

// signal sends to c without blocking.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Dropped returns the number of dropped lines.
func (l *Lines) Dropped() int64 { return l.dropped.Load() }

// Flush waits until all lines are written, or for logTimeout.
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

// Close flushes, and ends the goroutine as soon as a blocked write returns.
func (l *Lines) Close() {
	l.Flush()
	l.close()
}

// run writes the buffer until Close.
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

// write writes the buffer, and notices of dropped lines before and after it.
func (l *Lines) write() {
	held, overflow := l.take()
	if len(held) == 0 {
		return
	}
	before := l.noticeOf(l.lost)
	if l.broken {
		before = append([]byte{'\n'}, before...)
	}
	chunk := held
	if len(before) > 0 {
		chunk = append(before, held...)
	}
	if overflow > 0 {
		chunk = append(chunk, l.noticeOf(overflow)...)
	}
	n, err := l.to.Write(chunk)
	l.account(chunk, max(0, n), len(before), len(held), overflow, err)
	if cap(held) <= 4*logFlush { // do not keep a large buffer
		l.spare = held
	}
}

// take returns the buffered lines and empties the buffer.
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

// account counts the lost lines of a chunk, which has a notice, the held lines and a notice of the overflow.
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

// noticeOf returns the line that reports dropped lines.
func (l *Lines) noticeOf(lines int64) []byte {
	if lines == 0 || l.notice == nil {
		return nil
	}
	return l.notice(lines)
}
