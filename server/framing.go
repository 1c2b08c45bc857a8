package server

import (
	"bytes"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/keyturn/keyturn/api"
)

// misframed is the answer to a request whose end a proxy and net/http may place differently: request smuggling.
var misframed = failWith(http.StatusBadRequest, api.InvalidRequest,
	"the length of the request is ambiguous: send Content-Length or Transfer-Encoding")

// framing parses the bytes of a connection to find requests with an ambiguous length. Such a request has
// Transfer-Encoding together with Content-Length or HTTP/1.0 (RFC 9112 §6.1), or a folded header line (§5.2).
// net/http accepts these and hides the headers from handlers. It refuses all other malformed requests itself.
type framing struct {
	reads   framed
	skip    int64  // bytes left of a body or a chunk
	begun   []byte // the start of an incomplete line
	heads   int64  // number of complete heads
	head    head
	faulty  atomic.Int64 // number of the ambiguous head, from 1; 0: none yet
	handled int64        // number of handled requests; only the goroutine of the connection uses it
}

// framed is the part of a request that comes next.
type framed int

const (
	framedHead framed = iota
	framedBody
	framedSize    // the line with the size of a chunk
	framedChunk   // the data of a chunk
	framedEnd     // the line end after a chunk
	framedTrailer // the trailer section
	framedLost    // no further request follows
)

// head holds the facts of a request head, as far as it was read.
type head struct {
	begun          bool // has a request line
	old            bool // is HTTP/1.0
	sized, chunked bool // has Content-Length, has Transfer-Encoding
	continues      bool // has a folded line
	length         int64
}

// maxBegun is larger than the largest head that net/http accepts.
const maxBegun = 2 * maxHeader

// follow parses the bytes that were read from the connection.
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

// keep stores the start of an incomplete line.
func (f *framing) keep(p []byte) {
	if len(f.begun)+len(p) > maxBegun {
		f.reads, f.begun = framedLost, nil
		return
	}
	f.begun = append(f.begun, p...)
}

// pass skips the bytes of a body or a chunk, and returns the rest.
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

// line parses a line of the current part.
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

// line parses a line of a head.
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

// isNamed reports whether a header line has the given name. net/http refuses a space before the colon.
func isNamed(line []byte, name string) bool {
	return len(line) > len(name) &&
		line[len(name)] == ':' &&
		bytes.EqualFold(line[:len(name)], []byte(name))
}

// endHead decides what follows a head, and whether its length is ambiguous.
func (f *framing) endHead() {
	h := f.head
	f.head = head{}
	f.heads++
	switch {
	case h.continues, // RFC 9112 §5.2
		h.chunked && h.sized, // RFC 9112 §6.1
		h.chunked && h.old:
		f.faulty.Store(f.heads)
		f.reads = framedLost
	case h.chunked:
		f.reads = framedSize
	case h.length > 0:
		f.reads, f.skip = framedBody, h.length
	}
}

// size parses the size line of a chunk (RFC 9112 §7.1).
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

// isMisframed reports whether the length of a request is ambiguous. Call it exactly once for each request, because it
// counts them.
func isMisframed(r *http.Request) bool {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return false
	}
	c.framing.handled++
	return c.framing.faulty.Load() == c.framing.handled
}
