package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keyturn/keyturn/admin"
)

// djangoObject is one object in the output of manage.py dumpdata, with the fields of auth.user and the name of an
// auth.group.
type djangoObject struct {
	Model  string          `json:"model"`
	PK     json.RawMessage `json:"pk"` // absent with --natural-primary
	Fields struct {
		Username string            `json:"username"`
		Password string            `json:"password"`
		IsActive *bool             `json:"is_active"`
		Groups   []json.RawMessage `json:"groups"` // primary keys; with --natural-foreign, lists of one name
		Name     string            `json:"name"`
	} `json:"fields"`
}

// readDjango reads the JSON of manage.py dumpdata auth.group auth.user, one object at a time. role returns the role for
// a group.
func readDjango(from io.Reader, role func(group string) string) ([]admin.ImportedUser, error) {
	d := json.NewDecoder(bufio.NewReaderSize(from, 1<<16))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return nil, errors.New("the file is not a JSON array, as manage.py dumpdata writes it")
	}
	groups := map[string]string{} // names by primary key
	var objects []djangoObject
	for d.More() {
		var o djangoObject
		if err := d.Decode(&o); err != nil {
			return nil, fmt.Errorf("byte %d: %w", d.InputOffset(), err)
		}
		switch o.Model {
		case "auth.group":
			groups[string(o.PK)] = o.Fields.Name
		case "auth.user":
			objects = append(objects, o)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("unexpected end of the file: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("byte %d: unexpected content after the array", d.InputOffset())
	}
	var users []admin.ImportedUser
	for i, o := range objects {
		users = append(users, o.user(i+1, groups, role))
	}
	return users, nil
}

// user converts a user of Django.
func (o djangoObject) user(row int, groups map[string]string, role func(group string) string) admin.ImportedUser {
	u := admin.ImportedUser{
		Row:      row,
		Username: o.Fields.Username,
		Hash:     o.Fields.Password,
		Disabled: o.Fields.IsActive != nil && !*o.Fields.IsActive,
	}
	if strings.HasPrefix(u.Hash, "!") { // set_unusable_password
		u.Hash = ""
	}
	for _, key := range o.Fields.Groups {
		name, known := groups[string(key)]
		var natural []string
		if json.Unmarshal(key, &natural) == nil && len(natural) == 1 {
			name, known = natural[0], true
		}
		if !known {
			u.Problem = fmt.Sprintf(
				"its group %s is not in the file: dump auth.group as well, or use --natural-foreign",
				key,
			)
			return u
		}
		u.Roles = append(u.Roles, role(name))
	}
	return u
}

// userLine is one line of a jsonl file.
type userLine struct {
	Username string   `json:"username"`
	Hash     string   `json:"password_hash"` // PHC string or modular crypt; empty: no password
	Roles    []string `json:"roles"`
	Disabled bool     `json:"disabled"`
}

// maxUserLine is the maximum length of a line in bytes.
const maxUserLine = 1 << 20

// readUserLines reads one object from each line and skips empty lines. An invalid line becomes a user with a problem.
func readUserLines(from io.Reader, role func(group string) string) (users []admin.ImportedUser, err error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxUserLine)
	row := 1
	for ; lines.Scan(); row++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		users = append(users, userOfLine(row, lines.Bytes(), role))
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: %w: a line has at most %d bytes", row, err, maxUserLine)
	}
	return users, lines.Err()
}

func userOfLine(row int, line []byte, role func(group string) string) admin.ImportedUser {
	var l userLine
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	err := d.Decode(&l)
	if err == nil && d.More() {
		err = errors.New("more than one object on the line")
	}
	u := admin.ImportedUser{
		Row:      row,
		Username: l.Username,
		Hash:     l.Hash,
		Disabled: l.Disabled,
	}
	if err != nil {
		u.Problem = fmt.Sprintf("%s: want an object with username, password_hash, roles and disabled", jsonProblem(err))
	}
	for _, name := range l.Roles {
		u.Roles = append(u.Roles, role(name))
	}
	return u
}

// jsonProblem describes an error of encoding/json without the names of Go types.
func jsonProblem(err error) string {
	var kind *json.UnmarshalTypeError
	if !errors.As(err, &kind) {
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	want := kind.Type.String()
	if kind.Field == "" {
		want = "object"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s is not of type %s", kind.Field, kind.Value, want))
}
