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

// settings is a configuration that was read and checked: what commands hand on to the packages that do the work.
type settings struct {
	config.Config
	place keys.Place
}

// settingFlag marks the flags of settings: a command may have a flag of its own by the same name, as client create has
// --access-ttl.
const settingFlag = "setting"

func isSetting(f *pflag.Flag) bool {
	_, ok := f.Annotations[settingFlag]
	return ok
}

// addSettings adds the settings of some scopes, or all, as flags, and --config.
func addSettings(flags *pflag.FlagSet, scopes ...string) {
	if flags.Lookup("config") == nil {
		flags.String("config", "", "YAML file with settings (environment KEYTURN_CONFIG)")
	}
	for _, s := range config.Settings {
		if !slices.Contains(scopes, config.ScopeServe) && !slices.Contains(scopes, s.Scope) || flags.Lookup(s.Flag) != nil {
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
		flags.Lookup(s.Flag).Annotations = map[string][]string{settingFlag: nil}
	}
}

// settings reads the configuration. The error is a *config.Error with everything that is wrong.
func (a *app) settings(flags *pflag.FlagSet, forServe bool) (settings, error) {
	l := a.readLayers(flags)
	a.given, a.origins = map[string]bool{}, l.origins
	for key := range l.values {
		a.given[key] = true
	}
	c, problems := config.Parse(l.values)
	problems = append(l.problems, problems...)
	if c.RefreshRetryWindow == 0 && !a.given["refresh_late_retry"] {
		c.RefreshLateRetry = 0 // whoever wants no retry wants no late one, either
		a.origins["refresh_late_retry"] = "refresh_retry_window is 0"
	}
	place, broken := check(c, forServe)
	if len(problems) > 0 {
		broken = withoutZeros(broken, problems)
	}
	if problems = append(problems, broken...); len(problems) > 0 {
		return settings{}, &config.Error{Problems: problems}
	}
	return settings{c, place}, nil
}

// check lists everything that is wrong with a configuration. Without a problem the place can be used.
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

// withoutZeros leaves out what is said of settings that could not be read at all.
func withoutZeros(problems, unread []error) []error {
	return slices.DeleteFunc(problems, func(p error) bool {
		key, _, _ := strings.Cut(p.Error(), ":")
		return slices.ContainsFunc(unread, func(u error) bool { return strings.HasPrefix(u.Error(), key+":") })
	})
}

// reread reads the configuration again for a server that runs, which takes over what may change.
func (a *app) reread(flags *pflag.FlagSet, running config.Config) (server.Reread, error) {
	read, err := a.settings(flags, true)
	if err != nil {
		return server.Reread{}, err
	}
	next, later := running.Reloaded(read.Config)
	if _, problems := check(next, true); len(problems) > 0 {
		return server.Reread{}, &config.Error{Problems: problems}
	}
	return server.Reread{Config: next, Later: later, Warnings: read.Warnings()}, nil
}
