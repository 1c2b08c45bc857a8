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
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"
)

// options are the flags.
type options struct {
	server     string // the program to measure
	against    string // another build to compare with
	builds     bool   // compare the builds of the page
	growth     bool   // measure databases of several sizes
	peers      bool   // compare with other servers
	page       string // the file to write the figures into
	rounds     int
	slice      time.Duration // length of one measurement
	grants     int           // in the large database
	only       *regexp.Regexp
	workers    int
	limitOnly  bool // run as the bare server
	openssl    bool // measure OpenSSL too
	benchmarks bool // run the benchmarks of package server too
	sizes           // have no flags
}

// growthSizes are the numbers of grants of the databases that -growth fills.
var growthSizes = []int{1_000_000, 5_000_000, 20_000_000}

func main() {
	o := options{openssl: true, benchmarks: true, sizes: usual}
	only := flag.String("only", "", "measure only rows whose name matches this regular expression")
	flag.StringVar(&o.server, "server", "bin/keyturn", "the keyturn program to measure")
	flag.StringVar(&o.against, "against", "",
		"another build to compare with, with flags of serve: measure only both, in turns")
	flag.BoolVar(&o.builds, "builds", false, "compare only the builds of docs/performance.md, in turns")
	flag.BoolVar(&o.growth, "growth", false, "measure only databases of 1, 5 and 20 million grants, in turns")
	flag.BoolVar(&o.peers, "peers", false, "compare only with other servers, in turns")
	flag.StringVar(&o.page, "page", "", "also write the figures into this copy of docs/performance.md")
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
	if err := o.check(); err != nil {
		return err
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	if o.against != "" {
		if err := b.compare([]string{o.against}, comparedOperations); err != nil {
			return err
		}
		b.printAgainst(os.Stdout)
		return nil
	}
	sections := runSections
	switch {
	case o.builds:
		sections = buildSections
		err = b.compareBuilds()
	case o.growth:
		sections = growthSections
		err = b.measureGrowth(ctx, growthSizes)
	case o.peers:
		sections = peerSections
		err = b.measurePeers()
	default:
		err = b.measureAll(ctx)
	}
	if err != nil {
		return err
	}
	b.print(os.Stdout, sections)
	if o.page == "" {
		return nil
	}
	return b.writePage(o.page, sections)
}

// check refuses a run whose figures cannot go into the page, before it begins.
func (o options) check() error {
	if o.page == "" {
		return nil
	}
	if o.against != "" || o.only.String() != "" || o.grants == 0 {
		return errors.New("-page needs all figures: omit -against, -only and -grants 0")
	}
	page, err := os.ReadFile(o.page)
	if err != nil {
		return err
	}
	return checkMarkers(string(page))
}
