package server

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"log/slog"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// crowdOf is clients of replicas that have the usual clients and user.
func crowdOf(replicas ...*serving) *servertest.Crowd {
	c := &servertest.Crowd{
		App:    servertest.Party{ID: "app", Secret: secret},
		Server: servertest.Party{ID: "rs", Secret: secret},
		Users:  []servertest.Party{{ID: "alice", Secret: password}},
		Pause:  time.Duration(servertest.Times(int(30*time.Millisecond), 0)), // many of them run at once
	}
	for _, r := range replicas {
		c.Bases = append(c.Bases, r.Base)
	}
	return c
}

// trouble is something that a database does to keyturn.
type trouble struct {
	window     time.Duration // of retries; 0: the default
	busy       bool          // clients make no pause
	begin, end func(t *testing.T, p *storagetest.Proxy, raw *sql.DB)
	lasts      time.Duration
	answersIn  time.Duration // 0: 2 s, A068
	served     bool          // requests are still served meanwhile
}

// statements that may be cut: of a refresh, of a login, of a transaction, of an introspection, of a poll.
var cutStatements = []string{
	"UPDATE grants AS g",
	"INSERT INTO grants",
	"COMMIT",
	"LEFT JOIN signing_keys k",
	"FROM signing_keys ORDER",
	"INSERT INTO throttle",
}

func troubles() map[string]trouble {
	long := func(short time.Duration) time.Duration {
		return time.Duration(servertest.Times(int(short), int(time.Minute)))
	}
	all := map[string]trouble{
		"half a second later": {lasts: 2 * time.Second, served: true, answersIn: 4 * time.Second,
			begin: func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Delay(500 * time.Millisecond) },
			end:   func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Delay(0) }},
		"ten seconds later": {lasts: long(8 * time.Second), answersIn: 5 * time.Second,
			begin: func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Delay(10 * time.Second) },
			end:   func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Delay(0) }},
		"a black hole": {lasts: long(6 * time.Second), answersIn: 5 * time.Second,
			begin: func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Hole(true) },
			end:   func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Hole(false) }},
		"away": {lasts: long(5 * time.Second), window: 4 * time.Second, // shorter than it lasts
			begin: func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Close(true) },
			end:   func(_ *testing.T, p *storagetest.Proxy, _ *sql.DB) { p.Close(false) }},
	}
	for _, code := range []string{"40001", "40P01"} {
		for _, percent := range []int{10, 100} {
			all[fmt.Sprintf("%s at %d per cent", code, percent)] = trouble{
				lasts:  long(time.Second),
				served: percent < 100,
				begin:  rollBack(code, percent),
				end:    rollBackNoMore,
			}
		}
	}
	moments := []storagetest.When{storagetest.Before, storagetest.During, storagetest.Lost, storagetest.After}
	for _, when := range moments {
		all["cut "+string(when)+" a statement"] = trouble{lasts: time.Second, served: true, busy: true,
			begin: func(t *testing.T, p *storagetest.Proxy, _ *sql.DB) { cutEach(t, p, when) }, end: func(*testing.T,
				*storagetest.Proxy, *sql.DB) {
			}}
	}
	return all
}

// cutEach cuts the connection at each of the statements, some times.
func cutEach(t *testing.T, p *storagetest.Proxy, when storagetest.When) {
	times := servertest.Times(2, 4)
	for _, text := range cutStatements {
		before := p.Cuts()
		p.Cut(text, when, times)
		for end := time.Now().Add(20 * time.Second); p.Cuts() < before+int64(times); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%q was cut %d times", text, p.Cuts()-before)
				break
			}
		}
	}
}

// rollBack makes PostgreSQL refuse writes with an error that asks for a repetition, at random.
func rollBack(code string, percent int) func(*testing.T, *storagetest.Proxy, *sql.DB) {
	return func(t *testing.T, _ *storagetest.Proxy, raw *sql.DB) {
		storagetest.MustExec(
			t,
			raw,
			fmt.Sprintf(`CREATE FUNCTION roll_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF random() * 100 < %d THEN RAISE EXCEPTION 'rolled back by a test'
				USING ERRCODE = '%s'; END IF; RETURN NEW; END $$`, percent, code),
			`CREATE TRIGGER roll_back BEFORE INSERT OR UPDATE ON grants FOR EACH ROW EXECUTE FUNCTION roll_back()`,
			`CREATE TRIGGER roll_back BEFORE INSERT OR UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION roll_back()`,
		)
	}
}

func rollBackNoMore(t *testing.T, _ *storagetest.Proxy, raw *sql.DB) {
	storagetest.MustExec(
		t,
		raw,
		`CREATE OR REPLACE FUNCTION roll_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$`,
	)
}

// Whatever the database does, clients are told the truth in time, lose nothing, and are served again as soon as it is
// well.
func TestDatabaseMisbehaves(t *testing.T) {
	for name, c := range troubles() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databaseURL := storagetest.PostgresURL(t)
			proxy := storagetest.NewProxy(t, databaseURL)
			config := ConfigFor(proxy.URL)
			if c.busy { // logins of one account must overlap
				config = HashingConfig(proxy.URL)
			}
			config.MasterKeyFile = MasterFile(t)
			if c.window > 0 {
				config.RefreshRetryWindow = c.window
			}
			log := &Buffer{}
			replica := serveWith(
				t,
				config,
				Options{Module: keystest.Module(), Log: slog.New(slog.NewTextHandler(log, nil))},
			)
			replica.Provision()
			crowd := crowdOf(replica)
			if c.busy {
				crowd.Pause = 0
			}
			// The bound that is promised, and as much again for a machine that does other things as well.
			if crowd.Slow = 4 * time.Second; c.answersIn > 0 {
				crowd.Slow = 2 * c.answersIn
			}
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(log.String())
				}
			})
			misbehave(t, c, replica, crowd, proxy, storagetest.Raw(t, databaseURL))
			if requests := strings.Count(log.String(), "msg=request"); strings.Count(
				log.String(),
				"\n",
			) > 4*requests+1000 {
				t.Errorf("%d lines of log for %d requests", strings.Count(log.String(), "\n"), requests)
			}
		})
	}
}

func misbehave(
	t *testing.T,
	c trouble,
	replica *serving,
	crowd *servertest.Crowd,
	proxy *storagetest.Proxy,
	raw *sql.DB,
) {
	working, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { crowd.Run(working, 4) })
	all.Go(func() { askDocuments(t, working, replica.Base) })
	time.Sleep(500 * time.Millisecond)
	c.begin(t, proxy, raw)
	time.Sleep(c.lasts / 4) // what was under way may still be answered
	before := crowd.Answers.Load()
	time.Sleep(c.lasts * 3 / 4)
	// A loaded machine may need as long as the slowest request to serve one.
	for end := time.Now().Add(crowd.Slow); c.served && crowd.Answers.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("nothing was served in the trouble")
			break
		}
	}
	c.end(t, proxy, raw)
	recovered := crowd.Well(20 * time.Second)
	t.Logf("well %v after the trouble", recovered.Round(time.Millisecond))
	time.Sleep(500 * time.Millisecond)
	stop()
	all.Wait()
	if recovered > 10*time.Second { // 5 s are promised
		t.Errorf("well only %v after the trouble", recovered)
	}
	crowd.Check(t)
	Must(replica.Admin.Audit().Verify(ctx))
}

// askDocuments asks for what is served from memory, until the context ends.
func askDocuments(t *testing.T, ctx context.Context, base string) {
	for ctx.Err() == nil {
		for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/livez"} {
			began := time.Now()
			res, err := http.Get(base + path)
			if err != nil {
				t.Error(err)
				return
			}
			res.Body.Close()
			if res.StatusCode != http.StatusOK || time.Since(began) > 3*time.Second {
				t.Errorf("%s: %d after %v", path, res.StatusCode, time.Since(began))
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A server that starts before its PostgreSQL answers that it cannot serve yet, and serves as soon as it can.
func TestDatabaseDownAtTheStart(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresURL(t)
	proxy := storagetest.NewProxy(t, databaseURL)
	config := HashingConfig(proxy.URL)
	config.MasterKeyFile = MasterFile(t)
	proxy.Close(true)
	l := Must(Listen(config))
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- ServeAt(running, config, Options{Module: keystest.Module()}, l)
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	h := &Harness{T: t, Config: config, Base: "http://" + l.Public.Addr().String()}
	if r := h.Get("/livez"); r.Status != 200 {
		t.Errorf("livez: %d", r.Status)
	}
	if r := h.Get("/readyz"); r.Status != 503 {
		t.Errorf("readyz: %d", r.Status)
	}
	if r := h.Get("/.well-known/oauth-authorization-server"); r.Status != 200 || !strings.Contains(r.Body, issuer) {
		t.Errorf("metadata: %d %s", r.Status, r.Body)
	}
	for _, path := range []string{"/token", "/revoke", "/introspect"} {
		if r := h.Post(path, "app", "token", "x"); r.Status != 503 || r.Code(t) != "temporarily_unavailable" ||
			r.Header.Get("Retry-After") == "" ||
			r.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %d %s", path, r.Status, r.Body)
		}
	}
	proxy.Close(false)
	took := waitFor(t, time.Now(), func() bool { return h.Get("/readyz").Status == 200 })
	t.Logf("ready %v after the database", took.Round(time.Millisecond))
}

// Where waiting does not help, a server ends at once, in one line.
func TestServeDoesNotWaitInVain(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresURL(t)
	bouncer := func(setting string) string { return storagetest.NewBouncer(t, databaseURL, setting).URL }
	const latin1 = "ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'"
	for want, unusable := range map[string]string{
		"unsupported startup parameter": bouncer("") + "&options=-cjit%3Doff",
		"pool_mode = session":           bouncer("pool_mode = transaction"),
		"does not exist":                strings.Replace(databaseURL, "/test_", "/none_", 1),
		"ENCODING 'UTF8'":               storagetest.PostgresURLWith(t, latin1),
		"GRANT USAGE, CREATE ON SCHEMA": storagetest.AsRole(t, databaseURL, ""),
	} {
		config := ConfigFor(unusable)
		config.MasterKeyFile = MasterFile(t)
		within, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := ServeAt(within, config, Options{Module: keystest.Module()}, Must(Listen(config)))
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A PgBouncer in session mode is paused and restarted under load.
func TestPgBouncerUnderLoad(t *testing.T) {
	t.Parallel()
	bouncer := storagetest.NewBouncer(t, storagetest.PostgresURL(t))
	config := ConfigFor(bouncer.URL)
	config.MasterKeyFile = MasterFile(t)
	replica := serve(t, config, keystest.Module())
	replica.Provision()
	crowd := crowdOf(replica)
	crowd.Slow = 10 * time.Second
	working, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { crowd.Run(working, 4) })
	time.Sleep(300 * time.Millisecond)
	bouncer.Pause()
	time.Sleep(time.Duration(servertest.Times(int(2*time.Second), int(time.Minute))))
	bouncer.Resume()
	t.Logf("well %v after a pause", crowd.Well(20*time.Second).Round(time.Millisecond))
	for range servertest.Times(1, 10) {
		bouncer.Restart()
		t.Logf("well %v after a restart", crowd.Well(20*time.Second).Round(time.Millisecond))
	}
	stop()
	all.Wait()
	crowd.Check(t)
	Must(replica.Admin.Audit().Verify(ctx))
}

// PostgreSQL is stopped, stays away for longer than the retry window, and comes back.
func TestPostgresIsRestarted(t *testing.T) {
	t.Parallel()
	postgres := storagetest.NewStoppable(t)
	config := ConfigFor(postgres.URL())
	config.MasterKeyFile = MasterFile(t)
	replica := serve(t, config, keystest.Module())
	replica.Provision()
	crowd := crowdOf(replica)
	crowd.Slow = 4 * time.Second // 2 s are promised
	working, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { crowd.Run(working, 4) })
	all.Go(func() { askDocuments(t, working, replica.Base) })
	time.Sleep(500 * time.Millisecond)
	postgres.Stop()
	time.Sleep(time.Duration(servertest.Times(int(6*time.Second), int(time.Minute))))
	if r := replica.Get("/readyz"); r.Status != 503 {
		t.Errorf("ready without a database: %d", r.Status)
	}
	postgres.Start()
	recovered := crowd.Well(20 * time.Second)
	t.Logf("well %v after PostgreSQL", recovered.Round(time.Millisecond))
	stop()
	all.Wait()
	crowd.Check(t)
	Must(replica.Admin.Audit().Verify(ctx))
}

// The standby takes over, and the old primary only reads from then on. Connections to it stand, so that nothing but an
// error at a write tells.
func TestFailOver(t *testing.T) {
	t.Parallel()
	pair := storagetest.NewPair(t)
	config := ConfigFor(pair.URL())
	config.MasterKeyFile = MasterFile(t)
	module := keystest.Module()
	replica, reader := serve(
		t,
		config,
		module,
	), serve(
		t,
		config,
		module,
	) // the second only introspects: no failed write tells it
	replica.Provision()
	crowd := crowdOf(replica)
	crowd.Slow = 10 * time.Second
	keepReading(t, reader, replica)
	working, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { crowd.Run(working, 4) })
	time.Sleep(time.Second)
	began := time.Now()
	pair.FailOver()
	promoted := time.Since(began)
	recovered := crowd.Well(30 * time.Second)
	t.Logf("promoted after %v, well %v later", promoted.Round(time.Millisecond), recovered.Round(time.Millisecond))
	time.Sleep(time.Second)
	stop()
	all.Wait()
	crowd.Check(t)
	tokens := replica.Login("app")
	if !reader.Active("rs", tokens.AccessToken) {
		t.Error("the replica that only reads does not see a new token")
	}
	Must(0, Status200(replica.Post("/revoke", "app", "token", tokens.RefreshToken)))
	if reader.Active("rs", tokens.AccessToken) {
		t.Error("the replica that only reads trusts a revoked token")
	}
	Must(replica.Admin.Audit().Verify(ctx)) // over other connections, which have to let go of the old primary, too
	if r := replica.Get("/readyz"); r.Status != 200 {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

// Another process holds the lock of an SQLite database. For three seconds nobody notices but by the clock; for longer,
// clients are told in time, and served at once when the lock is gone.
func TestSQLiteLocked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		held    time.Duration
		refused bool
	}{"for three seconds": {3 * time.Second, false}, "for long": {time.Duration(servertest.Times(int(9*time.Second),
		int(time.Minute))), true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := ConfigFor(SQLiteURL(t))
			replica := serve(t, config, keystest.Module())
			replica.Provision()
			crowd := crowdOf(replica)
			for i := range 4 { // each worker has a user of its own: logins of one at once are counted, by a write
				u := servertest.Party{ID: fmt.Sprintf("user%d", i), Secret: password}
				Must(replica.Admin.Users().Create(ctx, u.ID, u.Secret, nil))
				crowd.Users = append(crowd.Users[:i], u)
				replica.Post("/token", "app", "grant_type", "password", "username", u.ID, "password", u.Secret).
					Tokens(t)
				// its address is known from now on
			}
			crowd.Slow = 12 * time.Second // about 6 s, as long as SQLite waits for a lock, and as much again
			working, stop := context.WithCancel(ctx)
			var all sync.WaitGroup
			all.Go(func() { crowd.Run(working, 4) })
			time.Sleep(300 * time.Millisecond)
			before := crowd.Refusals.Load()
			lock := Must(storagetest.Raw(t, config.Database).Conn(ctx))
			Must(lock.ExecContext(ctx, `BEGIN IMMEDIATE`))
			time.Sleep(c.held)
			refused := crowd.Refusals.Load() - before
			ready := replica.Get("/readyz?verbose")
			if c.refused && (ready.Status != 503 || !strings.Contains(ready.Body, "database failed")) {
				t.Errorf("ready while another process holds the lock: %s", ready.Body)
			}
			Must(lock.ExecContext(ctx, `ROLLBACK`))
			recovered := crowd.Well(20 * time.Second)
			stop()
			all.Wait()
			t.Logf("%d refused, well %v after the lock was gone", refused, recovered.Round(time.Millisecond))
			if (refused > 0) != c.refused {
				t.Errorf("%d requests were refused", refused)
			}
			if recovered > 10*time.Second { // 5 s are promised
				t.Errorf("well only after %v", recovered)
			}
			crowd.Check(t)
		})
	}
}

// keepReading introspects at a replica from its connections of today, and once more for each after the failover: what
// it says must be true.
func keepReading(t *testing.T, reader, writer *serving) {
	tokens := writer.Login("app")
	var all sync.WaitGroup
	for range 8 { // as many connections as a replica has
		all.Go(func() {
			for range 20 {
				reader.Active("rs", tokens.AccessToken)
			}
		})
	}
	all.Wait()
}

// A refresh succeeds and its answer is lost. Then the database is away twice, or another process holds its lock, for
// longer than the retry window in all. The next try of the client is a retry, not a reuse.
func TestRetryAfterOutages(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		window := time.Duration(h.Config.RefreshRetryWindow)
		for name, outages := range map[string][][2]time.Duration{
			"one":               {{window / 2, 3 * window}},
			"two":               {{window / 2, 2 * window}, {2*window + window/2, 4 * window}},
			"from before":       {{-window, 3 * window}},
			"one after another": {{window / 2, window}, {window, 2 * window}, {3*window - time.Second, 5 * window}},
		} {
			tokens := h.Login("app")
			lost := h.Refresh("app", tokens.RefreshToken).Tokens(t)
			rotated, last := h.Clock.Now(), time.Duration(0)
			for _, o := range outages {
				h.Server.ring.NoteOutage(rotated.Add(o[0]), rotated.Add(o[1]))
				last = o[1]
			}
			h.Step(last + window - time.Second)
			if r := h.Refresh("app", tokens.RefreshToken); r.Status != 200 ||
				r.Tokens(t).RefreshToken != lost.RefreshToken {
				t.Errorf("%s: %d %s", name, r.Status, r.Body)
			}
			h.Step(2 * time.Second)
			if r := h.Refresh("app", tokens.RefreshToken); r.Status != 400 {
				t.Errorf("%s: the window never ends: %d", name, r.Status)
			}
			h.Step(time.Hour) // the outages of one case are none of the next
		}
	})
}

// The lock of an SQLite database is held while a client repeats a refresh.
func TestRetryUnderALock(t *testing.T) {
	t.Parallel()
	patient := func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
	hasty := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, time.Second)
	}
	for name, c := range map[string]struct {
		patience func(context.Context) (context.Context, context.CancelFunc)
		lock     time.Duration // for how long: the server waits for five seconds
		want     int
	}{"in vain": {patient, 6 * time.Second, 503}, "for less long than the server": {hasty, 6 * time.Second,
		0}, "and gets through": {patient, 4 * time.Second, 200}} {
		for _, remembered := range []bool{false, true} {
			t.Run(fmt.Sprintf("who waits %s, remembered %v", name, remembered), func(t *testing.T) {
				t.Parallel()
				retryUnderALock(t, remembered, c.patience, c.lock, c.want)
			})
		}
	}
}

func retryUnderALock(
	t *testing.T,
	remembered bool,
	patience func(context.Context) (context.Context, context.CancelFunc),
	span time.Duration,
	want int,
) {
	config := ConfigFor(SQLiteURL(t))
	config.RefreshRetryWindow = 3 * time.Second
	replica := serve(t, config, keystest.Module())
	replica.Provision()
	tokens := replica.Login("app")
	if !remembered {
		replica.Server.clients.age = 0
	}
	lost := replica.Refresh("app", tokens.RefreshToken).Tokens(t)
	lock := Must(storagetest.Raw(t, config.Database).Conn(ctx))
	Must(lock.ExecContext(ctx, `BEGIN IMMEDIATE`))
	unlocked := make(chan struct{})
	time.AfterFunc(span, func() { Must(lock.ExecContext(ctx, `ROLLBACK`)); close(unlocked) })
	patient, cancel := patience(ctx)
	defer cancel()
	r := Must(
		http.NewRequestWithContext(
			patient,
			http.MethodPost,
			replica.Base+"/token",
			strings.NewReader("grant_type=refresh_token&refresh_token="+tokens.RefreshToken),
		),
	)
	r.Header.Set("Content-Type", formMediaType)
	r.Header.Set("Authorization", Basic("app", secret))
	got, err := noRedirect.Do(r)
	if err == nil && got.StatusCode != want || err != nil && want != 0 {
		t.Errorf("under the lock: %v %v", got, err)
	}
	<-unlocked
	if want == 200 { // by now another retry would come too late
		if body := Must(io.ReadAll(got.Body)); !strings.Contains(string(body), lost.RefreshToken) {
			t.Errorf("the retry gets another successor: %s", body)
		}
		return
	}
	if again := replica.Refresh("app", tokens.RefreshToken).Tokens(t); again.RefreshToken != lost.RefreshToken {
		t.Error("the retry gets another successor")
	}
}
