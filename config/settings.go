package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Scopes of settings: the commands that have them as flags. All commands read environment and file.
const (
	ScopeServe    = "" // only serve
	ScopeDatabase = "database"
	ScopeIssuer   = "issuer"
	ScopeKeys     = "keys"
	ScopeUser     = "user"
	ScopeConsole  = "console"
)

// Setting describes one field of Config.
type Setting struct {
	Key     string // in the file, for instance access_ttl
	Flag    string // access-ttl
	Env     string // KEYTURN_ACCESS_TTL
	Default string // as text
	Help    string
	Scope   string
	Reload  bool // it may change while a server runs
	Kind    reflect.Kind

	index int
}

// Settings lists all settings, in the order of the fields of Config.
var Settings = func() []Setting {
	t := reflect.TypeFor[Config]()
	var all []Setting
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("key")
		all = append(all, Setting{
			Key:     key,
			Flag:    strings.ReplaceAll(key, "_", "-"),
			Env:     "KEYTURN_" + strings.ToUpper(key),
			Default: f.Tag.Get("default"),
			Help:    manual[key],
			Scope:   f.Tag.Get("scope"),
			Reload:  f.Tag.Get("reload") == "true",
			Kind:    f.Type.Kind(),
			index:   i,
		})
	}
	return all
}()

// Value returns the value of the setting in c: a bool, an int, a string or a List. Durations and sizes are strings for
// Parse.
func (s Setting) Value(c Config) any {
	switch v := reflect.ValueOf(c).Field(s.index).Interface().(type) {
	case time.Duration:
		return FormatDuration(v)
	case Size:
		return v.String()
	default:
		return v
	}
}

// Changes describes the settings in which next differs, for a log. Reloadable settings hold no secrets.
func (c Config) Changes(next Config) (changes []string) {
	for _, s := range Settings {
		if before, after := s.Value(c), s.Value(next); s.Reload && !reflect.DeepEqual(before, after) {
			changes = append(changes, fmt.Sprintf("%s: %v, was %v", s.Key, after, before))
		}
	}
	return changes
}

// Reloaded returns c with the settings of next that may change while a server runs. later lists the other keys that
// differ.
func (c Config) Reloaded(next Config) (mixed Config, later []string) {
	mixed = c
	to, from := reflect.ValueOf(&mixed).Elem(), reflect.ValueOf(next)
	for _, s := range Settings {
		switch field := from.Field(s.index); {
		case reflect.DeepEqual(to.Field(s.index).Interface(), field.Interface()):
		case s.Reload:
			to.Field(s.index).Set(field)
		default:
			later = append(later, s.Key)
		}
	}
	if (c.TLSCertFile == "") != (next.TLSCertFile == "") { // a listener cannot change its protocol
		mixed.TLSCertFile, mixed.TLSKeyFile = c.TLSCertFile, c.TLSKeyFile
		later = append(later, "tls_cert_file")
	}
	if (c.AdminTLSCertFile == "") != (next.AdminTLSCertFile == "") {
		mixed.AdminTLSCertFile, mixed.AdminTLSKeyFile = c.AdminTLSCertFile, c.AdminTLSKeyFile
		later = append(later, "admin_tls_cert_file")
	}
	return mixed, later
}
