package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"time"
)

const mib = 1 << 20

// latencies notes the 99th percentiles and their targets.
func (b *bench) latencies() {
	p99 := func(s sample) time.Duration { return s.P99 }
	if slow := b.samples["refresh, sqlite"]; len(slow) > 0 {
		most := medianOf(slow, p99)
		b.note("p99 of a refresh at saturation, sqlite", "250 ms", most < 250*time.Millisecond, "%s ms", ms(most))
	}
	for _, s := range []*site{b.postgres, b.sqlite} {
		alone := b.samples["introspection alone, "+s.name]
		for _, flood := range []string{"refresh", "login"} {
			beside := b.samples["introspection while "+flood+" is saturated, "+s.name]
			if len(alone) > 0 && len(beside) > 0 {
				times := float64(medianOf(beside, p99)) / float64(medianOf(alone, p99))
				what := "p99 of introspection while " + flood + " is saturated against alone, " + s.name
				b.note(what, "3", times <= 3, "%.1f", times)
			}
		}
	}
}

// measureProcess measures the program itself: the size of the binary, the time until it is ready on an existing
// database, and its memory at rest and at the peak.
func (b *bench) measureProcess(ctx context.Context) error {
	info, err := os.Stat(b.o.server)
	if err != nil {
		return err
	}
	b.note("binary", "30 MB", info.Size() <= 30e6, "%.1f MB", float64(info.Size())/1e6)
	for _, s := range []*site{b.postgres, b.sqlite} {
		most, err := memoryOf(s.servers[0].pid(), "VmHWM")
		if err != nil {
			return err
		}
		bound := int64(50+19*runtime.NumCPU()) * mib // one hash in each slot
		b.note(
			"peak memory under load, "+s.name,
			fmt.Sprintf("%d MiB (50 + slots)", bound/mib),
			most <= bound,
			"%d MiB",
			most/mib,
		)
		s.stopTo(0)
		var readies []time.Duration
		for range b.o.starts {
			s.stopTo(0)
			ready, err := b.startTimed(s)
			if err != nil {
				return err
			}
			readies = append(readies, ready)
		}
		ready := median(readies)
		b.note(
			"ready on an existing database, "+s.name,
			"300 ms",
			ready <= 300*time.Millisecond,
			"%d ms",
			ready.Milliseconds(),
		)
		time.Sleep(4 * b.o.slice)
		idle, err := memoryOf(s.servers[0].pid(), "VmRSS")
		if err != nil {
			return err
		}
		b.note("idle memory, "+s.name, "20 MiB", idle <= 20*mib, "%d MiB", idle/mib)
	}
	return b.measureOpenSSL(ctx)
}

// measureOpenSSL notes how fast the best known program signs.
func (b *bench) measureOpenSSL(ctx context.Context) error {
	if !b.o.openssl {
		return nil
	}
	for _, bits := range []int{2048, 3072, 4096} {
		sign, verify, err := openssl(ctx, bits)
		if err != nil {
			return err
		}
		b.note(
			fmt.Sprintf("RSA-%d by OpenSSL, one core", bits),
			"",
			true,
			"%.2f ms a signature, %.3f ms a verification",
			1000/sign,
			1000/verify,
		)
	}
	return nil
}

// startTimed starts a server and returns the time until it was ready.
func (b *bench) startTimed(s *site) (time.Duration, error) {
	began := time.Now()
	if err := s.start(b.o.server); err != nil {
		return 0, err
	}
	for {
		answer, err := http.Get(s.servers[0].base + "/readyz")
		if err != nil {
			return 0, err
		}
		answer.Body.Close()
		if took := time.Since(began); answer.StatusCode == http.StatusOK || took > 10*time.Second {
			return took, nil
		}
		time.Sleep(time.Millisecond)
	}
}

// measureScale compares a database of many grants with one of few, and measures the cost of grants, refreshes, replicas
// and clean-up.
func (b *bench) measureScale(ctx context.Context) error {
	if b.o.grants == 0 {
		return nil
	}
	few, err := b.postgresSite(ctx, "few", b.o.few, 0)
	if err != nil {
		return err
	}
	defer few.stopTo(0)
	if err := b.bloat(few); err != nil {
		return err
	}
	began := time.Now()
	if b.large, err = b.postgresSite(ctx, "large", b.o.grants, 0); err != nil {
		return err
	}
	raw, err := sql.Open("postgres", b.large.database)
	if err != nil {
		return err
	}
	defer raw.Close()
	b.say("%d grants were written in %v", b.o.grants, time.Since(began).Round(time.Second))
	size, err := sizeOfGrants(raw)
	if err != nil {
		return err
	}
	b.scale.grant = size / int64(b.o.grants)
	b.note(
		fmt.Sprintf("bytes a grant, of %d, indexes and all", b.o.grants),
		"350",
		b.scale.grant <= 350,
		"%d",
		b.scale.grant,
	)
	if err := b.compareSizes(few, b.large); err != nil {
		return err
	}
	if err := b.log(raw, b.large); err != nil {
		return err
	}
	if err := b.replicas(few); err != nil {
		return err
	}
	err = b.quietly(func() (err error) {
		b.scale.cleanUp, err = b.cleanUp(raw)
		return err
	})
	b.note("clean-up of a grant, CPU of the database", "", true, "%s", cleanUpText(b.scale.cleanUp))
	return err
}

func sizeOfGrants(raw *sql.DB) (size int64, err error) {
	return size, raw.QueryRow(`SELECT pg_total_relation_size('grants')`).Scan(&size)
}

// bloat refreshes each grant of a small database twenty times, and notes how much the table has grown.
func (b *bench) bloat(s *site) error {
	raw, err := sql.Open("postgres", s.database)
	if err != nil {
		return err
	}
	defer raw.Close()
	before, err := sizeOfGrants(raw)
	if err != nil {
		return err
	}
	next, left := s.refresh(b.o.workers), make([]int, b.o.workers)
	for w := range left {
		left[w] = 20 * s.grants / b.o.workers
	}
	counted := func(worker int) (call, error) {
		if left[worker]--; left[worker] < 0 {
			return call{}, errNoMore
		}
		return next(worker)
	}
	if _, err := (load{s.bases(), b.o.workers, 0, counted}).run(time.Minute); err != nil {
		return err
	}
	after, err := sizeOfGrants(raw)
	grown := (after - before) / int64(s.grants)
	b.note("growth with 20 refreshes each, bytes a grant", "about 0", grown < 100, "%d", grown)
	return err
}

// compareSizes takes turns between the small database and the large one.
func (b *bench) compareSizes(small, large *site) error {
	if err := b.warm(small, large); err != nil {
		return err
	}
	var pieces []piece
	for _, s := range []*site{small, large} {
		pieces = append(pieces, b.operations(s)[:3]...)
	}
	if err := b.rounds(b.o.rounds, pieces); err != nil {
		return err
	}
	for _, name := range []string{"refresh", "introspection, seen before", "introspection, first sight"} {
		ratios := b.pairs(name+", "+large.name, name+", "+small.name, totalTime)
		b.note(
			fmt.Sprintf("%s, %d grants against %d", name, b.o.grants, b.o.few),
			"1.15",
			median(ratios) <= 1.15,
			"%s",
			spread(ratios),
		)
	}
	return nil
}

// log notes how many bytes of log PostgreSQL writes for a refresh, and the share of refreshes that rewrite their row in
// place.
func (b *bench) log(raw *sql.DB, s *site) error {
	type state struct{ lsn, updates, hot int64 }
	read := func() (st state, err error) {
		time.Sleep(3 * b.o.slice) // PostgreSQL updates its counters late
		return st, raw.QueryRow(`SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, n_tup_upd, n_tup_hot_upd
			FROM pg_stat_user_tables WHERE relname = 'grants'`).
			Scan(&st.lsn, &st.updates, &st.hot)
	}
	// After a checkpoint PostgreSQL logs a whole page at its first change.
	if _, err := raw.Exec(`CHECKPOINT`); err != nil {
		return err
	}
	before, err := read()
	if err != nil {
		return err
	}
	r, err := load{s.bases(), b.o.workers, 0, s.refresh(b.o.workers)}.run(4 * b.o.slice)
	if err != nil {
		return err
	}
	after, err := read()
	b.scale.log = (after.lsn - before.lsn) / int64(len(r.times))
	b.scale.inPlace = 100 * float64(after.hot-before.hot) / float64(max(1, after.updates-before.updates))
	b.note("log of PostgreSQL a refresh, right after a checkpoint", "", true, "%d bytes", b.scale.log)
	b.note("refreshes that rewrite their row in place (HOT)", "", true, "%.1f %%", b.scale.inPlace)
	return err
}

// replicas adds servers on one PostgreSQL, and spreads the clients over them.
func (b *bench) replicas(s *site) error {
	for n := 1; n <= 3; n++ {
		for len(s.servers) < n {
			if err := s.start(b.o.server); err != nil {
				return err
			}
		}
		var refresh, seen sample
		err := b.quietly(func() (err error) {
			refresh, err = b.under(s.pids(), 2*b.o.slice, load{s.bases(), b.o.workers, 0, s.refresh(b.o.workers)})
			if err == nil {
				seen, err = b.under(s.pids(), 2*b.o.slice, load{s.bases(), b.o.workers, 0, s.introspectSeen})
			}
			return err
		})
		if err != nil {
			return err
		}
		b.note(
			fmt.Sprintf("%d replica(s): refreshes, introspections a second and replica", n),
			"",
			true,
			"%.0f, %.0f",
			refresh.Rate/float64(n),
			seen.Rate/float64(n),
		)
		b.note(
			fmt.Sprintf("%d replica(s): CPU ms of server + database, refresh, introspection", n),
			"",
			true,
			"%s + %s, %s + %s",
			ms(refresh.Server),
			ms(refresh.Database),
			ms(seen.Server),
			ms(seen.Database),
		)
	}
	return nil
}

// cleanUp deletes rows as clean-up does, and returns the cost of one.
func (b *bench) cleanUp(raw *sql.DB) (time.Duration, error) {
	const batches, batch = 20, 1000
	before, deleted := b.databaseTime(), int64(0)
	for range batches {
		done, err := raw.Exec(`DELETE FROM grants WHERE id IN (SELECT id FROM grants
			WHERE id < $1 ORDER BY id LIMIT $2)`, int64(1)<<62, batch)
		if err != nil {
			return 0, err
		}
		n, err := done.RowsAffected()
		if err != nil {
			return 0, err
		}
		deleted += n
	}
	return (b.databaseTime() - before) / time.Duration(max(1, deleted)), nil
}
