package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/term"
)

// maxSecretInput is the maximum number of bytes of a secret on standard input.
const maxSecretInput = 4096

// terminal returns standard input if it is a terminal.
func (c *streams) terminal() (*os.File, bool) {
	f, ok := c.stdin.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// secretRules are the rules for a secret that a person chooses.
type secretRules struct {
	policy string
	check  func(string) error
}

// readSecret reads one secret: all of standard input with fromStdin, otherwise from a prompt without echo, twice. The
// prompt shows the rules first, and asks again for a secret that breaks one.
func (c *streams) readSecret(fromStdin bool, flag, prompt string, rules secretRules) (string, error) {
	if fromStdin {
		return readLine(c.stdin)
	}
	f, ok := c.terminal()
	if !ok {
		return "", usageError{fmt.Errorf("no terminal for the prompt: pipe the secret in with --%s", flag)}
	}
	c.say("%s", rules.policy)
	for {
		secret, same, err := c.typeTwice(f, prompt)
		if err != nil {
			return "", err
		}
		if err = errDiffer; same {
			err = rules.check(secret)
		}
		if err == nil {
			return secret, nil
		}
		c.say("%v", err)
	}
}

var errDiffer = errors.New("the two inputs differ")

// typeTwice reads a secret from a prompt without echo, twice.
func (c *streams) typeTwice(f *os.File, prompt string) (secret string, same bool, err error) {
	var typed [2]string
	for i, again := range []string{"", " again"} {
		fmt.Fprintf(c.stderr, "%s%s: ", prompt, again)
		b, err := readUnseen(f)
		fmt.Fprintln(c.stderr)
		if err != nil {
			return "", false, err
		}
		if err := checkText(b); err != nil {
			return "", false, usageError{fmt.Errorf("%s: %w; use a terminal in UTF-8", prompt, err)}
		}
		typed[i] = string(b)
	}
	return typed[0], typed[0] == typed[1], nil
}

// typeLine asks for a line on the terminal.
func (c *streams) typeLine(prompt string) (string, error) {
	if c.typed == nil {
		c.typed = bufio.NewReader(c.stdin)
	}
	fmt.Fprint(c.stderr, prompt)
	line, err := c.typed.ReadString('\n')
	return strings.TrimSpace(line), err
}

// readUnseen reads a line without echo. An interrupt restores the terminal.
func readUnseen(f *os.File) ([]byte, error) {
	fd := int(f.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	defer func() {
		signal.Stop(interrupted)
		close(interrupted)
	}()
	go func() {
		if _, ok := <-interrupted; ok {
			term.Restore(fd, state)
			os.Exit(130)
		}
	}()
	return term.ReadPassword(fd)
}

// readLine reads standard input to its end, without the line end that echo and editors add.
func readLine(r io.Reader) (string, error) { return readText(r, maxSecretInput) }

// readText is readLine with another limit in bytes.
func readText(r io.Reader, limit int64) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return "", err
	}
	if int64(len(b)) > limit {
		return "", usageError{fmt.Errorf("standard input is longer than %d bytes", limit)}
	}
	if err := checkText(b); err != nil {
		return "", usageError{fmt.Errorf("standard input: %w", err)}
	}
	s := string(b)
	if n := len(s); n > 0 && s[n-1] == '\n' {
		s = s[:n-1]
		if n := len(s); n > 0 && s[n-1] == '\r' {
			s = s[:n-1]
		}
	}
	if s == "" {
		return "", usageError{errors.New("standard input is empty")}
	}
	return s, nil
}
