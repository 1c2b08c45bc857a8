package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever asks while a batch is under way joins the next, all of them one batch, and gets the answer to its own
// question.
func TestCoalescerJoinsTheNextBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches [][]int
		c := &Coalescer[int, int]{ask: func(keys []int) ([]int, error) {
			batches = append(batches, slices.Clone(keys))
			time.Sleep(time.Millisecond)
			var values []int
			for _, k := range keys {
				values = append(values, 10*k)
			}
			return values, nil
		}}
		var all sync.WaitGroup
		ask := func(k int) {
			all.Go(func() {
				if v, err := c.Ask(t.Context(), k); v != 10*k || err != nil {
					t.Errorf("%d: %d, %v", k, v, err)
				}
			})
		}
		ask(1)
		synctest.Wait()
		for k := range 3 * MaxBatch / 2 {
			ask(k + 2)
		}
		all.Wait()
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(batches) != 3 || len(batches[0]) != 1 || len(batches[1]) != MaxBatch || len(batches[2]) != MaxBatch/2 {
			t.Errorf("%v", batches)
		}
		if c.flying != 0 || len(c.waiting) != 0 {
			t.Errorf("%d under way, %d waiting", c.flying, len(c.waiting))
		}
	})
}

// What waits behind a batch that is slow is asked after a while, and whoever goes away waits no longer.
func TestCoalescerDoesNotWaitForTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Coalescer[string, bool]{ask: func(keys []string) ([]bool, error) {
			if keys[0] == "slow" {
				time.Sleep(time.Second)
				return nil, errors.New("too slow")
			}
			return make([]bool, len(keys)), nil
		}}
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := c.Ask(t.Context(), "slow"); err == nil || err.Error() != "too slow" {
				t.Error(err)
			}
		})
		synctest.Wait()
		began := time.Now()
		if _, err := c.Ask(t.Context(), "quick"); err != nil || time.Since(began) != slowFlight {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Ask(impatient, "gone"); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		all.Wait()
	})
}

// A patient caller leaves while its question waits, but not after it was sent.
func TestPatientCoalescer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		c := NewPatientCoalescer(func(keys []string) ([]bool, error) {
			asked = append(asked, keys...)
			time.Sleep(time.Second)
			return make([]bool, len(keys)), nil
		})
		var all sync.WaitGroup
		for _, name := range []string{"first", "second"} { // as many as are under way at once
			all.Go(func() {
				hurried, cancel := context.WithTimeout(t.Context(), 2*slowFlight)
				defer cancel()
				if _, err := c.Ask(hurried, name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
			synctest.Wait()
		}
		time.Sleep(3 * slowFlight)
		hurried, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Ask(hurried, "third"); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
		all.Wait()
		synctest.Wait()
		if !slices.Equal(asked, []string{"first", "second"}) {
			t.Errorf("asked %v", asked)
		}
	})
}

// A database that was slow for a while is asked again by whoever comes then, and found quick.
func TestCoalescerRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience = time.Second
		var slow atomic.Bool
		slow.Store(true)
		c := &Coalescer[int, int]{ask: func(keys []int) ([]int, error) {
			if slow.Load() {
				time.Sleep(5 * patience)
			}
			return keys, nil
		}}
		one := func() error {
			hurried, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := c.Ask(hurried, 7)
			return err
		}
		for range 3 {
			if one() == nil {
				t.Error("answered by a database that is slow")
			}
			time.Sleep(10 * patience)
		}
		slow.Store(false)
		for range 3 {
			if err := one(); err != nil {
				t.Errorf("by a database that is quick again: %v", err)
			}
		}
	})
}

// A panic is an error of those who asked, and of nobody else.
func TestCoalescerSurvivesAPanic(t *testing.T) {
	c := &Coalescer[int, int]{ask: func(keys []int) ([]int, error) {
		if keys[0] == 0 {
			panic("a canary")
		}
		return keys, nil
	}}
	if _, err := c.Ask(t.Context(), 0); err == nil || strings.Contains(err.Error(), "a canary") {
		t.Error(err)
	}
	if v, err := c.Ask(t.Context(), 7); v != 7 || err != nil {
		t.Error(v, err)
	}
}

// At twice what it can do, a Coalescer answers about as many as it can. Those who have gone, or would be gone by the
// time, are not asked.
func TestCoalescerDropsTheAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flight, patience = 100 * time.Millisecond, time.Second
		var asked atomic.Int64
		answered := 0
		c := &Coalescer[int, int]{ask: func(keys []int) ([]int, error) {
			asked.Add(int64(len(keys)))
			time.Sleep(flight)
			return keys, nil
		}}
		var mu sync.Mutex
		var all sync.WaitGroup
		const waves, wave = 50, 2 * maxFlight * MaxBatch
		for range waves {
			for k := range wave {
				all.Go(func() {
					hurried, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if k%4 == 0 {
						time.AfterFunc(flight/2, cancel)
					}
					_, err := c.Ask(hurried, k)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						answered++
					} else if !errors.Is(err, ErrUnavailable) {
						t.Error(err)
					}
				})
			}
			time.Sleep(flight)
		}
		all.Wait()
		synctest.Wait()
		if can := waves * maxFlight * MaxBatch; answered < can*9/10 {
			t.Errorf("%d of %d were answered, it could answer %d", answered, waves*wave, can)
		}
		if asked, wasted := int(asked.Load()), int(asked.Load())-answered; wasted > asked/10 {
			t.Errorf("%d of %d were asked for nobody", wasted, asked)
		}
	})
}
