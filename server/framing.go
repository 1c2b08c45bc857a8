package server

import (
	"bytes"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/keyturn/keyturn/api"
)

// misframed is the answer to a request whose end a proxy in front may see elsewhere than net/http does.
var misframed = failWith(http.StatusBadRequest, api.InvalidRequest,
	"the length of the request is ambiguous: send Content-Length or Transfer-Encoding")

// framing follows the bytes that a client sends from request to request, and finds the request whose head has
// Transfer-Encoding together with Content-Length or HTTP/1.0 (RFC 9112 §6.1), or a line that continues the one before
// (§5.2). net/http accepts all of these and hides the headers from handlers. Whatever else is wrong with a request,
// net/http refuses it.
type framing struct {
	reads   framed
	skip    int64  // bytes of a body or a chunk that are still to come
	begun   []byte // the beginning of a line whose end has not been read
	heads   int64  // that have ended
	head    head
	faulty  atomic.Int64 // which head it was, from 1; 0: none yet
	handled int64        // requests that handlers have been given; of the goroutine of the connection alone
}

// framed is what the next bytes belong to.
type framed int

const (
	framedHead framed = iota
	framedBody
	framedSize    // of a chunk
	framedChunk   //
	framedEnd     // of a chunk
	framedTrailer // after the last chunk
	framedLost    // nothing follows that will be a request
)

// head is what the lines of a head have said so far.
type head struct {
	begun          bool // the request line was read
	old            bool // it is HTTP/1.0
	sized, chunked bool // Content-Length, Transfer-Encoding
	continues      bool // a line continues another
	length         int64
}

// maxBegun is more than net/http takes for a head.
const maxBegun = 2 * maxHeader

// follow takes the bytes that were read.
func (f *framing) follow(p []byte) {
	for len(p) > 0 && f.reads != framedLost {
		if f.reads == framedBody || f.reads == framedChunk {
			p = f.pass(p)
			continue
		}
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			f.keep(p)
			return
		}
		line := p[:end]
		if len(f.begun) > 0 {
			line = append(f.begun, line...)
			f.begun = nil
		}
		p = p[end+1:]
		f.line(bytes.TrimSuffix(line, []byte{'\r'}))
	}
}

func (f *framing) keep(p []byte) {
	if len(f.begun)+len(p) > maxBegun {
		f.reads, f.begun = framedLost, nil
		return
	}
	f.begun = append(f.begun, p...)
}

// pass skips bytes of a body or a chunk.
func (f *framing) pass(p []byte) []byte {
	n := min(int64(len(p)), f.skip)
	if f.skip -= n; f.skip == 0 {
		if f.reads == framedBody {
			f.reads = framedHead
		} else {
			f.reads = framedEnd
		}
	}
	return p[n:]
}

func (f *framing) line(line []byte) {
	switch f.reads {
	case framedHead:
		if len(line) > 0 {
			f.head.line(line)
			return
		}
		f.endHead()
	case framedSize:
		f.size(line)
	case framedEnd:
		f.reads = framedSize
	case framedTrailer:
		if len(line) == 0 {
			f.reads = framedHead
		}
	}
}

func (h *head) line(line []byte) {
	switch {
	case !h.begun:
		h.begun, h.old = true, bytes.HasSuffix(line, []byte("HTTP/1.0"))
	case line[0] == ' ', line[0] == '\t':
		h.continues = true
	case line[0]|0x20 == 'c' && isNamed(line, "Content-Length"):
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line[len("Content-Length:"):])), 10, 64)
		if err != nil {
			n = 0 // net/http refuses it
		}
		h.sized, h.length = true, n
	case line[0]|0x20 == 't' && isNamed(line, "Transfer-Encoding"):
		h.chunked = true
	}
}

// isNamed reports whether a header line has that name. net/http refuses a name with a space before the colon.
func isNamed(line []byte, name string) bool {
	return len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name))
}

func (f *framing) endHead() {
	h := f.head
	f.head = head{}
	f.heads++
	switch {
	case h.continues, h.chunked && (h.sized || h.old):
		f.faulty.Store(f.heads)
		f.reads = framedLost
	case h.chunked:
		f.reads = framedSize
	case h.length > 0:
		f.reads, f.skip = framedBody, h.length
	}
}

// size reads the line before a chunk (RFC 9112 §7.1).
func (f *framing) size(line []byte) {
	digits, _, _ := bytes.Cut(line, []byte{';'})
	n, err := strconv.ParseInt(string(bytes.TrimSpace(digits)), 16, 64)
	switch {
	case err != nil, n < 0:
		f.reads = framedLost // net/http refuses it
	case n == 0:
		f.reads = framedTrailer
	default:
		f.reads, f.skip = framedChunk, n
	}
}

// isMisframed reports whether the length of a request is ambiguous. It must be asked once for each request of a
// connection.
func isMisframed(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return false
	}
	c.framing.handled++
	return c.framing.faulty.Load() == c.framing.handled
}
