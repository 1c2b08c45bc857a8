package main

import (
	"fmt"
	"io"
	"slices"
)

// build is another build of keyturn that the page compares with the usual one.
type build struct{ name, program, about string }

// builds are what `make bench-builds` builds.
var builds = []build{
	{
		"`make build-boring`",
		"bin/keyturn-boring",
		"`GOEXPERIMENT=boringcrypto`: Google's BoringCrypto; maintained with Go, but outside its compatibility " +
			"promise; needs cgo",
	},
	{
		"`GOAMD64=v3`",
		"bin/keyturn-v3",
		"Go's multiplication is assembly that detects the CPU itself",
	},
}

// compareBuilds measures refreshes of the builds of the page.
func (b *bench) compareBuilds() error {
	var programs []string
	for _, other := range builds {
		programs = append(programs, other.program)
	}
	return b.compare(programs, 1)
}

// comparedOperations is the number of operations, from the first, that compare can take.
const comparedOperations = 7

// compare takes turns between the usual build and others, on one database, and measures the first n operations of each.
func (b *bench) compare(programs []string, n int) error {
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
	return b.rounds(b.o.rounds, forward, backward)
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
	rows := [][]string{{"usual", "1", "static, pure Go"}}
	for _, b := range builds {
		ratios := f.pairs("refresh, "+b.program, "refresh, postgres", serverTime)
		if len(ratios) == 0 {
			return ""
		}
		rows = append(rows, []string{b.name, spread(ratios), b.about})
	}
	return table([]string{"build", "CPU of a refresh", ""}, rows)
}

// printAgainst prints the CPU time of requests of another build, relative to the usual one.
func (b *bench) printAgainst(out io.Writer) {
	fmt.Fprintf(out, "CPU time per request of %s relative to %s:\n\n", b.o.against, b.o.server)
	b.print(out, []section{{"against", func(f *figures) string { return f.againstText(b.o.against) }}})
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
