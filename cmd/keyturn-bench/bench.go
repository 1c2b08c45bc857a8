package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	_ "github.com/lib/pq"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// sizes are the numbers of rows of the small databases, and how often things are done.
type sizes struct {
	refreshed int // grants to refresh, in the databases of the first table
	revoked   int // grants to revoke there
	few       int // grants in the database that the large one is compared with
	people    int // users who log in
	starts    int // of a server, to see how long one takes
}

// usual are the sizes of a real run.
var usual = sizes{
	refreshed: 10_000,
	revoked:   120_000,
	few:       1000,
	people:    20,
	starts:    5,
}

// postgresSettings are the settings that docs/performance.md advises, for a small machine.
var postgresSettings = []string{
	"shared_buffers=512MB",
	"max_wal_size=4GB",
	"wal_compression=lz4",
	"checkpoint_timeout=30min",
}

// bench is one run.
type bench struct {
	o        options
	folder   string
	cluster  *storagetest.Cluster
	bare     *process
	postgres *site
	sqlite   *site
	// a server on the database of postgres that does not count who fetches the keys
	unobserved *site

	large   *site   // nil until measureScale makes it
	others  []*site // servers of other builds, on the database of postgres
	clocks  func() (clocks, error)
	repeats int // how many disturbed rounds may still be measured again
	figures
}

func newBench(ctx context.Context, o options) (*bench, error) {
	b := &bench{o: o, clocks: readClocks, repeats: o.rounds, figures: figures{samples: map[string][]sample{}}}
	var err error
	if b.folder, err = os.MkdirTemp("", "keyturn-bench-"); err != nil {
		return nil, err
	}
	if err := b.begin(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) begin(ctx context.Context) error {
	b.say("starting PostgreSQL, servers and limits")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b.bare, err = start(self, "-bare"); err != nil {
		return err
	}
	if b.cluster, err = storagetest.StartCluster(postgresSettings...); err != nil {
		return err
	}
	if b.postgres, err = b.postgresSite(ctx, "postgres", b.o.refreshed, b.o.revoked); err != nil {
		return err
	}
	b.unobserved = &site{name: "postgres", database: b.postgres.database, master: b.postgres.master}
	if err = b.unobserved.start(b.o.server + " --jwks-observe off"); err != nil {
		return err
	}
	b.sqlite, err = b.site(ctx, "sqlite", "sqlite:"+filepath.Join(b.folder, "sqlite.db"), b.o.refreshed, b.o.revoked)
	return err
}

func (b *bench) postgresSite(ctx context.Context, name string, grants, revocable int) (*site, error) {
	database, err := b.cluster.Create("keyturn_" + name)
	if err != nil {
		return nil, err
	}
	return b.site(ctx, name, database, grants, revocable)
}

// site starts a server on a new database, and fills it.
func (b *bench) site(ctx context.Context, name, database string, grants, revocable int) (*site, error) {
	s := &site{
		name:      name,
		program:   b.o.server,
		database:  database,
		master:    filepath.Join(b.folder, name+".key"),
		asker:     resource,
		people:    b.o.people,
		grants:    grants,
		revocable: revocable,
		revokeAt:  grants,
		tokens:    map[int]string{},
	}
	return s, s.begin(ctx)
}

func (b *bench) close() {
	for _, s := range append(b.others, b.postgres, b.unobserved, b.sqlite, b.large) {
		if s != nil {
			s.stopTo(0)
		}
	}
	if b.bare != nil {
		b.bare.stop()
	}
	if b.cluster != nil {
		b.cluster.Stop()
	}
	os.RemoveAll(b.folder)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// databaseTime returns the CPU time that PostgreSQL has used.
func (b *bench) databaseTime() time.Duration { return cpuOf(true, b.cluster.PID()) }

// under measures servers under load.
func (b *bench) under(pids []int, span time.Duration, l load) (sample, error) {
	server, database := cpuOf(false, pids...), b.databaseTime()
	r, err := l.run(span)
	return r.sample(cpuOf(false, pids...)-server, b.databaseTime()-database), err
}

func (r result) sample(server, database time.Duration) sample {
	n := time.Duration(max(1, len(r.times)))
	return sample{
		Server:   server / n,
		Database: database / n,
		Rate:     float64(len(r.times)) / r.took.Seconds(),
		P50:      r.percentile(50),
		P99:      r.percentile(99),
	}
}

// piece is one row, which each round measures once.
type piece struct {
	name string
	run  func(span time.Duration) (sample, error)
}

// measureAll measures everything that the page shows, except the other builds.
func (b *bench) measureAll(ctx context.Context) error {
	if err := b.measure(ctx); err != nil {
		return err
	}
	if err := b.measureScale(ctx); err != nil {
		return err
	}
	return b.measureAllocations(ctx)
}

// measure runs all pieces in rounds, so that limits and servers take turns.
func (b *bench) measure(ctx context.Context) error {
	if err := b.describeMachine(ctx); err != nil {
		return err
	}
	pieces, err := b.limits()
	if err != nil {
		return err
	}
	pieces = append(pieces, b.operations(b.postgres)...)
	pieces = append(pieces, b.operation("JWKS, not observed", b.unobserved, b.o.workers, fetch(api.PathJWKS)))
	pieces = append(pieces, b.operations(b.sqlite)...)
	if err := b.warm(b.postgres, b.sqlite); err != nil {
		return err
	}
	if err := b.rounds(b.o.rounds, pieces); err != nil {
		return err
	}
	b.latencies()
	return b.measureProcess(ctx)
}

// rounds measures each piece n times. With several orders of the pieces it uses them in turn.
func (b *bench) rounds(n int, orders ...[]piece) error {
	for round := range n {
		b.say("round %d of %d", round+1, n)
		var measured map[string]sample
		err := b.quietly(func() (err error) {
			measured, err = b.round(orders[round%len(orders)])
			return err
		})
		if err != nil {
			return err
		}
		for name, s := range measured {
			b.samples[name] = append(b.samples[name], s)
		}
	}
	return nil
}

// round measures each piece once.
func (b *bench) round(pieces []piece) (map[string]sample, error) {
	measured := map[string]sample{}
	for _, p := range pieces {
		if !b.o.only.MatchString(p.name) {
			continue
		}
		s, err := p.run(b.o.slice)
		if errors.Is(err, errNoMore) && (len(b.samples[p.name]) > 0 || b.o.only.String() != "") {
			continue // a fast machine has used up its tokens, or -only omits the row that makes them
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		measured[p.name] = s
	}
	return measured, nil
}

// warm logs every user in once, so that the address is familiar, and gives each database some access tokens.
func (b *bench) warm(sites ...*site) error {
	for _, s := range sites {
		if _, err := b.under(s.pids(), b.o.slice, load{s.bases(), b.o.workers, 0, s.refresh(b.o.workers)}); err != nil {
			return err
		}
		if _, err := b.under(s.pids(), b.o.slice, load{s.bases(), 4, 0, s.login}); err != nil {
			return err
		}
	}
	return nil
}

// limits returns the pieces that measure the lower bounds.
func (b *bench) limits() ([]piece, error) {
	postgres, err := newRowLimits("postgres", b.postgres.database+"&application_name=bench", 8)
	if err != nil {
		return nil, err
	}
	compute := func(name string) piece {
		return piece{name, func(span time.Duration) (sample, error) { return computed(b.bare.base, name, span) }}
	}
	bare := func(name string, request []byte) piece {
		next := func(int) (call, error) { return call{request: request}, nil }
		return piece{name, func(span time.Duration) (sample, error) {
			return b.under([]int{b.bare.pid()}, span, load{[]string{b.bare.base}, b.o.workers, 0, next})
		}}
	}
	row := func(name string, do func() error) piece {
		return piece{name, func(span time.Duration) (sample, error) {
			before := b.databaseTime()
			r, err := repeat(8, span/2, do)
			return r.sample(0, b.databaseTime()-before), err
		}}
	}
	token := "an access token of about the length of one of keyturn's: " + string(make([]byte, 400))
	form := b.postgres.introspection(token).request
	return []piece{
		compute("S"), compute("V"), compute("argon2id"), bare("H", form), bare("bare GET", get("/")),
		row("point SELECT", postgres.selectOne), row("durable UPDATE", postgres.updateOne),
	}, nil
}

// operations returns the pieces that measure a server. Earlier ones make tokens for later ones.
func (b *bench) operations(s *site) []piece {
	flood := load{s.bases(), b.o.workers, 0, s.refresh(b.o.workers)}
	of := func(name string, workers int, next func(int) (call, error)) piece {
		return b.operation(name, s, workers, next)
	}
	return []piece{
		of("refresh", b.o.workers, s.refresh(b.o.workers)),
		of("introspection, first sight", b.o.workers, s.introspectFirst),
		of("introspection, seen before", b.o.workers, s.introspectSeen),
		of("JWKS", b.o.workers, fetch(api.PathJWKS)),
		of("metadata", b.o.workers, fetch(api.PathMetadata)),
		of("password login", 4, s.login),
		of("revocation", b.o.workers, s.revoke),
		{"introspection alone, " + s.name, func(span time.Duration) (sample, error) { return b.paced(s, span) }},
		b.beside("introspection while refresh is saturated", s, flood),
		b.beside("introspection while login is saturated", s, load{s.bases(), 4, 0, s.login}),
	}
}

// operation returns a piece that measures one kind of request.
func (b *bench) operation(name string, s *site, workers int, next func(int) (call, error)) piece {
	return piece{name + ", " + s.name, func(span time.Duration) (sample, error) {
		return b.under(s.pids(), span, load{s.bases(), workers, 0, next})
	}}
}

// paced measures introspections by four clients that pause between calls.
func (b *bench) paced(s *site, span time.Duration) (sample, error) {
	return b.under(s.pids(), span, load{s.bases(), 4, 5 * time.Millisecond, s.introspectSeen})
}

// beside returns a piece that runs paced while a flood saturates the server.
func (b *bench) beside(name string, s *site, flood load) piece {
	return piece{name + ", " + s.name, func(span time.Duration) (sample, error) {
		ended := make(chan error, 1)
		go func() {
			_, err := flood.run(span + span/5)
			ended <- err
		}()
		time.Sleep(span / 10)
		paced, err := b.paced(s, span)
		return paced, errors.Join(err, <-ended)
	}}
}
