package admin

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/config"
)

// found reports whether a check has found something of that kind.
func found(findings []Finding, check string, status FindingStatus, words string) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Check == check && f.Status == status && strings.Contains(f.Found+" "+f.Advice, words)
	})
}

// defaults is the configuration of an https issuer.
func defaults(t *testing.T) config.Config {
	t.Helper()
	c, problems := config.Parse(map[string]any{"issuer": "https://auth.example"})
	if problems != nil {
		t.Fatal(problems)
	}
	return c
}

// A clock is warned of from more than a second on.
func TestDoctorAndTheClock(t *testing.T) {
	for off, want := range map[time.Duration]FindingStatus{0: FindingOK, -time.Second: FindingOK,
		1100 * time.Millisecond: FindingWarning, -time.Hour: FindingWarning} {
		d := &doctor{}
		d.clock(off, "that of the database", clockTolerance)
		if len(d.findings) != 1 || d.findings[0].Status != want {
			t.Errorf("%v: %+v", off, d.findings)
		}
	}
}

// Few descriptors are warned of.
func TestDoctorAndDescriptors(t *testing.T) {
	for limit, want := range map[int]FindingStatus{
		256:     FindingWarning,
		1023:    FindingWarning,
		1024:    FindingOK,
		1 << 20: FindingOK,
	} {
		d := &doctor{Patient: Patient{MaxFiles: limit}}
		d.descriptors()
		if len(d.findings) != 1 ||
			d.findings[0].Status != want ||
			(d.findings[0].Advice == "") != (want == FindingOK) {
			t.Errorf("%d: %+v", limit, d.findings)
		}
	}
	d := &doctor{}
	if d.descriptors(); len(d.findings) > 0 {
		t.Errorf("%+v", d.findings)
	}
}

// doctor warns of a policy of hashes that is too weak, and of all that the configuration warns of.
func TestDoctorWarnsOfSettings(t *testing.T) {
	c := defaults(t)
	c.BehindProxy, c.PasswordHashMemory = true, 19<<20-1
	d := &doctor{Patient: Patient{Config: c}}
	d.settings()
	for _, words := range []string{"a password hash takes", "OWASP", "no proxy is trusted"} {
		if !found(d.findings, "settings", FindingWarning, words) {
			t.Errorf("no %q in %+v", words, d.findings)
		}
	}
	c.BehindProxy, c.PasswordHashMemory = false, 19<<20
	d = &doctor{Patient: Patient{Config: c}}
	d.settings()
	for _, words := range []string{"OWASP", "no proxy is trusted"} {
		if found(d.findings, "settings", FindingWarning, words) {
			t.Errorf("%q in %+v", words, d.findings)
		}
	}
}
