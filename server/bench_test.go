package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// measured is a replica whose handlers are called without a network.
type measured struct {
	*Harness
	routes http.Handler
	filled keystest.Filled
}

// measure runs a benchmark on each database, on a replica that keeps time and writes its log as in production.
func measure(b *testing.B, grants int, run func(b *testing.B, m *measured)) {
	for name, databaseURL := range map[string]func(testing.TB) string{"sqlite": storagetest.SQLiteURL,
		"postgres": storagetest.PostgresURL} {
		b.Run(name, func(b *testing.B) {
			c := ConfigFor(databaseURL(b))
			c.PasswordHashMemory = 19 << 20
			if !IsSQLite(c.Database) {
				c.MasterKeyFile = MasterFile(b)
			}
			s := Must(
				OpenServer(
					ctx,
					c,
					Options{
						Module: keystest.Module(),
						Log:    NewLog(config.Config{LogLevel: "info"}, io.Discard, false).Logger,
					},
				),
			)
			b.Cleanup(func() { s.Close() })
			go s.ring.Run(b.Context())
			h := &Harness{T: b, Config: c, Server: s}
			h.Admin = admin.New(s.store, s.settingsNow(), s.place, admin.Options{Actor: "os:bench"})
			h.Provision()
			m := &measured{h, s.PublicHandler(), h.FillGrants("app", grants)}
			b.ReportAllocs()
			b.ResetTimer()
			run(b, m)
		})
	}
}

// call sends a form to the handler, or nothing, and wants 200.
func (m *measured) call(b *testing.B, method, path, client string, form ...string) string {
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	r := httptest.NewRequest(method, path, strings.NewReader(values.Encode()))
	if client != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", Basic(client, secret))
	}
	w := httptest.NewRecorder()
	m.routes.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		b.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func jsonField(body, name string) string {
	_, rest, _ := strings.Cut(body, `"`+name+`":"`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func BenchmarkRefresh(b *testing.B) {
	measure(b, 100, func(b *testing.B, m *measured) {
		token := m.filled.RefreshToken(0)
		for b.Loop() {
			token = jsonField(
				m.call(b, http.MethodPost, api.PathToken, "app", "grant_type", "refresh_token", "refresh_token", token),
				"refresh_token",
			)
		}
	})
}

func BenchmarkIntrospectionSeen(b *testing.B) {
	measure(b, 100, func(b *testing.B, m *measured) {
		token := jsonField(
			m.call(
				b,
				http.MethodPost,
				api.PathToken,
				"app",
				"grant_type",
				"refresh_token",
				"refresh_token",
				m.filled.RefreshToken(0),
			),
			"access_token",
		)
		for b.Loop() {
			m.call(b, http.MethodPost, api.PathIntrospect, "rs", "token", token)
		}
	})
}

func BenchmarkIntrospectionParallel(b *testing.B) {
	measure(b, 100, func(b *testing.B, m *measured) {
		token := jsonField(
			m.call(
				b,
				http.MethodPost,
				api.PathToken,
				"app",
				"grant_type",
				"refresh_token",
				"refresh_token",
				m.filled.RefreshToken(0),
			),
			"access_token",
		)
		b.SetParallelism(16)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				m.call(b, http.MethodPost, api.PathIntrospect, "rs", "token", token)
			}
		})
	})
}

func BenchmarkLogin(b *testing.B) {
	measure(b, 1, func(b *testing.B, m *measured) {
		for b.Loop() {
			m.call(
				b,
				http.MethodPost,
				api.PathToken,
				"app",
				"grant_type",
				"password",
				"username",
				"alice",
				"password",
				password,
			)
		}
	})
}

func BenchmarkRevocation(b *testing.B) {
	measure(b, 100_000, func(b *testing.B, m *measured) {
		for i := 0; b.Loop(); i++ {
			m.call(b, http.MethodPost, api.PathRevoke, "app", "token", m.filled.RefreshToken(i%100_000))
		}
	})
}

func BenchmarkJWKS(b *testing.B) {
	measure(b, 1, func(b *testing.B, m *measured) {
		for b.Loop() {
			m.call(b, http.MethodGet, api.PathJWKS, "")
		}
	})
}

// BenchmarkStatusList compares logins and refreshes with status lists and without, in turns, on one database. on/off is
// the ratio of the medians. The password hash is cheap, since it would hide all else.
func BenchmarkStatusList(b *testing.B) {
	measure(b, 1, func(b *testing.B, m *measured) {
		var sides []*measured
		for _, setting := range []string{"off", "on"} {
			c := m.Config
			c.StatusList, c.PasswordHashMemory = setting, 64<<10
			s := Must(OpenServer(ctx, c, Options{
				Module: keystest.Module(),
				Log:    NewLog(config.Config{LogLevel: "info"}, io.Discard, false).Logger,
			}))
			b.Cleanup(func() { s.Close() })
			go s.ring.Run(b.Context())
			if setting == "on" {
				cheap := admin.New(s.store, c, s.place, admin.Options{Actor: "os:bench"})
				Must(cheap.Users().Create(ctx, "bob", password, nil))
			}
			sides = append(sides, &measured{m.Harness, s.PublicHandler(), m.filled})
		}
		login := func(m *measured, _ *string) {
			m.call(b, http.MethodPost, api.PathToken, "app", "grant_type", "password", "username", "bob",
				"password", password)
		}
		refresh := func(m *measured, token *string) {
			*token = jsonField(m.call(b, http.MethodPost, api.PathToken, "app", "grant_type", "refresh_token",
				"refresh_token", *token), "refresh_token")
		}
		for name, do := range map[string]func(*measured, *string){"login": login, "refresh": refresh} {
			b.Run(name, func(b *testing.B) {
				var tokens [2]string
				var took [2][]time.Duration
				for i, side := range sides {
					tokens[i] = jsonField(side.call(b, http.MethodPost, api.PathToken, "app", "grant_type", "password",
						"username", "bob", "password", password), "refresh_token")
				}
				for i := 0; b.Loop(); i++ {
					for j := range sides {
						k := (i + j) % 2
						begun := time.Now()
						do(sides[k], &tokens[k])
						took[k] = append(took[k], time.Since(begun))
					}
				}
				for _, t := range took {
					slices.Sort(t)
				}
				off, on := took[0][len(took[0])/2], took[1][len(took[1])/2]
				b.ReportMetric(float64(on)/float64(off), "on/off")
			})
		}
	})
}
