package config

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Parse makes a configuration of values, by the key of their setting. A value is a string, a list of strings, or a
// value of a YAML file. A setting without a value has its default. Each problem names a setting with an invalid value,
// whose field stays zero.
func Parse(values map[string]any) (c Config, problems []error) {
	target := reflect.ValueOf(&c).Elem()
	for _, s := range Settings {
		value, given := values[s.Key]
		if !given {
			value = s.Default
		}
		if err := assign(target.Field(s.index), value); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", s.Key, err))
		}
	}
	return c, problems
}

// assign parses a value into a field.
func assign(field reflect.Value, value any) error {
	if list, ok := field.Addr().Interface().(*List); ok {
		return assignList(list, value)
	}
	if _, ok := value.([]any); ok || value == nil {
		return errors.New("want one value")
	}
	text := fmt.Sprint(value)
	var err error
	switch to := field.Addr().Interface().(type) {
	case *time.Duration:
		*to, err = ParseDuration(text)
	case *Size:
		*to, err = parseSize(text)
	case *bool:
		if *to = text == "true"; !*to && text != "false" {
			err = fmt.Errorf("%q is neither true nor false", text)
		}
	case *int:
		if *to, err = strconv.Atoi(text); err != nil || strconv.Itoa(*to) != text {
			*to, err = 0, fmt.Errorf("%q is not a number", text)
		}
	case *string:
		*to = text
	default:
		err = fmt.Errorf("a setting cannot be of type %s", field.Type())
	}
	return err
}

// List is a list of strings: a sequence in the file, separated by commas elsewhere.
type List []string

func assignList(list *List, value any) error {
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
		return errors.New("want a list")
	}
	return nil
}

// ParseDuration parses a duration in the syntax of Go, or in days: "10m", "1h30m", "14d".
func ParseDuration(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if span, err := time.ParseDuration(text); err == nil {
		return span, nil
	}
	return 0, fmt.Errorf("%q is not a duration such as 10s, 15m, 24h or 90d", text)
}

// FormatDuration formats a duration for ParseDuration.
func FormatDuration(span time.Duration) string {
	if span != 0 && span%(24*time.Hour) == 0 {
		return strconv.Itoa(int(span/(24*time.Hour))) + "d"
	}
	text := span.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Size is an amount of memory in bytes.
type Size int64

// parseSize parses "19MiB", "64MB", "1GiB" or a number of bytes.
func parseSize(text string) (Size, error) {
	s, unit := text, int64(1)
	for _, u := range []struct {
		name string
		size int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"MB", 1e6}, {"GB", 1e9}, {"kB", 1e3}} {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = rest, u.size
			break
		}
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size such as 19MiB", text)
	}
	return Size(int64(n) * unit), nil
}

// String formats a size for Parse.
func (b Size) String() string {
	if b%(1<<20) == 0 {
		return strconv.FormatInt(int64(b>>20), 10) + "MiB"
	}
	return strconv.FormatInt(int64(b), 10)
}
