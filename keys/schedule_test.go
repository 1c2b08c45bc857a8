package keys_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A schedule reads as servers of before wrote it, in days, and is written as those servers read it.
func TestScheduleText(t *testing.T) {
	t.Parallel()
	day := keys.Span(24 * time.Hour)
	want := keys.Schedule{
		AccessTTL:           keys.Span(10 * time.Minute),
		RefreshMaxTTL:       90 * day,
		KeyRotationInterval: 90 * day,
		KeyPublishLead:      day,
		JWKSMaxAge:          keys.Span(90 * time.Second),
		KeyBits:             2048,
		Issuer:              "https://auth.example",
	}
	const old = `{"access_ttl":"10m","refresh_max_ttl":"90d","key_rotation_interval":"90d","key_publish_lead":"1d",
		"jwks_max_age":"1m30s","key_bits":2048,"issuer":"https://auth.example"}`
	var got keys.Schedule
	if err := json.Unmarshal([]byte(old), &got); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	text, err := json.Marshal(want)
	must(t, err)
	var spans struct {
		RefreshMaxTTL string `json:"refresh_max_ttl"`
	}
	must(t, json.Unmarshal(text, &spans))
	if span, err := time.ParseDuration(spans.RefreshMaxTTL); err != nil || span != 90*24*time.Hour {
		t.Errorf("%s, %v", text, err)
	}
	for _, bad := range []string{`"-1d"`, `"d"`, `"1"`, `""`, `"1w"`, `5`} {
		if err := json.Unmarshal([]byte(bad), new(keys.Span)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// A server that has not noticed a rewrap yet does not record its schedule under the old master key.
func TestScheduleAfterARewrap(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, module := newClock(), keystest.Module()
		keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		all, err := keys.NewMaster(make32(1), make32(2))
		must(t, err)
		late := mustRing(t, storagetest.MustOpen(t, url), all, c.options(module))
		command := mustRing(t, storagetest.MustOpen(t, url), all, c.options(module))
		_, err = command.LifeCycle().Rewrap(ctx, admin, keystest.MustMaster(t, 2))
		must(t, err)
		want := keys.Schedule{KeyBits: 2048, Issuer: "https://auth.example"}
		must(t, late.ScheduleRecord().Write(ctx, want))
		if got, ok, err := command.ScheduleRecord().Read(ctx); err != nil || !ok || got != want {
			t.Errorf("%+v, %v, %v", got, ok, err)
		}
		if s := mustStatus(t, command); !s.Healthy {
			t.Errorf("%+v", s)
		}
	})
}
