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

// Schedule is what commands must know of the servers of their database: the settings by which keys live, how long
// verifiers keep the JWKS, and what decides the size of access tokens. The server that started last has recorded it.
type Schedule struct {
	AccessTTL           Span   `json:"access_ttl"`
	RefreshMaxTTL       Span   `json:"refresh_max_ttl"`
	KeyRotationInterval Span   `json:"key_rotation_interval"`
	KeyPublishLead      Span   `json:"key_publish_lead"`
	JWKSMaxAge          Span   `json:"jwks_max_age"`
	KeyBits             int    `json:"key_bits"`
	Issuer              string `json:"issuer"` // "" if an older server has recorded it
}

// Span is a time.Duration that is text in JSON, as Go writes it. Text in days, such as 90d, is read as well.
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

// RecordSchedule records the settings by which servers of this database run, for commands and for servers that have
// not read them. It writes only if they differ from what is recorded.
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

// Schedule is the schedule that a server recorded last; ok is false if none has, or if it was altered.
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

// sealedSchedule is the recorded text; nil if there is none or if it does not open.
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
		r.options.Log.Warn("the schedule that servers recorded cannot be read", "error", err)
	}
	return text, nil
}
