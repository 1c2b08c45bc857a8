package main

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/server"
)

// Scopes of settings: which commands take them as flags. Environment and file count for all commands.
const (
	scopeAll      = ""
	scopeDatabase = "database"
	scopeIssuer   = "issuer"
	scopeKeys     = "keys"
	scopeUser     = "user"
)

// setting is one field of server.Config.
type setting struct {
	key, flag, env, standard, help, scope string
	reload                                bool // it may change while the server runs
	index                                 int
	kind                                  reflect.Type
}

// settings are all fields of server.Config, in its order.
var settings = func() []setting {
	t := reflect.TypeFor[server.Config]()
	var all []setting
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("key")
		all = append(all, setting{
			key:      key,
			flag:     strings.ReplaceAll(key, "_", "-"),
			env:      "KEYTURN_" + strings.ToUpper(key),
			standard: f.Tag.Get("default"),
			help:     server.Manual[key],
			scope:    f.Tag.Get("scope"),
			reload:   f.Tag.Get("reload") == "true",
			index:    i,
			kind:     f.Type,
		})
	}
	return all
}()

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
	for _, s := range settings {
		if !slices.Contains(scopes, scopeAll) && !slices.Contains(scopes, s.scope) || flags.Lookup(s.flag) != nil {
			continue
		}
		switch s.kind.Kind() {
		case reflect.Bool:
			flags.Bool(s.flag, s.standard == "true", s.help)
		case reflect.Slice:
			flags.StringSlice(s.flag, nil, s.help)
		default:
			flags.String(s.flag, s.standard, s.help)
		}
		flags.Lookup(s.flag).Annotations = map[string][]string{settingFlag: nil}
	}
}

// config reads the configuration: flag over environment over KEYTURN_*_FILE over file over default. The error is a
// *server.ConfigError with everything that is wrong.
func (a *app) config(flags *pflag.FlagSet, forServe bool) (server.Config, error) {
	k := koanf.New("\x00") // no setting is nested
	problems := a.loadLayers(k, flags)
	if a.getenv("PQGO_DEBUG") != "" {
		problems = append(
			problems,
			errors.New(
				"PQGO_DEBUG is set: the PostgreSQL driver would print everything that goes over its connections, secrets as "+
					"well: unset it",
			),
		)
	}
	var c server.Config
	target := reflect.ValueOf(&c).Elem()
	for _, s := range settings {
		if err := assign(target.Field(s.index), k.Get(s.key)); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", s.key, err))
		}
	}
	if c.RefreshRetryWindow == 0 && !a.given["refresh_late_retry"] {
		c.RefreshLateRetry = 0 // whoever wants no retry wants no late one, either
		a.origins["refresh_late_retry"] = "refresh_retry_window is 0"
	}
	if len(problems) == 0 {
		problems = c.Problems(forServe)
	} else {
		problems = append(problems, withoutZeros(c.Problems(forServe), problems)...)
	}
	if len(problems) > 0 {
		return c, &server.ConfigError{Problems: problems}
	}
	return c, nil
}

// withoutZeros leaves out what is said of settings that could not be read at all.
func withoutZeros(problems, unread []error) []error {
	return slices.DeleteFunc(problems, func(p error) bool {
		key, _, _ := strings.Cut(p.Error(), ":")
		return slices.ContainsFunc(unread, func(u error) bool { return strings.HasPrefix(u.Error(), key+":") })
	})
}

// loadLayers loads the sources of settings, the weakest first.
func (a *app) loadLayers(k *koanf.Koanf, flags *pflag.FlagSet) (problems []error) {
	load := func(values map[string]any, errs ...error) {
		problems = append(problems, errs...)
		if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
			problems = append(problems, err)
		}
	}
	standards := map[string]any{}
	for _, s := range settings {
		standards[s.key] = s.standard
	}
	load(standards)
	a.given, a.origins = map[string]bool{}, map[string]string{}
	give := func(values map[string]any, origins map[string]string, errs ...error) {
		for key := range values {
			a.given[key], a.origins[key] = true, origins[key]
		}
		load(values, errs...)
	}
	fromFile, origins, errs := readConfigFile(a.configPath(flags))
	give(fromFile, origins, errs...)
	fromEnv, origins, errs := a.readEnvironment()
	give(fromEnv, origins, append(errs, unknownVariables(a.environ)...)...)
	fromFlags, origins := map[string]any{}, map[string]string{}
	for _, s := range settings {
		if f := flags.Lookup(s.flag); f != nil && f.Changed && isSetting(f) {
			fromFlags[s.key], origins[s.key] = f.Value.String(), "flag --"+s.flag
			if list, ok := f.Value.(pflag.SliceValue); ok {
				fromFlags[s.key] = list.GetSlice()
			}
		}
	}
	give(fromFlags, origins)
	return problems
}

func (a *app) configPath(flags *pflag.FlagSet) string {
	if f := flags.Lookup("config"); f != nil && f.Value.String() != "" {
		return f.Value.String()
	}
	return a.getenv("KEYTURN_CONFIG")
}

// readConfigFile reads a YAML file, and where in it each value stands. A key that is no setting is refused: it would be
// a setting that silently does nothing.
func readConfigFile(path string) (values map[string]any, origins map[string]string, problems []error) {
	if path == "" {
		return nil, nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, []error{fmt.Errorf("config: %w", err)}
	}
	if err := textIn(path, content); err != nil {
		return nil, nil, []error{fmt.Errorf("config: %w", err)}
	}
	var document, more yaml.Node
	read := yaml.NewDecoder(bytes.NewReader(content))
	if err := read.Decode(&document); err != nil && err != io.EOF {
		return nil, nil, []error{fmt.Errorf("config: %s: %w", path, err)}
	}
	if err := read.Decode(&more); err != io.EOF &&
		(err != nil || len(more.Content) > 0 && more.Content[0].Tag != "!!null") {
		return nil, nil, []error{fmt.Errorf("config: %s: something stands after the first document", path)}
	}
	values, origins = map[string]any{}, map[string]string{}
	if len(document.Content) == 0 { // an empty file
		return values, origins, nil
	}
	entries := document.Content[0]
	if entries.Kind != yaml.MappingNode {
		return nil, nil, []error{fmt.Errorf("config: %s: it is no list of settings (key: value)", path)}
	}
	for i := 0; i+1 < len(entries.Content); i += 2 {
		key, at := entries.Content[i], fmt.Sprintf("%s:%d:%d", path, entries.Content[i].Line, entries.Content[i].Column)
		var value any
		err := entries.Content[i+1].Decode(&value)
		_, twice := values[key.Value]
		switch {
		case !slices.ContainsFunc(settings, func(s setting) bool { return s.key == key.Value }):
			err = fmt.Errorf("unknown key %q%s", key.Value, didYouMean(key.Value))
		case twice:
			err = fmt.Errorf("%s stands there twice", key.Value)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("config: %s: %w", at, err))
			continue
		}
		values[key.Value], origins[key.Value] = value, at
	}
	return values, origins, problems
}

// didYouMean is the setting that a word is nearest to, as a question, if there is one near.
func didYouMean(word string) string {
	var keys []string
	for _, s := range settings {
		keys = append(keys, s.key)
	}
	if near := nearest(strings.ReplaceAll(word, "-", "_"), keys); near != "" {
		return fmt.Sprintf(": did you mean %s?", near)
	}
	return ""
}

// nearest is the name that a word is nearest to; "" if none is near.
func nearest(word string, names []string) string {
	known := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, name := range names {
		known.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	return append(known.SuggestionsFor(word), "")[0]
}

// readEnvironment reads KEYTURN_* and the files that KEYTURN_*_FILE name. A setting from both is refused: which one
// counts should not have to be guessed, least of all of a secret.
func (a *app) readEnvironment() (values map[string]any, origins map[string]string, problems []error) {
	values, origins = map[string]any{}, map[string]string{}
	for _, s := range settings {
		value, file := a.getenv(s.env), a.getenv(s.env+"_FILE")
		switch {
		case value != "" && file != "":
			problems = append(problems, fmt.Errorf("%s: %s and %s_FILE are both set: unset one", s.key, s.env, s.env))
		case value != "":
			if err := checkWord(value); err != nil {
				problems = append(problems, fmt.Errorf("%s: %s: %w", s.key, s.env, err))
				continue
			}
			values[s.key], origins[s.key] = value, "environment "+s.env
		case file != "":
			content, err := os.ReadFile(file)
			if err == nil {
				err = textIn(file, content)
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %s_FILE: %w", s.key, s.env, err))
				continue
			}
			values[s.key], origins[s.key] = strings.TrimRight(string(content), "\r\n"), "file "+file+" ("+s.env+"_FILE)"
		}
	}
	return values, origins, problems
}

// assign writes a value of any layer into a field.
func assign(field reflect.Value, value any) error {
	if list, ok := field.Addr().Interface().(*server.List); ok {
		return assignList(list, value)
	}
	if _, ok := value.([]any); ok || value == nil {
		return errors.New("takes one value")
	}
	text := fmt.Sprint(value)
	if u, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch field.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		field.SetBool(text == "true")
	case reflect.Int:
		var n int64
		if _, err := fmt.Sscanf(text, "%d", &n); err != nil || fmt.Sprint(n) != text {
			return fmt.Errorf("%q is not a number", text)
		}
		field.SetInt(n)
	default:
		field.SetString(text)
	}
	return nil
}

func assignList(list *server.List, value any) error {
	switch v := value.(type) {
	case []string:
		*list = v
	case []any:
		for _, item := range v {
			*list = append(*list, fmt.Sprint(item))
		}
	case string:
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*list = append(*list, item)
			}
		}
	default:
		return errors.New("takes a list")
	}
	return nil
}

func (a *app) configCommand() *cobra.Command {
	validate := &cobra.Command{
		Use:   "validate",
		Short: "Tell everything that is wrong with the configuration of serve",
		Args:  cobra.NoArgs,
	}
	addSettings(validate.Flags(), scopeAll)
	validate.RunE = func(c *cobra.Command, _ []string) error {
		config, err := a.config(c.Flags(), true)
		if err != nil {
			return err
		}
		if problems := config.FileProblems(); problems != nil {
			return &server.ConfigError{Problems: problems}
		}
		for _, w := range config.Warnings() {
			a.say("keyturn: warning: %v", w)
		}
		a.say("the configuration is valid")
		return nil
	}
	return noun("config", "The configuration", validate, a.configShow())
}
