package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// opensslBuild is what `make build-openssl` builds. The page compares it with the usual build.
const opensslBuild = "bin/keyturn-openssl"

// Targets of the build with OpenSSL.
const (
	opensslCost = .55 // of S, the CPU time of a refresh
	opensslRate = 2.0 // of the usual build, refreshes a second
)

// compareBuilds measures refreshes of the builds of the page, and S.
func (b *bench) compareBuilds() error {
	limits, err := b.limits()
	if err != nil {
		return err
	}
	if err := b.compare([]string{opensslBuild}, 1, limits[0]); err != nil {
		return err
	}
	for _, s := range append([]*site{b.postgres}, b.others...) {
		n, err := threadsOf(s.servers[0].pid())
		if err != nil {
			return err
		}
		b.threads = append(b.threads, n)
	}
	return nil
}

// comparedOperations is the number of operations, from the first, that compare can take.
const comparedOperations = 7

// compare takes turns between the usual build and others, on one database, and measures the first n operations of each.
// Each round also measures the other pieces.
func (b *bench) compare(programs []string, n int, more ...piece) error {
	sites := append([]*site{b.postgres}, b.postgres.share(programs...)...)
	b.others = sites[1:]
	for _, s := range b.others {
		if err := s.start(s.program); err != nil {
			return err
		}
	}
	if err := b.warm(sites...); err != nil {
		return err
	}
	operations := make([][]piece, len(sites))
	for i, s := range sites {
		operations[i] = b.operations(s)[:n]
	}
	forward, backward := alternate(operations)
	return b.rounds(b.o.rounds, append(forward, more...), append(backward, more...))
}

// alternate orders the pieces of several sites by operation. In backward the last site is first, so that none always
// has the same turn.
func alternate(operations [][]piece) (forward, backward []piece) {
	for i := range operations[0] {
		var turn []piece
		for _, pieces := range operations {
			turn = append(turn, pieces[i])
		}
		forward = append(forward, turn...)
		slices.Reverse(turn)
		backward = append(backward, turn...)
	}
	return forward, backward
}

// buildsText is the table of builds.
func (f *figures) buildsText() string {
	var rows [][]string
	usual := "refresh, postgres"
	for i, b := range []struct{ name, row, about string }{
		{"usual", usual, "static, pure Go"},
		{"`make build-openssl`", "refresh, " + opensslBuild, "dynamic, signs with libcrypto of the system"},
	} {
		if len(f.samples[b.row]) == 0 || len(f.threads) <= i {
			return ""
		}
		cost, rate := f.ratios(serverTime, b.row, bound{1, "S", ""}), f.rates(b.row, usual)
		met := ""
		if b.row != usual {
			met = verdict(median(cost) <= opensslCost && median(rate) >= opensslRate)
		}
		p99 := medianOf(f.samples[b.row], func(s sample) time.Duration { return s.P99 })
		rows = append(rows, []string{
			b.name,
			spread(cost) + " S",
			spread(rate),
			met,
			ms(p99),
			strconv.Itoa(f.threads[i]),
			b.about,
		})
	}
	head := []string{"build", "CPU of a refresh", "refreshes a second, relative", "met", "p99 ms", "threads", ""}
	return table(head, rows) +
		fmt.Sprintf("\nThe targets of the build with OpenSSL: at most %.2f S, at least %.1f times the usual rate.\n%s",
			opensslCost, opensslRate, f.noiseText())
}

// rates divides the rate of each round by that of another row in the same round, and sorts the ratios.
func (f *figures) rates(name, other string) (all []float64) {
	others := f.samples[other]
	for i, s := range f.samples[name] {
		if i < len(others) && others[i].Rate > 0 {
			all = append(all, s.Rate/others[i].Rate)
		}
	}
	slices.Sort(all)
	return all
}

// printAgainst prints the CPU time of requests of another build, relative to the usual one.
func (b *bench) printAgainst(out io.Writer) {
	fmt.Fprintf(out, "CPU time per request of %s relative to %s:\n\n", b.o.against, b.o.server)
	text := func(f *figures) string { return f.againstText(b.o.against) + "\n" + f.noiseText() }
	b.print(out, []section{{"against", text}})
}

func (f *figures) againstText(program string) string {
	var rows [][]string
	for _, name := range []string{
		"refresh",
		"introspection, seen before",
		"introspection, first sight",
		"password login",
		"revocation",
		"JWKS",
		"metadata",
	} {
		usual, other := name+", postgres", name+", "+program
		if len(f.samples[other]) == 0 {
			continue
		}
		rows = append(rows, []string{
			name,
			ms(medianOf(f.samples[usual], totalTime)),
			ms(medianOf(f.samples[other], totalTime)),
			spread(f.pairs(other, usual, serverTime)),
			spread(f.pairs(other, usual, totalTime)),
		})
	}
	return table([]string{"operation", "usual ms", "other ms", "server", "server and database"}, rows)
}
