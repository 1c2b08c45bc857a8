package admin

import (
	"cmp"
	"context"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
)

// followServers applies the settings of the servers, except those that the command was given. It applies all of them if
// the given ones conflict with them. Verifiers cache what any server announced: the longer jwks_max_age counts.
func (a *core) followServers(ctx context.Context, given map[string]bool) error {
	s, ok, err := a.ring.ScheduleRecord().Read(ctx)
	if err != nil || !ok {
		return err
	}
	mixed := following(a.config, s, given)
	mixed.JWKSMaxAge = max(mixed.JWKSMaxAge, time.Duration(s.JWKSMaxAge))
	if problems := keys.Config(mixed.Keys()).Problems(); problems != nil {
		if a.say != nil {
			a.say("keyturn: the given settings conflict with those of the servers (%v): using those of the servers",
				problems[0])
		}
		mixed = following(a.config, s, nil)
	}
	a.config = mixed
	a.ring.Configure(keys.Config(mixed.Keys()))
	return nil
}

// following returns c with the settings of a schedule, except those that were given.
func following(c config.Config, s keys.Schedule, given map[string]bool) config.Config {
	for _, setting := range []struct {
		key    string
		follow func()
	}{
		{"access_ttl", func() { c.AccessTTL = time.Duration(s.AccessTTL) }},
		{"refresh_max_ttl", func() { c.RefreshMaxTTL = time.Duration(s.RefreshMaxTTL) }},
		{"key_rotation_interval", func() { c.KeyRotationInterval = time.Duration(s.KeyRotationInterval) }},
		{"key_publish_lead", func() { c.KeyPublishLead = time.Duration(s.KeyPublishLead) }},
		{"jwks_max_age", func() { c.JWKSMaxAge = time.Duration(s.JWKSMaxAge) }},
		{"key_bits", func() { c.KeyBits = s.KeyBits }},
		{"status_list", func() { c.StatusList = cmp.Or(s.StatusList, c.StatusList) }},
		{"jwks_observe", func() { c.JWKSObserve = cmp.Or(s.JWKSObserve, c.JWKSObserve) }},
		{"key_rotation_waits_for", func() { c.KeyRotationWaitsFor = cmp.Or(s.WaitsFor, c.KeyRotationWaitsFor) }},
		{"key_rotation_patience", func() {
			if s.WaitsFor != "" {
				c.KeyRotationPatience = time.Duration(s.Patience)
			}
		}},
		{"admin_urls", func() {
			if s.AdminURL != "" {
				c.AdminURLs = config.List{s.AdminURL}
			}
		}},
		{"issuer", func() { c.Issuer = cmp.Or(s.Issuer, c.Issuer) }}, // older servers record none
	} {
		if !given[setting.key] {
			setting.follow()
		}
	}
	return c
}
