package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Schedule is the settings of servers that commands must know: the life of keys, how long verifiers keep the JWKS, and
// what decides the size of access tokens. The server that started last has recorded them.
type Schedule struct {
	AccessTTL           Span   `json:"access_ttl"`
	RefreshMaxTTL       Span   `json:"refresh_max_ttl"`
	KeyRotationInterval Span   `json:"key_rotation_interval"`
	KeyPublishLead      Span   `json:"key_publish_lead"`
	JWKSMaxAge          Span   `json:"jwks_max_age"`
	KeyBits             int    `json:"key_bits"`
	Issuer              string `json:"issuer"`      // "" if an older server has recorded it
	StatusList          string `json:"status_list"` // the same
	JWKSObserve         string `json:"jwks_observe"`
	WaitsFor            string `json:"key_rotation_waits_for"`
	Patience            Span   `json:"key_rotation_patience"`
	AdminURL            string `json:"admin_url"` // of the console; "" if none is known
}

// Span is a time.Duration whose JSON is text in the form of Go. UnmarshalText also reads days, such as 90d.
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

// ScheduleRecord is the Schedule in the database, sealed under the master key.
type ScheduleRecord struct{ ring *Ring }

// Write records the schedule. It writes nothing if the same schedule is recorded already.
func (r ScheduleRecord) Write(ctx context.Context, s Schedule) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	for try := 1; ; try++ {
		err := r.write(ctx, text)
		if !errors.Is(err, storage.ErrConflict) || try == 10 {
			return err
		}
		if err := r.ring.Poll(ctx); err != nil {
			return err
		}
	}
}

// write records the text. ErrConflict if another server wrote meanwhile, or if the keys have changed, perhaps with the
// master key.
func (r ScheduleRecord) write(ctx context.Context, text []byte) error {
	v := r.ring.view.Load()
	sealed, recorded, err := r.text(ctx)
	if err != nil || bytes.Equal(recorded, text) {
		return err
	}
	anew := v.master.seal(metaSchedule, "1", nil, text)
	return r.ring.db.Meta().SwapSealed(ctx, metaSchedule, sealed, anew, v.version)
}

// Read returns the recorded schedule. ok is false if there is none, or if it was altered.
func (r ScheduleRecord) Read(ctx context.Context) (s Schedule, ok bool, err error) {
	_, text, err := r.text(ctx)
	if err != nil || len(text) == 0 {
		return s, false, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, false, fmt.Errorf("schedule: %w", err)
	}
	return s, true, nil
}

// text returns the recorded text, sealed and opened. Both are empty if there is none; text is nil if it does not open.
func (r ScheduleRecord) text(ctx context.Context) (sealed string, text []byte, err error) {
	sealed, err = r.ring.db.Meta().Value(ctx, metaSchedule)
	if isNotFound(err) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	text, err = r.ring.masters.load().open(metaSchedule, "1", nil, sealed)
	if err != nil {
		r.ring.options.Log.Warn("the schedule that servers recorded cannot be read", "error", err)
	}
	return sealed, text, nil
}
