// Command keyturn-bench measures keyturn relative to lower bounds, called limits: an RSA signature, a bare HTTP
// handler, one hash, one durable statement.
//
// One run starts PostgreSQL, servers and limits, and takes turns between them, so that other work on the machine
// affects all alike. It compares the CPU time per request of server and database, as the operating system counts it,
// and divides it by the limit of the same round. Throughput and latency are secondary, because the load runs on the
// same machine.
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
	server    string // the program to measure
	against   string // another build to compare with
	rounds    int
	slice     time.Duration // length of one measurement
	grants    int           // in the large database
	only      *regexp.Regexp
	workers   int
	limitOnly bool // run as the bare server
	openssl   bool // measure OpenSSL too
	sizes          // have no flags
}

func main() {
	o := options{openssl: true, sizes: usual}
	only := flag.String("only", "", "measure only rows whose name matches this regular expression")
	flag.StringVar(&o.server, "server", "bin/keyturn", "the keyturn program to measure")
	flag.StringVar(&o.against, "against", "", "another build to compare with: measure refreshes of both")
	flag.IntVar(&o.rounds, "rounds", 8, "how often to measure each row")
	flag.DurationVar(&o.slice, "slice", 500*time.Millisecond, "length of one measurement")
	flag.IntVar(&o.grants, "grants", 5_000_000, "grants in the large database; 0 to skip it")
	flag.IntVar(&o.workers, "workers", 32, "requests in flight")
	flag.BoolVar(&o.limitOnly, "bare", false, "run as the bare server that keyturn is compared with")
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
