package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

var ctx = context.Background()

// fill takes every slot.
func fill(t *testing.T, q *Queue) (release []func()) {
	t.Helper()
	for range q.slots {
		r, err := q.Acquire(ctx, "filler", 0)
		if err != nil {
			t.Fatal(err)
		}
		release = append(release, r)
	}
	return release
}

// waitFor blocks until that many callers wait.
func waitFor(t *testing.T, q *Queue, waiting int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); q.Load().Waiting != waiting; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d wait, want %d", q.Load().Waiting, waiting)
		}
	}
}

// A party with many callers delays only itself: the caller of another party is second in turn.
func TestLinesTakeTurns(t *testing.T) {
	q := New(1, time.Millisecond)
	release := fill(t, q)
	var order []string
	var all sync.WaitGroup
	for i, party := range []string{"many", "many", "many", "many", "one"} {
		all.Go(func() {
			r, err := q.Acquire(ctx, party, time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, party)
			r()
		})
		waitFor(t, q, i+1)
	}
	release[0]()
	all.Wait()
	if want := []string{"many", "one", "many", "many", "many"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
	if l := q.Load(); l.Running != 0 || l.Waiting != 0 || len(q.lines) != 0 || len(q.turn) != 0 {
		t.Errorf("something is left: %+v %d %d", l, len(q.lines), len(q.turn))
	}
}

// The queue refuses a caller that it could not serve in time at once, with a time to retry. It still admits callers of
// another party.
func TestRefusesWhatItCannotServe(t *testing.T) {
	q := New(2, time.Second)
	release := fill(t, q)
	waiting, leave := context.WithCancel(ctx)
	var all sync.WaitGroup
	for i := range 9 { // each is predicted to wait half a second longer than the last
		all.Go(func() {
			if _, err := q.Acquire(waiting, "many", time.Hour); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		waitFor(t, q, i+1)
	}
	var busy *BusyError
	if _, err := q.Acquire(ctx, "many", 2*time.Second); !errors.As(err, &busy) || busy.RetryAfter != 3*time.Second {
		t.Errorf("%v %+v", err, busy)
	}
	for range 4 { // their retries are spread over time
		q.Acquire(ctx, "many", 2*time.Second)
	}
	if _, err := q.Acquire(ctx, "many", 2*time.Second); !errors.As(err, &busy) || busy.RetryAfter < 5*time.Second {
		t.Errorf("%v %+v", err, busy)
	}
	if wait := q.Predict("one"); wait != time.Second {
		t.Errorf("another party waits %v", wait)
	}
	leave()
	all.Wait()
	waitFor(t, q, 0)
	for _, r := range release {
		r()
		r() // a second release does nothing
	}
	if l := q.Load(); l.Running != 0 || l.Refused != 6 {
		t.Errorf("%+v", l)
	}
}

// A caller whose wait was predicted too short gives up after its patience.
func TestPatienceEnds(t *testing.T) {
	q := New(1, time.Microsecond)
	release := fill(t, q)
	var busy *BusyError
	if _, err := q.Acquire(ctx, "a", 5*time.Millisecond); !errors.As(err, &busy) || busy.RetryAfter < time.Second {
		t.Errorf("%v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := q.Acquire(gone, "a", time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	release[0]()
	r, err := q.Acquire(ctx, "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	r()
}

// At no time do more callers work than there are slots, and at the end nobody works or waits.
func TestNeverMoreThanSlots(t *testing.T) {
	q := New(3, time.Microsecond)
	var mu sync.Mutex
	var all sync.WaitGroup
	working := 0
	for i := range 200 {
		all.Go(func() {
			hurried, cancel := context.WithTimeout(ctx, time.Duration(i%7)*time.Millisecond+time.Microsecond)
			defer cancel()
			r, err := q.Acquire(hurried, string(rune('a'+i%5)), time.Duration(i%11)*time.Millisecond)
			if err != nil {
				return
			}
			mu.Lock()
			if working++; working > 3 {
				t.Error("more than the slots")
			}
			mu.Unlock()
			time.Sleep(time.Duration(i%3) * time.Millisecond)
			mu.Lock()
			working--
			mu.Unlock()
			r()
		})
	}
	all.Wait()
	if l := q.Load(); l.Running != 0 || l.Waiting != 0 || len(q.turn) != 0 {
		t.Errorf("%+v", l)
	}
}
