package verify

// Counters count what a Verifier does. Its methods must be safe for concurrent use, and return at once.
type Counters interface {
	// Accepted counts an accepted token.
	Accepted()
	// Refused counts a refused token or request.
	Refused(Reason)
	// Fetched counts a request to the server.
	Fetched(Document, Outcome)
	// Sampled counts an introspection of an accepted token; active is what the server said.
	Sampled(active bool)
	// SampleDropped counts a token that was chosen for introspection, while too many others waited.
	SampleDropped()
}

// Document is what a Verifier fetches.
type Document string

// The documents.
const (
	Keys       Document = "keys"
	StatusList Document = "status list"
)

// Outcome is how a request to the server ended.
type Outcome string

// The outcomes.
const (
	Changed   Outcome = "changed"   // 200
	Unchanged Outcome = "unchanged" // 304
	Failed    Outcome = "failed"    // anything else, also a document that is refused
)

type uncounted struct{}

func (uncounted) Accepted()                 {}
func (uncounted) Refused(Reason)            {}
func (uncounted) Fetched(Document, Outcome) {}
func (uncounted) Sampled(bool)              {}
func (uncounted) SampleDropped()            {}
