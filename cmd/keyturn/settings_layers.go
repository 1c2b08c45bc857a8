package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// layers are the values of settings from all sources, by key: flag over environment over KEYTURN_*_FILE over file.
type layers struct {
	values   map[string]any
	origins  map[string]string // source of each value
	problems []error
	unread   bool // the file could not be read
}

func newLayers() layers { return layers{values: map[string]any{}, origins: map[string]string{}} }

// set gives a setting a value.
func (l *layers) set(key string, value any, origin string) {
	l.values[key], l.origins[key] = value, origin
}

// fail adds a problem.
func (l *layers) fail(format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf(format, args...))
}

// add puts a stronger layer over the present ones.
func (l *layers) add(over layers) {
	maps.Copy(l.values, over.values)
	maps.Copy(l.origins, over.origins)
	l.problems = append(l.problems, over.problems...)
	l.unread = l.unread || over.unread
}

// located adds to each problem the sources of the settings that it names, unless it names them already. A flag is on
// the command line, before everybody's eyes.
func (l *layers) located(problems []error) (located []error) {
	for _, problem := range problems {
		text := problem.Error()
		var at []string
		if strings.HasPrefix(text, "config: ") { // it has its place
			located = append(located, problem)
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(l.origins)) {
			origin := l.origins[key]
			if namesKey(text, key) && !strings.HasPrefix(origin, "flag ") && !strings.Contains(text, origin) {
				at = append(at, origin)
			}
		}
		if len(at) > 0 {
			problem = fmt.Errorf("%w (%s)", problem, strings.Join(at, ", "))
		}
		located = append(located, problem)
	}
	return located
}

// wrong returns an error with problems of the settings, and where each of them stands.
func (s settings) wrong(problems []error) error {
	l := layers{origins: s.origins}
	return &config.Error{Problems: l.located(problems)}
}

// namesKey reports whether a text has a key as a word.
func namesKey(text, key string) bool {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		if word == key {
			return true
		}
	}
	return false
}

// layers reads all sources of settings, the weakest first.
func (s sources) layers(flags *pflag.FlagSet) layers {
	l := newLayers()
	l.add(readConfigFile(s.configPath(flags)))
	l.add(s.environment())
	l.problems = append(l.problems, unknownVariables(s.environ)...)
	if s.getenv("PQGO_DEBUG") != "" {
		l.fail("PQGO_DEBUG is set: unset it, because the PostgreSQL driver would print everything that it sends and " +
			"receives, also secrets")
	}
	l.add(flagLayer(flags))
	return l
}

// flagLayer reads the settings that were given as flags.
func flagLayer(flags *pflag.FlagSet) layers {
	l := newLayers()
	for _, s := range config.Settings {
		f := flags.Lookup(s.Flag)
		if f == nil ||
			!f.Changed ||
			!isSetting(f) {
			continue
		}
		var value any = f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value = list.GetSlice()
		}
		l.set(s.Key, value, "flag --"+s.Flag)
	}
	return l
}

func (s sources) configPath(flags *pflag.FlagSet) string {
	if f := flags.Lookup("config"); f != nil && f.Value.String() != "" {
		return f.Value.String()
	}
	return s.getenv("KEYTURN_CONFIG")
}

// readConfigFile reads a YAML file, and the position of each value in it. It refuses unknown keys: a misspelled setting
// would have no effect.
func readConfigFile(path string) layers {
	l := newLayers()
	if path == "" {
		return l
	}
	entries, err := parseConfigFile(path)
	if err != nil {
		l.fail("config: %w", err)
		l.unread = true
		return l
	}
	for i := 0; i+1 < len(entries); i += 2 {
		key, at := entries[i], fmt.Sprintf("%s:%d:%d", path, entries[i].Line, entries[i].Column)
		var value any
		err := entries[i+1].Decode(&value)
		_, twice := l.values[key.Value]
		switch {
		case !slices.ContainsFunc(config.Settings, func(s config.Setting) bool { return s.Key == key.Value }):
			err = fmt.Errorf("unknown key %q%s", key.Value, didYouMean(key.Value))
		case twice:
			err = fmt.Errorf("duplicate key %s", key.Value)
		}
		if err != nil {
			l.fail("config: %s: %w", at, err)
			continue
		}
		l.set(key.Value, value, at)
	}
	return l
}

// parseConfigFile reads the keys and values of a YAML file, in turn.
func parseConfigFile(path string) ([]*yaml.Node, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkFileText(path, content); err != nil {
		return nil, err
	}
	var document, more yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&document); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	err = decoder.Decode(&more)
	empty := err == nil && (len(more.Content) == 0 || more.Content[0].Tag == "!!null")
	switch {
	case err != io.EOF && !empty:
		return nil, fmt.Errorf("%s: unexpected content after the first document", path)
	case len(document.Content) == 0: // an empty file
		return nil, nil
	case document.Content[0].Kind != yaml.MappingNode:
		return nil, fmt.Errorf("%s: want settings as key: value", path)
	}
	return document.Content[0].Content, nil
}

// didYouMean suggests the setting whose key is nearest to a word, if one is near.
func didYouMean(word string) string {
	var names []string
	for _, s := range config.Settings {
		names = append(names, s.Key)
	}
	if near := admin.Nearest(strings.ReplaceAll(word, "-", "_"), names); near != "" {
		return fmt.Sprintf(": did you mean %s?", near)
	}
	return ""
}

// environment reads KEYTURN_* and the files that KEYTURN_*_FILE name. It refuses a setting that has both: nobody should
// have to guess which one counts, least of all for a secret.
func (s sources) environment() layers {
	l := newLayers()
	for _, setting := range config.Settings {
		name := setting.Env
		value, file := s.getenv(name), s.getenv(name+"_FILE")
		switch {
		case value != "" && file != "":
			l.fail("%s: %s and %s_FILE are both set: unset one", setting.Key, name, name)
		case value != "":
			if err := checkWord(value); err != nil {
				l.fail("%s: %s: %w", setting.Key, name, err)
				continue
			}
			l.set(setting.Key, value, "environment "+name)
		case file != "":
			content, err := os.ReadFile(file)
			if err == nil {
				err = checkFileText(file, content)
			}
			if err != nil {
				l.fail("%s: %s_FILE: %w", setting.Key, name, err)
				continue
			}
			l.set(setting.Key, strings.TrimRight(string(content), "\r\n"), "file "+file+" ("+name+"_FILE)")
		}
	}
	return l
}
