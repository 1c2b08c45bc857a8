package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// textError reports input that is not UTF-8.
type textError struct {
	line int // from 1; 0: the whole text
	what string
}

func (e *textError) Error() string {
	if e.line == 0 {
		return e.what
	}
	return fmt.Sprintf("line %d: %s", e.line, e.what)
}

const notUTF8 = "it is not UTF-8: convert it, for instance with iconv -f CP1251 -t UTF-8"

// checkText requires UTF-8 without a byte order mark. The error never quotes the text, which may be a secret.
func checkText(text []byte) error {
	if err := checkBeginning(text); err != nil {
		return err
	}
	if utf8.Valid(text) {
		return nil
	}
	return &textError{line: lineOf(text, invalidAt(text)), what: notUTF8}
}

// checkFileText is checkText for the content of a file.
func checkFileText(file string, content []byte) error {
	if err := checkText(content); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// checkWord is checkText for text of one line.
func checkWord(text string) error {
	if err := checkBeginning([]byte(text)); err != nil {
		return err
	}
	if !utf8.ValidString(text) {
		return &textError{what: notUTF8}
	}
	return nil
}

// invalidAt is the index of the first byte that is not UTF-8, or the length of the text.
func invalidAt(text []byte) (i int) {
	for i < len(text) {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		i += size
	}
	return i
}

// lineOf is the line of a byte of a text, from 1.
func lineOf(text []byte, at int) int { return 1 + bytes.Count(text[:at], []byte("\n")) }

// beginning is the number of bytes that checkBeginning reads.
const beginning = 64

// checkBeginning recognizes a byte order mark, and UTF-16 of ASCII without one.
func checkBeginning(text []byte) error {
	text = text[:min(len(text), beginning)]
	has := func(mark string) bool { return bytes.HasPrefix(text, []byte(mark)) }
	switch {
	case has("\xef\xbb\xbf"):
		return &textError{what: "it begins with a byte order mark: save it as UTF-8 without one"}
	case has("\xff\xfe\x00\x00"), has("\x00\x00\xfe\xff"):
		return &textError{what: "it is UTF-32: save it as UTF-8"}
	case has("\xff\xfe"), has("\xfe\xff"), everySecondNUL(text, 0), everySecondNUL(text, 1):
		return &textError{what: "it is UTF-16: save it as UTF-8"}
	}
	return nil
}

// everySecondNUL reports whether the bytes at first, first+2 and so on are NUL and the others are not.
func everySecondNUL(text []byte, first int) bool {
	for i, b := range text {
		if (b == 0) != (i%2 == first) {
			return false
		}
	}
	return len(text) > 0 && len(text)%2 == 0
}

// textReader reads text. It returns a *textError at the first byte that is not UTF-8.
type textReader struct {
	from *bufio.Reader
	line int
	tail []byte // the beginning of an incomplete rune
	err  error
}

func newTextReader(from io.Reader) *textReader {
	t := &textReader{from: bufio.NewReaderSize(from, 1<<16), line: 1}
	start, _ := t.from.Peek(beginning) // Read returns the same error
	t.err = checkBeginning(start)
	return t
}

// Read implements [io.Reader].
func (t *textReader) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.from.Read(p)
	text := append(t.tail, p[:n]...)
	valid := len(text)
	if !utf8.Valid(text) {
		valid = invalidAt(text)
	}
	t.line += bytes.Count(text[:valid], []byte("\n"))
	t.tail = slices.Clone(text[valid:])
	if len(t.tail) > 0 && (utf8.FullRune(t.tail) || err == io.EOF) {
		err = &textError{line: t.line, what: notUTF8}
	}
	t.err = err
	return n, err
}

// checkCommandLine requires UTF-8 in flags and arguments.
func checkCommandLine(c *cobra.Command, args []string) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		if bad := checkWord(f.Value.String()); bad != nil && err == nil {
			err = usageError{fmt.Errorf("--%s: %w", f.Name, bad)}
		}
	})
	for i, arg := range args {
		if bad := checkWord(arg); bad != nil && err == nil {
			err = usageError{fmt.Errorf("argument %d: %w", i+1, bad)}
		}
	}
	return err
}
