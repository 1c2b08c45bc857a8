package storage_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Fetches that several servers write in any order add up to the same row.
func TestFetchesAddUp(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		handle := 0
		rapid.Check(t, func(r *rapid.T) {
			handle++
			v := storage.Verifier{
				Name:      fmt.Sprint("v", handle),
				Handle:    fmt.Sprintf("%016d", handle),
				CreatedAt: storage.At(noon),
			}
			if err := db.Verifiers().Create(ctx, admin, v); err != nil {
				r.Fatal(err)
			}
			var events []storage.Fetch
			version := int64(1)
			for i := range rapid.IntRange(1, 8).Draw(r, "fetches") {
				version += int64(rapid.IntRange(0, 1).Draw(r, "change"))
				at := storage.At(noon.Add(time.Duration(i) * time.Minute))
				newest := fmt.Sprint("key", version/2) // not each version has a new key
				signer := fmt.Sprint("key", version/3)
				events = append(events, storage.Fetch{
					FetchKey: storage.FetchKey{Handle: v.Handle, Source: "192.0.2.1"},
					Version:  version,
					KIDs:     storage.List{newest, "old"},
					Newest:   newest,
					GotAt:    at,
					GotCount: 1,
					Signer:   signer,
					BackAt:   at,
					FirstAt:  at,
					LastAt:   at,
					Times:    storage.FetchTimes{at},
					Count:    1,
				})
			}
			want := addedUp(events)
			for _, event := range rapid.Permutation(events).Draw(r, "order") {
				if err := db.Fetches().Add(ctx, []storage.Fetch{event}); err != nil {
					r.Fatal(err)
				}
			}
			rows, err := db.Fetches().Named(ctx)
			if err != nil {
				r.Fatal(err)
			}
			got := rows[slices.IndexFunc(rows, func(f storage.Fetch) bool { return f.Handle == v.Handle })]
			if fmt.Sprint(got) != fmt.Sprint(want) {
				r.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	})
}

// addedUp returns the row of events that are in order.
func addedUp(events []storage.Fetch) storage.Fetch {
	row := events[len(events)-1]
	row.GotCount, row.Count, row.Times = 0, int64(len(events)), nil
	row.FirstAt = events[0].FirstAt
	for _, e := range slices.Backward(events) {
		if e.Newest == row.Newest {
			row.GotAt = e.GotAt
			row.GotCount++
		}
		if e.Signer == row.Signer {
			row.BackAt = e.BackAt
		}
		if len(row.Times) < storage.MaxFetchTimes {
			row.Times = append(row.Times, e.LastAt)
		}
	}
	return row
}

// Old fetches go after 30 days, except the last one of a registered verifier, and too many go at once.
func TestCleanFetches(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, databaseURL string) {
		db := storagetest.MustOpen(t, databaseURL)
		v := storage.Verifier{Name: "orders", Handle: storage.NewHandle(), CreatedAt: storage.At(noon)}
		if err := db.Verifiers().Create(ctx, admin, v); err != nil {
			t.Fatal(err)
		}
		if err := db.Verifiers().Create(ctx, admin, v); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("a name twice: %v", err)
		}
		add := func(handle, source string, at time.Time) {
			t.Helper()
			if err := db.Fetches().Add(ctx, []storage.Fetch{{
				FetchKey: storage.FetchKey{Handle: handle, Source: source},
				FirstAt:  storage.At(at),
				LastAt:   storage.At(at),
				Times:    storage.FetchTimes{storage.At(at)},
				Count:    1,
			}}); err != nil {
				t.Fatal(err)
			}
		}
		add(v.Handle, "oldest", noon.Add(-40*24*time.Hour))
		add(v.Handle, "last", noon.Add(-35*24*time.Hour))
		add("aaaaaaaaaaaaaaaa", "of a deleted verifier", noon)
		add("", "old", noon.Add(-31*24*time.Hour))
		add("", "recent", noon.Add(-29*24*time.Hour))
		if _, err := db.Fetches().Clean(ctx, noon.Add(-storage.FetchAge), 100); err != nil {
			t.Fatal(err)
		}
		var left []string
		rows, err := storagetest.Raw(t, databaseURL).Query(`SELECT source FROM jwks_fetches ORDER BY source`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var source string
			if err := rows.Scan(&source); err != nil {
				t.Fatal(err)
			}
			left = append(left, source)
		}
		if !slices.Equal(left, []string{"last", "recent"}) {
			t.Errorf("%v", left)
		}
	})
}

// BenchmarkAddFetches writes as many rows as one statement may have.
func BenchmarkAddFetches(b *testing.B) {
	db := storagetest.MustOpen(b, storagetest.SQLiteURL(b))
	var rows []storage.Fetch
	for i := range storage.MaxFetchRows {
		rows = append(rows, storage.Fetch{
			FetchKey: storage.FetchKey{Source: fmt.Sprint(i)},
			KIDs:     storage.List{"a key", "another key"},
			Times:    storage.FetchTimes{storage.At(noon)},
		})
	}
	for b.Loop() {
		if err := db.Fetches().Add(ctx, rows); err != nil {
			b.Fatal(err)
		}
	}
}
