// Command keyturn-bench measures keyturn against what nobody can avoid: an RSA signature, a bare HTTP handler, one
// hash, one durable statement.
//
// It starts PostgreSQL, servers and limits in one run and takes turns between them, so that what else the machine does
// falls on all alike. What is compared is the CPU time per request of server and database, as the operating system
// counts it, divided by that of the limit measured in the same round: throughput and latency stand beside it, since the
// load is made on the same machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

// options are the flags.
type options struct {
	server    string // the program that is measured
	against   string // another build of it, to compare with
	rounds    int
	slice     time.Duration // how long one thing is measured at once
	grants    int           // in the large database
	only      *regexp.Regexp
	workers   int
	limitOnly bool // be the bare server
}

func main() {
	var o options
	only := flag.String("only", "", "measure only rows whose name matches this regular expression")
	flag.StringVar(&o.server, "server", "bin/keyturn", "the keyturn program to measure")
	flag.StringVar(&o.against, "against", "", "another build of it: measure refreshes of both")
	flag.IntVar(&o.rounds, "rounds", 8, "how often each thing is measured")
	flag.DurationVar(&o.slice, "slice", 500*time.Millisecond, "how long each thing is measured at once")
	flag.IntVar(&o.grants, "grants", 5_000_000, "grants in the large database; 0: measure none")
	flag.IntVar(&o.workers, "workers", 32, "requests in flight")
	flag.BoolVar(&o.limitOnly, "bare", false, "be the bare server that keyturn is compared with")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		err = run(context.Background(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "keyturn-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.limitOnly {
		return serveBare()
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	if o.against != "" {
		return b.compareBuilds()
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	if err := b.measureScale(ctx); err != nil {
		return err
	}
	b.print(os.Stdout)
	return nil
}
