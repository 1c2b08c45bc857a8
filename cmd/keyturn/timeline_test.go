package main

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console"
)

var update = flag.Bool("update", false, "write the generated files in docs")

// The picture in docs/keys.md shows a server in its seventh month, as the program draws it.
func TestTimelinePicture(t *testing.T) {
	const day = 24 * time.Hour
	start := time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC)
	now := start.Add(200 * day)
	at := func(days int) admin.KeyMoment {
		m := admin.KeyMoment{At: start.Add(time.Duration(days) * day)}
		m.Planned = m.At.After(now)
		return m
	}
	life := func(kid string, state admin.KeyState, published, signs, stops, leaves int) admin.KeyLife {
		s, e := at(signs), at(stops)
		return admin.KeyLife{
			KID:       kid,
			State:     state,
			Published: at(published),
			Signs:     &s,
			Stops:     &e,
			Leaves:    at(leaves),
		}
	}
	lives := []admin.KeyLife{
		life("Cbx3gCDmItTT", "retired", 0, 0, 90, 91),
		life("qV5N5yinv3TG", "revoked", 0, 90, 130, 130),
		life("09oiMK0mXQoi", "previous", 90, 130, 199, 201),
		life("mAen6Y9k4c44", "current", 130, 199, 289, 290),
		life("fpUu0CLP5g5K", "next", 199, 289, 379, 380),
	}
	got := console.TimelineSVG(lives, admin.WholeView(lives, now))
	const file = "../../docs/keys.svg"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from the drawing of the program: run go test ./cmd/keyturn -run Picture -update", file)
	}
}
