package api

import (
	"bytes"
	"encoding/json"
	"regexp"
)

// empty matches a field of indented JSON whose text is empty.
var empty = regexp.MustCompile(`(?m)^(\s*"[^"\n]+": )""(,?)$`)

// Indented encodes data for administrators as JSON, where null stands for absent text. The prefix begins each line but
// the first.
func Indented(data any, prefix string) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, "  ")
	err := e.Encode(data)
	return empty.ReplaceAll(bytes.TrimRight(text.Bytes(), "\n"), []byte("${1}null$2")), err
}
