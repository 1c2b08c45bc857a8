package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/config"
)

// layers are the values of settings from all sources, by key: flag over environment over KEYTURN_*_FILE over file.
type layers struct {
	values   map[string]any
	origins  map[string]string // where each value stands
	problems []error
}

// add puts values over those that are there.
func (l *layers) add(values map[string]any, origins map[string]string, problems []error) {
	maps.Copy(l.values, values)
	maps.Copy(l.origins, origins)
	l.problems = append(l.problems, problems...)
}

// readLayers reads all sources of settings, the weakest first.
func (a *app) readLayers(flags *pflag.FlagSet) layers {
	l := layers{values: map[string]any{}, origins: map[string]string{}}
	l.add(readConfigFile(a.configPath(flags)))
	l.add(a.readEnvironment())
	l.problems = append(l.problems, unknownVariables(a.environ)...)
	if a.getenv("PQGO_DEBUG") != "" {
		l.problems = append(l.problems, errors.New("PQGO_DEBUG is set: the PostgreSQL driver would print everything that "+
			"goes over its connections, secrets as well: unset it"))
	}
	l.add(readFlags(flags))
	return l
}

// readFlags reads the settings that were given as flags.
func readFlags(flags *pflag.FlagSet) (values map[string]any, origins map[string]string, problems []error) {
	values, origins = map[string]any{}, map[string]string{}
	for _, s := range config.Settings {
		f := flags.Lookup(s.Flag)
		if f == nil || !f.Changed || !isSetting(f) {
			continue
		}
		values[s.Key], origins[s.Key] = f.Value.String(), "flag --"+s.Flag
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values[s.Key] = list.GetSlice()
		}
	}
	return values, origins, nil
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
		case !slices.ContainsFunc(config.Settings, func(s config.Setting) bool { return s.Key == key.Value }):
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
	var names []string
	for _, s := range config.Settings {
		names = append(names, s.Key)
	}
	if near := nearest(strings.ReplaceAll(word, "-", "_"), names); near != "" {
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
	for _, s := range config.Settings {
		value, file := a.getenv(s.Env), a.getenv(s.Env+"_FILE")
		switch {
		case value != "" && file != "":
			problems = append(problems, fmt.Errorf("%s: %s and %s_FILE are both set: unset one", s.Key, s.Env, s.Env))
		case value != "":
			if err := checkWord(value); err != nil {
				problems = append(problems, fmt.Errorf("%s: %s: %w", s.Key, s.Env, err))
				continue
			}
			values[s.Key], origins[s.Key] = value, "environment "+s.Env
		case file != "":
			content, err := os.ReadFile(file)
			if err == nil {
				err = textIn(file, content)
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %s_FILE: %w", s.Key, s.Env, err))
				continue
			}
			values[s.Key], origins[s.Key] = strings.TrimRight(string(content), "\r\n"), "file "+file+" ("+s.Env+"_FILE)"
		}
	}
	return values, origins, problems
}
