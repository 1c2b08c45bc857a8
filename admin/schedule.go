package admin

import (
	"cmp"
	"context"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
)

// followServers takes over, of the settings that were not given to a command, those by which servers run; all of them,
// if those that were given do not go with them. Verifiers keep what any server told them: the longer jwks_max_age
// counts.
func (a *core) followServers(ctx context.Context, given map[string]bool) error {
	s, ok, err := a.ring.ScheduleRecord().Read(ctx)
	if err != nil || !ok {
		return err
	}
	mixed := following(a.config, s, given)
	mixed.JWKSMaxAge = max(mixed.JWKSMaxAge, time.Duration(s.JWKSMaxAge))
	if problems := keys.Config(mixed.Keys()).Problems(); problems != nil {
		if a.say != nil {
			a.say("keyturn: the settings given here do not go with those of the servers (%v): theirs count", problems[0])
		}
		mixed = following(a.config, s, nil)
	}
	a.config = mixed
	a.ring.Configure(keys.Config(mixed.Keys()))
	return nil
}

// following is c with the settings of a schedule in place of those that were not given.
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
		{"issuer", func() { c.Issuer = cmp.Or(s.Issuer, c.Issuer) }}, // an older server has recorded none
	} {
		if !given[setting.key] {
			setting.follow()
		}
	}
	return c
}
