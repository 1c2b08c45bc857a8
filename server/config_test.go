package server

import (
	"testing"
	"time"
)

// What a duration is written as is read again as the same.
func TestDurationText(t *testing.T) {
	for span, want := range map[time.Duration]string{
		0:                               "0s",
		10 * time.Second:                "10s",
		time.Minute:                     "1m",
		10 * time.Minute:                "10m",
		90 * time.Minute:                "1h30m",
		20 * time.Hour:                  "20h",
		24 * time.Hour:                  "1d",
		90 * 24 * time.Hour:             "90d",
		1500 * time.Millisecond:         "1.5s",
		10*time.Minute + 10*time.Second: "10m10s",
		time.Hour + time.Second:         "1h0m1s",
	} {
		text := Duration(span).String()
		var again Duration
		if err := again.UnmarshalText([]byte(text)); err != nil || text != want || again != Duration(span) {
			t.Errorf("%v is written as %q, wanted %q, and read as %v, %v", span, text, want, again, err)
		}
	}
}
