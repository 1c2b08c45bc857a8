package keys_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// configs are the schedules among which the model changes.
var configs = []keys.Config{
	keystest.Config,
	{
		RotationInterval: 30 * time.Hour,
		PublishLead:      12 * time.Hour,
		JWKSMaxAge:       time.Hour,
		Bits:             2048,
		TokenTTL:         time.Hour,
	},
	{
		RotationInterval: 10 * time.Minute,
		PublishLead:      10 * time.Minute,
		JWKSMaxAge:       5 * time.Minute,
		Bits:             2048,
		TokenTTL:         time.Minute,
	},
	{
		RotationInterval: 4 * time.Second,
		PublishLead:      2 * time.Second,
		JWKSMaxAge:       time.Second,
		Bits:             2048,
		TokenTTL:         time.Minute,
	},
	{
		RotationInterval: 10 * 24 * time.Hour,
		PublishLead:      7 * 24 * time.Hour,
		JWKSMaxAge:       24 * time.Hour,
		Bits:             2048,
		TokenTTL:         10 * time.Minute,
	},
}

// lifeModel is three replicas on one database, the tokens that they have signed, and verifiers that keep the JWKS for
// max-age. It checks results only, not decisions.
type lifeModel struct {
	db       *storage.DB
	clock    *clock
	module   keys.CryptoModule
	config   keys.Config
	replicas []*keys.Ring
	reads    []time.Time // when each replica read the rows last
	informed []bool      // whether each replica has read the rows since a person last changed them
	tokens   []modelToken
	caches   []modelCache
	promises []modelPromise
	hasty    map[string]bool // keys that signed before their lead was over: forced, or after a leak
	revoked  map[string]bool
	exposed  time.Time // until when a verifier that obeys max-age may trust a revoked key
}

type modelToken struct {
	text, kid string
	expires   time.Time
}

// modelCache is the JWKS that one verifier keeps.
type modelCache struct {
	kids  map[string]bool
	until time.Time
}

// modelPromise is a JWKS that was served, and the end of its max-age.
type modelPromise struct {
	etag        string
	made, until time.Time
}

// empty makes the database as good as new, which is faster than a new one.
func empty(t testing.TB, raw *sql.DB) {
	storagetest.MustExec(
		t,
		raw,
		`DELETE FROM signing_keys`,
		`DELETE FROM secret_keys`,
		`DELETE FROM meta`,
		`DELETE FROM audit`,
		`UPDATE audit_head SET seq = 0, hash = ''`,
		`UPDATE key_set SET version = 0, mac = ''`,
	)
}

func newLifeModel(r *rapid.T, db *storage.DB) *lifeModel {
	m := &lifeModel{
		db:       db,
		clock:    newClock(),
		module:   keystest.Module(),
		config:   configs[0],
		replicas: make([]*keys.Ring, 3),
		reads:    make([]time.Time, 3),
		informed: make([]bool, 3),
		hasty:    map[string]bool{},
		revoked:  map[string]bool{},
	}
	for i := range m.replicas {
		m.start(r, i)
	}
	m.hasty[m.current(r)] = true // the first key of all
	return m
}

func (m *lifeModel) start(r *rapid.T, i int) {
	ring, err := keys.Open(ctx, m.db, keystest.MustMaster(r, 1), m.config, m.clock.options(m.module))
	if err != nil {
		r.Fatal(err)
	}
	m.replicas[i] = ring
	m.maintain(r, i)
}

// rows returns the rows in the database.
func (m *lifeModel) rows(r *rapid.T) []storage.SigningKey {
	set, err := m.db.SigningKeys().All(ctx)
	if err != nil {
		r.Fatal(err)
	}
	return set.Keys
}

func (m *lifeModel) current(r *rapid.T) string {
	for _, row := range m.rows(r) {
		if row.State == storage.KeyCurrent {
			return row.KID
		}
	}
	r.Fatal("no key is current")
	return ""
}

// maintain lets a replica take the steps that are due. No step may come before the end of the max-age of a JWKS that
// this replica served.
func (m *lifeModel) maintain(r *rapid.T, i int) {
	before := etag(m.replicas[i])
	if err := m.replicas[i].LifeCycle().Maintain(ctx); err != nil {
		r.Fatal(err)
	}
	now := m.clock.now()
	m.reads[i], m.informed[i] = now, true
	if etag(m.replicas[i]) == before {
		return
	}
	for _, p := range m.promises {
		if p.etag == before && now.After(p.made) && now.Before(p.until) && m.changedBySchedule(r, now) {
			r.Fatalf(
				"at %v the JWKS changed by schedule; it was served at %v with a max-age until %v",
				now,
				p.made,
				p.until,
			)
		}
	}
}

// changedBySchedule reports whether a key was activated or retired now. A newly published next key does not count: no
// verifier needs it yet.
func (m *lifeModel) changedBySchedule(r *rapid.T, now time.Time) bool {
	return slices.ContainsFunc(m.rows(r), func(k storage.SigningKey) bool {
		return k.ActivatedAt != nil && k.ActivatedAt.Equal(now) || k.RetiredAt != nil && k.RetiredAt.Equal(now)
	})
}

func etag(r *keys.Ring) string {
	if r == nil {
		return ""
	}
	return r.JWKS().ETag
}

// stale reports whether the view of a replica is too old. The replica must know that itself.
func (m *lifeModel) stale(i int) bool { return m.clock.now().Sub(m.reads[i]) > keys.StaleAfter }

func (m *lifeModel) drawReplica(r *rapid.T) int {
	return rapid.IntRange(0, len(m.replicas)-1).Draw(r, "replica")
}

// wait steps the clock. Each replica polls in that time or misses the poll.
func (m *lifeModel) wait(r *rapid.T) {
	spans := []time.Duration{
		time.Millisecond,
		time.Second,
		2 * time.Second,
		9 * time.Second,
		time.Minute,
		5 * time.Minute,
		time.Hour,
		11 * time.Hour,
		m.config.PublishLead,
		m.config.RotationInterval,
	}
	m.clock.step(rapid.SampledFrom(spans).Draw(r, "span"))
	for i := range m.replicas {
		if rapid.IntRange(0, 3).Draw(r, "polls") > 0 {
			m.maintain(r, i)
		}
	}
}

// sign lets a replica sign. Every verifier within max-age must have the key, unless the key signs before its lead is
// over.
func (m *lifeModel) sign(r *rapid.T) {
	i := m.drawReplica(r)
	expires := m.clock.now().
		Add(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, m.config.TokenTTL}).Draw(r, "ttl"))
	before := etag(m.replicas[i])
	signer, err := m.replicas[i].Signer(ctx, expires)
	if m.stale(i) {
		if !errors.Is(err, keys.ErrStale) {
			r.Fatalf("a stale replica signs: %v", err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	if etag(m.replicas[i]) != before { // it has read the rows, since another key is current
		m.reads[i], m.informed[i] = m.clock.now(), true
	}
	text, err := signer.Sign(keys.TypAccessToken, payload(expires))
	if err != nil {
		r.Fatal(err)
	}
	if m.revoked[signer.KID] {
		return // the replica did not know of the revocation; the token is refused everywhere
	}
	m.tokens = append(m.tokens, modelToken{text, signer.KID, expires})
	for _, c := range m.caches {
		if m.clock.now().Before(c.until) && !c.kids[signer.KID] && !m.hasty[signer.KID] {
			r.Fatalf("a verifier may keep its JWKS until %v and lacks key %s", c.until, signer.KID)
		}
	}
}

// fetch lets a verifier fetch the JWKS.
func (m *lifeModel) fetch(r *rapid.T) {
	i := m.drawReplica(r)
	if m.stale(i) {
		return
	}
	served, now := m.replicas[i].JWKS(), m.clock.now()
	m.caches = append(m.caches, modelCache{kidsOf(r, served.Body), now.Add(served.MaxAge)})
	m.promises = append(m.promises, modelPromise{served.ETag, now, now.Add(served.MaxAge)})
	if now.Before(m.exposed) && served.MaxAge > keys.IncidentMaxAge && m.informed[i] {
		r.Fatalf("max-age is %v while a revoked key may be trusted", served.MaxAge)
	}
}

func kidsOf(r *rapid.T, body []byte) map[string]bool {
	var set struct {
		Keys []struct{ KID string }
	}
	if err := json.Unmarshal(body, &set); err != nil {
		r.Fatal(err)
	}
	kids := map[string]bool{}
	for _, k := range set.Keys {
		kids[k.KID] = true
	}
	return kids
}

func (m *lifeModel) rotate(r *rapid.T) {
	i, force := m.drawReplica(r), rapid.Bool().Draw(r, "force")
	if force && rapid.IntRange(0, 3).Draw(r, "rarely") > 0 {
		return
	}
	before := m.rows(r)
	rotation, err := m.replicas[i].LifeCycle().Rotate(ctx, admin, keys.Gate{Force: force})
	m.reads[i] = m.clock.now()
	var young *keys.TooYoungError
	if errors.As(err, &young) {
		if force || !m.clock.now().Before(young.Earliest) || !cmp.Equal(before, m.rows(r)) {
			r.Fatal("refused:", err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	if force {
		m.hasty[rotation.Current] = true
	}
	m.changedBy(i)
}

// changedBy drops the promises after a person changed the keys on a replica: a planned max-age cannot cover that. The
// other replicas do not know yet.
func (m *lifeModel) changedBy(i int) {
	m.promises, m.informed = nil, make([]bool, len(m.replicas))
	m.informed[i] = true
}

func (m *lifeModel) revoke(r *rapid.T) {
	if rapid.IntRange(0, 2).Draw(r, "rarely") > 0 {
		return
	}
	i, storeLeaked := m.drawReplica(r), rapid.IntRange(0, 3).Draw(r, "store leaked") == 0
	rows := m.rows(r)
	row := rows[rapid.IntRange(0, len(rows)-1).Draw(r, "row")]
	done, err := m.replicas[i].LifeCycle().Revoke(ctx, admin, keys.Leak{KID: row.KID, Store: storeLeaked})
	m.reads[i] = m.clock.now()
	if err != nil {
		r.Fatal(err)
	}
	for _, kid := range done.Revoked {
		m.revoked[kid] = true
	}
	m.tokens = slices.DeleteFunc(m.tokens, func(t modelToken) bool { return m.revoked[t.kid] })
	m.hasty[done.Current] = true
	m.changedBy(i)
	if until := m.clock.now().Add(m.config.JWKSMaxAge); !done.Already && until.After(m.exposed) {
		m.exposed = until
	}
	if done.ExposedUntil.Before(m.exposed.Truncate(time.Millisecond)) {
		r.Fatalf("exposed until %v, it says %v", m.exposed, done.ExposedUntil)
	}
	if kids := kidsOf(r, m.replicas[i].JWKS().Body); kids[row.KID] || !kids[done.Current] || !kids[done.Next] {
		r.Fatalf("after %+v the JWKS holds %v", done, kids)
	}
	if done.SecondRotation != nil && done.SecondRotation.Before(done.ExposedUntil) {
		r.Fatalf(
			"the second rotation at %v comes before verifiers know its key, %v",
			done.SecondRotation,
			done.ExposedUntil,
		)
	}
}

// reconfigure restarts all replicas with another schedule. It drops the copies of the JWKS: the old schedule may have
// had a longer max-age.
func (m *lifeModel) reconfigure(r *rapid.T) {
	if rapid.IntRange(0, 3).Draw(r, "rarely") > 0 {
		return
	}
	m.config = rapid.SampledFrom(configs).Draw(r, "config")
	m.caches, m.promises = nil, nil
	for i := range m.replicas {
		m.start(r, i)
	}
}

// check runs after every action.
func (m *lifeModel) check(r *rapid.T) {
	now, states, byKID := m.clock.now(), map[storage.KeyState]int{}, map[string]storage.SigningKey{}
	for _, row := range m.rows(r) {
		states[row.State]++
		byKID[row.KID] = row
		m.checkRow(r, row)
	}
	if states[storage.KeyCurrent] != 1 || states[storage.KeyNext] != 1 {
		r.Fatalf("states %v", states)
	}
	m.tokens = slices.DeleteFunc(m.tokens, func(t modelToken) bool { return !now.Before(t.expires) })
	for i, ring := range m.replicas {
		kids := kidsOf(r, ring.JWKS().Body)
		if len(kids) == 0 {
			r.Fatal("an empty JWKS")
		}
		if m.stale(i) {
			continue
		}
		for _, t := range m.tokens {
			// With a short schedule, a key can be published and sign before a replica that does not poll is stale.
			polled := now.Sub(m.reads[i]) < m.config.PublishLead
			if !byKID[t.kid].State.Published() || !kids[t.kid] && polled && (!m.hasty[t.kid] || m.informed[i]) {
				r.Fatalf(
					"replica %d lacks key %s (%s) of a token that lives until %v",
					i,
					t.kid,
					byKID[t.kid].State,
					t.expires,
				)
			}
			if _, err := ring.Verify(t.text); err != nil && kids[t.kid] {
				r.Fatalf("replica %d refuses a live token of %s: %v", i, t.kid, err)
			}
		}
		for kid := range m.revoked {
			if kids[kid] && m.informed[i] {
				r.Fatalf("revoked key %s is in the JWKS of replica %d", kid, i)
			}
		}
	}
}

func (m *lifeModel) checkRow(r *rapid.T, row storage.SigningKey) {
	if sealed := row.PrivateKey != ""; sealed != (row.State == storage.KeyCurrent || row.State == storage.KeyNext) {
		r.Fatalf("key %s is %s; its private half is there: %v", row.KID, row.State, sealed)
	}
	if m.revoked[row.KID] != (row.State == storage.KeyRevoked) {
		r.Fatalf("key %s is %s", row.KID, row.State)
	}
	if row.ActivatedAt == nil || m.hasty[row.KID] {
		return
	}
	if lead := row.ActivatedAt.Sub(row.PublishedAt.Time); lead < leastLead(row) {
		r.Fatalf("key %s came to sign after %v", row.KID, lead)
	}
}

// leastLead returns the shortest time between the publication of a key and its first signature: the shortest lead, or,
// for a second rotation after a leak, the shortest max-age.
func leastLead(row storage.SigningKey) time.Duration {
	if row.Reason == "second rotation after a revocation" {
		return time.Second + keys.Skew
	}
	return slices.MinFunc(configs, func(a, b keys.Config) int { return int(a.PublishLead - b.PublishLead) }).PublishLead
}

// In any order of events on three replicas, no verifier lacks the key of a live token, and no revoked key comes back.
func TestLifeModel(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
		rapid.Check(t, func(r *rapid.T) {
			empty(t, raw)
			m := newLifeModel(r, db)
			r.Repeat(map[string]func(*rapid.T){
				"wait": m.wait, "sign": m.sign, "sign again": m.sign, "fetch": m.fetch, "fetch again": m.fetch,
				"rotate": m.rotate,
				"revoke": m.revoke, "reconfigure": m.reconfigure,
				"restart": func(r *rapid.T) { m.start(r, m.drawReplica(r)) },
				"":        m.check,
			})
			if _, err := db.Audit().Verify(ctx); err != nil {
				r.Fatal(err)
			}
		})
	})
}

// keyturn accepts every schedule of the model.
func TestModelConfigs(t *testing.T) {
	t.Parallel()
	for _, c := range configs {
		if p := c.Problems(); p != nil {
			t.Error(fmt.Sprint(c), p)
		}
	}
}
