package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

const (
	audience = "https://api.example.com"
	password = "correct horse battery staple"
)

var (
	app      = party{"app", "a secret of the app that nobody else knows"}
	resource = party{"api", "a secret of the resource server"}
)

// site is one database, the servers on it, and the tokens that the bench knows.
type site struct {
	name     string
	database string // URL
	master   string // the file of the master key
	program  string
	folder   string // of a peer
	servers  []*process
	asker    party  // who introspects
	below    string // prefix of its paths
	scope    string // that a login must name; "": none
	filled   keystest.Filled
	people   int // number of users who log in
	offset   int // index of the first grant to refresh
	grants   int // number of grants to refresh
	revokeAt int // index of the first grant to revoke
	revocable,
	revoked int // number of grants to revoke, and how many of them are revoked so far
	mu     sync.Mutex
	tokens map[int]string // newest refresh token of each refreshed grant
	newest map[int]string // newest access token of each refreshed grant; nil: they are not kept
	unseen []string       // access tokens not introspected yet
	seen   []string       // access tokens introspected before
}

// maxUnseen limits the access tokens that are kept.
const maxUnseen = 20_000

// begin writes a master key, starts a server and fills the database.
func (s *site) begin(ctx context.Context) error {
	if _, err := os.Stat(s.master); err != nil {
		if err := os.WriteFile(s.master, []byte("bWVhc3VyZWQsIG5vdCBzZWNyZXQ6IDMyIGJ5dGVzISE=\n"), 0o600); err != nil {
			return err
		}
	}
	if err := s.start(s.program); err != nil { // the first start makes the keys
		return err
	}
	return s.provision(ctx)
}

// settings are the defaults on the database of the site.
func (s *site) settings() (config.Config, keys.Place, error) {
	c, problems := config.Parse(map[string]any{"database": s.database})
	source, err := storage.ParseSource(s.database, false)
	if err = errors.Join(append(problems, err)...); err != nil {
		return c, keys.Place{}, err
	}
	place, err := keys.NewPlace(source, s.master, s.master+".anchor")
	return c, place, err
}

// start starts one more server on the database, with the default configuration, except that it stops at once. Flags of
// serve may follow the path of the program.
func (s *site) start(program string) error {
	words := strings.Fields(program)
	p, err := start(words[0], append([]string{
		"serve",
		"--issuer",
		"http://127.0.0.1:8080",
		"--listen",
		"127.0.0.1:0",
		"--admin-listen",
		"127.0.0.1:0",
		"--database",
		s.database,
		"--master-key-file",
		s.master,
		"--anchor-file",
		s.master + ".anchor",
		"--stop-delay",
		"0s",
	}, words[1:]...)...)
	if err == nil {
		s.servers = append(s.servers, p)
	}
	return err
}

// stopTo stops servers until n are left.
func (s *site) stopTo(n int) {
	for len(s.servers) > n {
		s.servers[len(s.servers)-1].stop()
		s.servers = s.servers[:len(s.servers)-1]
	}
}

func (s *site) provision(ctx context.Context) error {
	c, place, err := s.settings()
	if err != nil {
		return err
	}
	store, err := keys.OpenStore(ctx, place, keys.Config(c.Keys()), keys.StoreOptions{Create: true, Migrate: true})
	if err != nil {
		return err
	}
	defer store.Close()
	adm := admin.New(store, c, place, admin.Options{Actor: "os:bench"})
	for _, spec := range []admin.ClientSpec{
		{
			ID:        app.id,
			Secret:    app.secret,
			Grants:    []string{api.GrantPassword, api.GrantRefreshToken},
			Scope:     "read write",
			Audiences: []string{audience},
		},
		{ID: resource.id, Secret: resource.secret, Resource: audience},
	} {
		if _, err := adm.Clients().Create(ctx, spec); err != nil {
			return err
		}
	}
	for i := range s.people {
		if _, err := adm.Users().Create(ctx, userName(i), password, []string{"admin"}); err != nil {
			return err
		}
	}
	raw, err := storagetest.OpenRaw(s.database)
	if err != nil {
		return err
	}
	defer raw.Close()
	s.filled, err = keystest.Fill(ctx, store, raw, app.id, s.grants+s.revocable, c.RefreshMaxTTL, time.Now())
	return err
}

// share divides the grants between a site and other programs, which have no server on its database yet.
func (s *site) share(programs ...string) (others []*site) {
	n := len(programs) + 1
	s.grants, s.revocable = s.grants/n, s.revocable/n
	for i, program := range programs {
		others = append(others, &site{
			name:      program,
			program:   program,
			database:  s.database,
			master:    s.master,
			asker:     s.asker,
			filled:    s.filled,
			people:    s.people,
			offset:    (i + 1) * s.grants,
			grants:    s.grants,
			revokeAt:  s.revokeAt + (i+1)*s.revocable,
			revocable: s.revocable,
			tokens:    map[int]string{},
		})
	}
	return others
}

func userName(i int) string { return fmt.Sprintf("user%d", i) }

func (s *site) bases() (bases []string) {
	for _, p := range s.servers {
		bases = append(bases, p.base)
	}
	return bases
}

func (s *site) pids() (pids []int) {
	for _, p := range s.servers {
		pids = append(pids, p.pid())
	}
	return pids
}

// refresh refreshes a random grant of the worker.
func (s *site) refresh(workers int) func(worker int) (call, error) {
	return func(worker int) (call, error) {
		mine := s.grants / workers
		i := s.offset + worker*mine + rand.IntN(mine)
		s.mu.Lock()
		token, ok := s.tokens[i]
		s.mu.Unlock()
		if !ok {
			token = s.filled.RefreshToken(i)
		}
		form := url.Values{"grant_type": {api.GrantRefreshToken}, "refresh_token": {token}}
		request := app.post(s.below+api.PathToken, form)
		return call{request, func(body []byte) error { return s.refreshed(i, body) }}, nil
	}
}

func (s *site) refreshed(i int, body []byte) error {
	next, access := field(body, "refresh_token"), field(body, "access_token")
	if next == "" || access == "" {
		return fmt.Errorf("not a response to a refresh: %s", body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[i] = next
	if s.newest != nil {
		s.newest[i] = access
	}
	if len(s.unseen) < maxUnseen {
		s.unseen = append(s.unseen, access)
	}
	return nil
}

// introspectFirst introspects an access token for the first time.
func (s *site) introspectFirst(int) (call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unseen) == 0 {
		return call{}, errNoMore
	}
	token := s.unseen[len(s.unseen)-1]
	s.unseen = s.unseen[:len(s.unseen)-1]
	if len(s.seen) < 1000 {
		s.seen = append(s.seen, token)
	} else {
		s.seen[rand.IntN(len(s.seen))] = token
	}
	return s.introspection(token), nil
}

// introspectSeen introspects an access token again.
func (s *site) introspectSeen(int) (call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 {
		return call{}, errNoMore
	}
	return s.introspection(s.seen[rand.IntN(len(s.seen))]), nil
}

// introspectNewest introspects the newest access token of the worker, for servers where a refresh ends the one before.
func (s *site) introspectNewest(worker int) (call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.introspection(s.newest[worker]), nil
}

func (s *site) introspection(token string) call {
	return call{s.asker.post(s.below+api.PathIntrospect, url.Values{"token": {token}}), func(body []byte) error {
		if field(body, "username") == "" {
			return fmt.Errorf("a live token is not active: %s", body)
		}
		return nil
	}}
}

func (s *site) login(int) (call, error) {
	return call{request: app.post(s.below+api.PathToken, s.passwordForm(rand.IntN(s.people)))}, nil
}

// passwordForm logs in a user.
func (s *site) passwordForm(user int) url.Values {
	form := url.Values{"grant_type": {api.GrantPassword}, "username": {userName(user)}, "password": {password}}
	if s.scope != "" {
		form.Set("scope", s.scope)
	}
	return form
}

func (s *site) revoke(int) (call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revoked == s.revocable {
		return call{}, errNoMore
	}
	s.revoked++
	return call{
		request: app.post(api.PathRevoke, url.Values{"token": {s.filled.RefreshToken(s.revokeAt + s.revoked - 1)}}),
	}, nil
}

func fetch(path string) func(int) (call, error) {
	c := call{request: get(path)}
	return func(int) (call, error) { return c, nil }
}
