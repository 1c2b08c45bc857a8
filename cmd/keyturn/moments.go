package main

import (
	"fmt"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// moment formats a time for people: in the local zone on a terminal, otherwise in UTC. "-" for none.
func (c *streams) moment(t *admin.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	if c.printsToTerminal() {
		return t.Local().Format(time.RFC3339)
	}
	return t.UTC().Format(time.RFC3339)
}

// when is moment with the distance to now.
func (c *streams) when(t *admin.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return c.moment(t) + " (" + fromNow(time.Until(t.Time)) + ")"
}

// fromNow formats a distance to now, for instance "in 23 h 59 m".
func fromNow(d time.Duration) string {
	switch {
	case d.Abs() < time.Second:
		return "now"
	case d < 0:
		return span(-d) + " ago"
	default:
		return "in " + span(d)
	}
}

// span formats a duration in its two largest units.
func span(d time.Duration) string {
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for i, u := range units {
		n := d / u.size
		if n == 0 {
			continue
		}
		if i+1 == len(units) || (d%u.size)/units[i+1].size == 0 {
			return fmt.Sprintf("%d %s", n, u.name)
		}
		return fmt.Sprintf("%d %s %d %s", n, u.name, (d%u.size)/units[i+1].size, units[i+1].name)
	}
	return "0 s"
}
