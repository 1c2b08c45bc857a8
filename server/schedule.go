package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
)

// schedule is what commands must know of the servers of their database: by these settings keys live, verifiers keep
// what they were told, and access tokens have their size. The server that started last has recorded it.
type schedule struct {
	AccessTTL           Duration `json:"access_ttl"`
	RefreshMaxTTL       Duration `json:"refresh_max_ttl"`
	KeyRotationInterval Duration `json:"key_rotation_interval"`
	KeyPublishLead      Duration `json:"key_publish_lead"`
	JWKSMaxAge          Duration `json:"jwks_max_age"`
	KeyBits             int      `json:"key_bits"`
	Issuer              string   `json:"issuer"`
}

func (c Config) schedule() schedule {
	return schedule{
		AccessTTL:           c.AccessTTL,
		RefreshMaxTTL:       c.RefreshMaxTTL,
		KeyRotationInterval: c.KeyRotationInterval,
		KeyPublishLead:      c.KeyPublishLead,
		JWKSMaxAge:          c.JWKSMaxAge,
		KeyBits:             c.KeyBits,
		Issuer:              c.Issuer,
	}
}

func (s *Server) recordSchedule(ctx context.Context, c Config) error {
	text, err := json.Marshal(c.schedule())
	if err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	return s.ring.RecordSchedule(ctx, text)
}

// followServers takes over, of the settings that were not given to a command, those by which servers run; all of them,
// if those that were given do not go with them. Verifiers keep what any server told them: the longer jwks_max_age
// counts.
func (a *Admin) followServers(ctx context.Context, o AdminOptions) error {
	text, err := a.ring.Schedule(ctx)
	if err != nil || len(text) == 0 {
		return err
	}
	var s schedule
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	mixed := a.config.following(s, o.Given)
	mixed.JWKSMaxAge = max(mixed.JWKSMaxAge, s.JWKSMaxAge)
	if problems := mixed.Keys().Problems(); problems != nil {
		if a.say != nil {
			a.say("keyturn: the settings given here do not go with those of the servers (%v): theirs count", problems[0])
		}
		mixed = a.config.following(s, nil)
	}
	a.config = mixed
	a.ring.Follow(mixed.Keys())
	return nil
}

// following is c with the settings of a schedule in place of those that were not given.
func (c Config) following(s schedule, given map[string]bool) Config {
	for _, setting := range []struct {
		key    string
		follow func()
	}{
		{"access_ttl", func() { c.AccessTTL = s.AccessTTL }},
		{"refresh_max_ttl", func() { c.RefreshMaxTTL = s.RefreshMaxTTL }},
		{"key_rotation_interval", func() { c.KeyRotationInterval = s.KeyRotationInterval }},
		{"key_publish_lead", func() { c.KeyPublishLead = s.KeyPublishLead }},
		{"jwks_max_age", func() { c.JWKSMaxAge = s.JWKSMaxAge }},
		{"key_bits", func() { c.KeyBits = s.KeyBits }},
		{"issuer", func() { c.Issuer = cmp.Or(s.Issuer, c.Issuer) }}, // an older server has recorded none
	} {
		if !given[setting.key] {
			setting.follow()
		}
	}
	return c
}
