package main

import (
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/server"
	"github.com/keyturn/keyturn/storage"
)

// settings is a valid configuration, and where each of its values comes from.
type settings struct {
	config.Config
	place   keys.Place
	given   map[string]bool   // settings that do not have their default, by key
	origins map[string]string // source of each of them
}

// settingFlag marks the flags of settings. A command may have a flag of its own with the name of a setting: client
// create has --access-ttl.
const settingFlag = "setting"

func isSetting(f *pflag.Flag) bool {
	_, ok := f.Annotations[settingFlag]
	return ok
}

// addSettings adds --config and the settings of some scopes as flags. ScopeServe adds all settings.
func addSettings(flags *pflag.FlagSet, scopes ...string) {
	if flags.Lookup("config") == nil {
		flags.String("config", "", "YAML file with settings (environment KEYTURN_CONFIG)")
	}
	all := slices.Contains(scopes, config.ScopeServe)
	for _, s := range config.Settings {
		if !all && !slices.Contains(scopes, s.Scope) ||
			flags.Lookup(s.Flag) != nil {
			continue
		}
		switch s.Kind {
		case reflect.Bool:
			flags.Bool(s.Flag, s.Default == "true", s.Help)
		case reflect.Slice:
			flags.StringSlice(s.Flag, nil, s.Help)
		default:
			flags.String(s.Flag, s.Default, s.Help)
		}
		flag := flags.Lookup(s.Flag)
		flag.Annotations = map[string][]string{settingFlag: nil}
		// Commands have always accepted the settings of a server that are no use to them.
		flag.Hidden = !all && slices.Contains([]string{"migrate", "log_format", "log_level"}, s.Key)
	}
}

// sources are the sources of settings besides flags.
type sources struct {
	getenv  func(string) string
	environ []string // NAME=VALUE of every variable
}

// readSettings reads the configuration. The error is a *config.Error with every problem. Given and origins are valid
// with an error, too.
func (s sources) readSettings(flags *pflag.FlagSet, forServe bool) (settings, error) {
	l := s.layers(flags)
	set := settings{given: map[string]bool{}, origins: l.origins}
	for key := range l.values {
		set.given[key] = true
	}
	if l.unread {
		return set, &config.Error{Problems: l.problems} // what the file says is unknown
	}
	c, problems := config.Parse(l.values)
	problems = append(l.problems, problems...)
	if c.RefreshRetryWindow == 0 && !set.given["refresh_late_retry"] {
		c.RefreshLateRetry = 0 // without a retry window, no late retry either
		set.origins["refresh_late_retry"] = "refresh_retry_window is 0"
	}
	place, broken := check(c, forServe)
	if forServe {
		if _, err := wantsTracing(s.getenv); err != nil {
			broken = append(broken, err)
		}
	}
	if len(problems) > 0 {
		broken = withoutUnread(broken, problems)
	}
	if problems = append(problems, broken...); len(problems) > 0 {
		return set, &config.Error{Problems: l.located(problems)}
	}
	set.Config, set.place = c, place
	return set, nil
}

// check lists every problem of a configuration. The place is valid if there is none.
func check(c config.Config, forServe bool) (place keys.Place, problems []error) {
	database, err := storage.ParseSource(c.Database, c.AllowInsecureDatabase)
	if err != nil {
		problems = append(problems, err)
	}
	place, err = keys.NewPlace(database, c.MasterKeyFile, c.AnchorFile)
	if err != nil && !strings.HasPrefix(c.Database, "sqlite:") {
		problems = append(problems, err)
	}
	problems = append(problems, keys.Config(c.Keys()).Problems()...)
	return place, append(problems, c.Problems(forServe)...)
}

// withoutUnread removes the problems of settings that could not be read: their value is zero.
func withoutUnread(problems, unread []error) []error {
	return slices.DeleteFunc(problems, func(p error) bool {
		key, _, _ := strings.Cut(p.Error(), ":")
		return slices.ContainsFunc(unread, func(u error) bool { return strings.HasPrefix(u.Error(), key+":") })
	})
}

// reread reads the configuration again for a running server. Next has the new values of the settings that may change.
func (s sources) reread(flags *pflag.FlagSet, running config.Config) (server.Reread, error) {
	read, err := s.readSettings(flags, true)
	if err != nil {
		return server.Reread{}, err
	}
	next, later := running.Reloaded(read.Config)
	if _, problems := check(next, true); len(problems) > 0 {
		return server.Reread{}, &config.Error{Problems: problems}
	}
	return server.Reread{Config: next, Later: later, Warnings: read.Warnings()}, nil
}
