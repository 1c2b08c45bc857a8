package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/api"
)

// peer is another server that the page compares with keyturn.
type peer struct {
	name, program string
	below         string // prefix of its paths
	jwks          string // path; "": it neither introspects nor publishes a JWKS
	asker         party  // who introspects
	scope         string // that a login must name
	hash          string // of passwords
	about         string // how it keeps grants
}

// argon2id is the hash that is measured by itself: keyturn's.
const argon2id = "argon2id"

// peers are what `make bench-peers` builds.
var peers = []peer{
	{"fosite", "bin/peer-fosite", "", api.PathJWKS, resource, "", argon2id, "in memory, lost at a stop"},
	{"go-oauth2", "bin/peer-gooauth2", "", "", resource, "", argon2id, "in memory, lost at a stop"},
	{"glewlwyd", "bin/peer-glewlwyd", "/api/oidc", "/api/oidc/jwks", app, "read", "PBKDF2-SHA256, 150,000 iterations",
		"durable before the answer (SQLite)"},
}

// peerRow is what is measured once of each server.
type peerRow struct {
	peer
	ready      time.Duration
	idle, peak int64 // bytes
}

// measurePeers takes turns between keyturn, on both databases, and the peers.
func (b *bench) measurePeers() error {
	limits, err := b.limits()
	if err != nil {
		return err
	}
	sites := []*site{b.postgres, b.sqlite}
	for _, database := range []string{"PostgreSQL", "SQLite"} {
		b.peers = append(b.peers, peerRow{peer: peer{
			name:  "keyturn on " + database,
			jwks:  api.PathJWKS,
			hash:  argon2id,
			about: "durable before the answer",
		}})
	}
	for _, p := range peers {
		s, ready, err := b.startPeer(p)
		if err != nil {
			return err
		}
		b.others, sites = append(b.others, s), append(sites, s)
		b.peers = append(b.peers, peerRow{peer: p, ready: ready})
	}
	if err := b.warm(b.postgres, b.sqlite); err != nil {
		return err
	}
	for _, s := range sites[:2] { // which also makes tokens that were seen before
		if _, err := (load{s.bases(), b.o.workers, 0, s.introspectFirst}).run(b.o.slice); err != nil {
			return err
		}
	}
	pieces := append([]piece{}, limits[:5]...)
	for i, s := range sites {
		pieces = append(pieces, b.peerPieces(s, b.peers[i].jwks)...)
	}
	if err := b.rounds(b.o.rounds, pieces); err != nil {
		return err
	}
	return b.peerMemory(sites)
}

// peerPieces are the operations that servers have in common. jwks is the path of the JWKS, or "".
func (b *bench) peerPieces(s *site, jwks string) []piece {
	all := []piece{
		b.operation("refresh", s, b.o.workers, s.refresh(b.o.workers)),
		b.operation("password login", s, 4, s.login),
	}
	if jwks != "" {
		next := s.introspectSeen
		if s.newest != nil {
			next = s.introspectNewest
		}
		all = append(all, b.operation("introspection", s, b.o.workers, next),
			b.operation("JWKS", s, b.o.workers, fetch(jwks)))
	}
	return all
}

// startPeer starts a peer and logs in once for each worker. An earlier start has made its database, if it has one.
func (b *bench) startPeer(p peer) (s *site, ready time.Duration, err error) {
	folder := filepath.Join(b.folder, p.name)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, 0, err
	}
	first, err := start(p.program, folder)
	if err != nil {
		return nil, 0, err
	}
	first.stop()
	began := time.Now()
	server, err := start(p.program, folder)
	if err != nil {
		return nil, 0, err
	}
	s = &site{
		name:    p.name,
		program: p.program,
		folder:  folder,
		servers: []*process{server},
		asker:   p.asker,
		below:   p.below,
		scope:   p.scope,
		people:  b.o.people,
		grants:  b.o.workers,
		tokens:  map[int]string{},
		newest:  map[int]string{},
	}
	ready = time.Since(began)
	seed := func(worker int) (call, error) {
		if s.tokens[worker] != "" {
			return call{}, errNoMore
		}
		first := app.post(s.below+api.PathToken, s.passwordForm(0))
		return call{first, func(body []byte) error { return s.refreshed(worker, body) }}, nil
	}
	for worker := range b.o.workers {
		one := load{s.bases(), 1, 0, func(int) (call, error) { return seed(worker) }}
		if _, err := one.run(time.Second); err != nil {
			s.stopTo(0)
			return nil, 0, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return s, ready, nil
}

// peerMemory notes the peak of each server, and then its memory at rest after a new start.
func (b *bench) peerMemory(sites []*site) (err error) {
	for i, s := range sites {
		row := &b.peers[i]
		if row.peak, err = memoryOf(s.servers[0].pid(), "VmHWM"); err != nil {
			return err
		}
		s.stopTo(0)
		if s == b.postgres || s == b.sqlite {
			row.ready, err = b.startTimed(s)
		} else {
			var again *process
			again, err = start(s.program, s.folder)
			s.servers = append(s.servers, again)
		}
		if err != nil {
			return err
		}
		time.Sleep(4 * b.o.slice)
		if row.idle, err = memoryOf(s.servers[0].pid(), "VmRSS"); err != nil {
			return err
		}
	}
	return nil
}

// peersText is the table of peers.
func (f *figures) peersText() string {
	if len(f.peers) == 0 {
		return ""
	}
	names := []string{"postgres", "sqlite"}
	for _, p := range peers {
		names = append(names, p.name)
	}
	cell := func(operation, name, unit, beyond string) string {
		ratios := f.ratios(totalTime, operation+", "+name, bound{1, unit, beyond})
		if len(ratios) == 0 {
			return "none"
		}
		text := fmt.Sprintf("%.2f %s", median(ratios), unit)
		if beyond != "" {
			text = beyond + " + " + text
		}
		return text
	}
	var rows [][]string
	for i, p := range f.peers {
		login := cell("password login", names[i], "S", argon2id)
		if p.hash != argon2id {
			login = cell("password login", names[i], "S", "") + ", " + p.hash
		}
		rows = append(rows, []string{
			p.name,
			login,
			cell("refresh", names[i], "S", ""),
			cell("introspection", names[i], "H", ""),
			cell("JWKS", names[i], "H", ""),
			fmt.Sprintf("%d, %d", p.idle/mib, p.peak/mib),
			fmt.Sprintf("%d", p.ready.Milliseconds()),
			p.about,
		})
	}
	return table(peerColumns, rows) + "\n" + f.noiseText()
}

var peerColumns = []string{"server", "password login", "refresh", "introspection", "JWKS",
	"memory at rest, at the peak, MiB", "ready, ms", "grants are kept"}
