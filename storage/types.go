package storage

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"
)

// Time is a BIGINT column of unix milliseconds, in UTC. In JSON it is RFC 3339.
type Time struct{ time.Time }

// At returns t, truncated to milliseconds.
func At(t time.Time) Time { return Time{t.Truncate(time.Millisecond).UTC()} }

// AtPtr is At for a nullable column.
func AtPtr(t time.Time) *Time {
	at := At(t)
	return &at
}

// Value implements driver.Valuer.
func (t Time) Value() (driver.Value, error) { return t.UnixMilli(), nil }

// Scan implements sql.Scanner.
func (t *Time) Scan(src any) error {
	ms, ok := src.(int64)
	if !ok {
		return fmt.Errorf("time column holds %T", src)
	}
	t.Time = time.UnixMilli(ms).UTC()
	return nil
}

// List is a list of words: JSON text in a column, an array in JSON.
type List []string

// Value implements driver.Valuer.
func (l List) Value() (driver.Value, error) {
	b, err := json.Marshal([]string(l))
	if l == nil {
		return "[]", nil
	}
	return string(b), err
}

// Scan implements sql.Scanner.
func (l *List) Scan(src any) error {
	switch v := src.(type) {
	case string:
		return json.Unmarshal([]byte(v), (*[]string)(l))
	case []byte:
		return json.Unmarshal(v, (*[]string)(l))
	}
	return fmt.Errorf("list column holds %T", src)
}

// MarshalJSON writes a nil list as [].
func (l List) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]string(l))
}

// Duration is a BIGINT column of milliseconds. In JSON it is written as in the configuration, for instance "10m0s".
type Duration time.Duration

// Value implements driver.Valuer.
func (d Duration) Value() (driver.Value, error) { return time.Duration(d).Milliseconds(), nil }

// Scan implements sql.Scanner.
func (d *Duration) Scan(src any) error {
	ms, ok := src.(int64)
	if !ok {
		return fmt.Errorf("duration column holds %T", src)
	}
	*d = Duration(time.Duration(ms) * time.Millisecond)
	return nil
}

// MarshalText writes 0 as "".
func (d Duration) MarshalText() ([]byte, error) {
	if d == 0 {
		return nil, nil
	}
	return []byte(time.Duration(d).String()), nil
}

// Object is JSON text in a column, and the same JSON in JSON.
type Object []byte

// Scan implements sql.Scanner.
func (o *Object) Scan(src any) error {
	switch v := src.(type) {
	case string:
		*o = Object(v)
	case []byte:
		*o = append(Object(nil), v...)
	default:
		return fmt.Errorf("object column holds %T", src)
	}
	return nil
}

// MarshalJSON writes the text unchanged.
func (o Object) MarshalJSON() ([]byte, error) { return o, nil }
