package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Schedule holds the settings of the servers of a database that commands need: the lifetimes of keys and tokens, how
// long verifiers cache the JWKS, and what decides the size of access tokens. The server that started last records it.
type Schedule struct {
	AccessTTL           Span   `json:"access_ttl"`
	RefreshMaxTTL       Span   `json:"refresh_max_ttl"`
	KeyRotationInterval Span   `json:"key_rotation_interval"`
	KeyPublishLead      Span   `json:"key_publish_lead"`
	JWKSMaxAge          Span   `json:"jwks_max_age"`
	KeyBits             int    `json:"key_bits"`
	Issuer              string `json:"issuer"` // "" if an older server recorded it
}

// Span is a time.Duration as text in JSON, such as 1h30m0s. It also reads days, such as 90d.
type Span time.Duration

// MarshalText implements encoding.TextMarshaler.
func (s Span) MarshalText() ([]byte, error) { return []byte(time.Duration(s).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Span) UnmarshalText(text []byte) error {
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		*s = Span(time.Duration(n) * 24 * time.Hour)
		return err
	}
	span, err := time.ParseDuration(string(text))
	*s = Span(span)
	return err
}

// RecordSchedule stores the settings for commands and other servers. It writes nothing if they have not changed.
func (r *Ring) RecordSchedule(ctx context.Context, s Schedule) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	if recorded, err := r.sealedSchedule(ctx); err != nil || bytes.Equal(recorded, text) {
		return err
	}
	return r.db.Meta().Set(ctx, metaSchedule, r.view.Load().master.seal(metaSchedule, "1", nil, text))
}

// Schedule returns the last recorded schedule. ok is false if there is none, or if somebody has altered it.
func (r *Ring) Schedule(ctx context.Context) (s Schedule, ok bool, err error) {
	text, err := r.sealedSchedule(ctx)
	if err != nil || len(text) == 0 {
		return s, false, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, false, fmt.Errorf("schedule: %w", err)
	}
	return s, true, nil
}

// sealedSchedule returns the recorded text, or nil if there is none or it cannot be opened.
func (r *Ring) sealedSchedule(ctx context.Context) ([]byte, error) {
	sealed, err := r.db.Meta().Value(ctx, metaSchedule)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := r.master.Load().open(metaSchedule, "1", nil, sealed)
	if err != nil {
		r.options.Log.Warn("the recorded schedule cannot be opened", "error", err)
	}
	return text, nil
}
