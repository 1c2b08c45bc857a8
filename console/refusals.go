package console

import (
	"context"
	"sync"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// refusals bounds the audit records of refused requests, for each administrator and for each kind of refusal of
// strangers: nobody hides the refusals of others.
type refusals struct {
	mu      sync.Mutex
	budgets map[string]*budget
}

// budget is what one cause of refusals has used in an hour.
type budget struct {
	hour   time.Time
	listed int
	more   int64         // refusals without a record
	last   admin.Refused // of those
}

// maxRefusals is how many refused requests of one cause and hour get an audit record of their own.
const maxRefusals = 100

// note reports whether to write a record, and how many were left out before it.
func (l *refusals) note(cause string, r admin.Refused, now time.Time) (more int64, write bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.budgets == nil {
		l.budgets = map[string]*budget{}
	}
	b := l.budgets[cause]
	if b == nil {
		b = &budget{}
		l.budgets[cause] = b
	}
	if hour := now.Truncate(time.Hour); !hour.Equal(b.hour) {
		b.hour, b.listed = hour, 0
	}
	if b.listed == maxRefusals {
		b.more++
		b.last = r
		return 0, false
	}
	b.listed++
	more, b.more = b.more, 0
	return more, true
}

// over returns the refusals of past hours that have no record, one for each cause, and forgets the causes.
func (l *refusals) over(now time.Time) (left []admin.Refused) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for cause, b := range l.budgets {
		if b.hour.Equal(now.Truncate(time.Hour)) {
			continue
		}
		delete(l.budgets, cause)
		if b.more > 0 {
			b.last.More = b.more - 1 // before this one
			left = append(left, b.last)
		}
	}
	return left
}

// auditTimeout bounds the audit record of a refusal.
const auditTimeout = 2 * time.Second

// noteRefusal writes the audit record of a refused request.
func (c *Console) noteRefusal(k *call, p *Problem) {
	r := admin.Refused{
		Name:    k.who.name,
		Way:     k.who.way,
		Address: k.address(),
		What:    k.r.Method + " " + k.route.path,
		Why:     p.name,
	}
	cause := "kind " + p.name
	if r.Name != "" {
		cause = "name " + r.Name
	}
	more, write := c.refusals.note(cause, r, c.Now())
	if r.More = more; write {
		c.auditRefusal(k.r.Context(), r)
	}
}

func (c *Console) auditRefusal(ctx context.Context, r admin.Refused) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if err := c.Admin(admin.Options{Now: c.Now}).SignIns().NoteRefusal(ctx, r); err != nil {
		c.Log.Error("a refused request could not be audited", "error", err.Error())
	}
}
