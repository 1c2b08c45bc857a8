package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// shortList is the default limit of a list on a terminal.
const shortList = 100

// listFlags are the flags of a list that may be long.
type listFlags struct {
	limit int    // number of rows; 0: all
	after string // the row before the first
	fixed func() bool
}

// add adds the flags. after describes the value of --after.
func (l *listFlags) add(cmd *cobra.Command, after string) {
	cmd.Flags().IntVar(&l.limit, "limit", 0, "maximum number of rows; 0: all (default: 100 on a terminal, else all)")
	cmd.Flags().StringVar(&l.after, "after", "", "begin after the row with this "+after)
	l.fixed = func() bool { return cmd.Flags().Changed("limit") }
}

// rows returns the limit in force; 0: none.
func (l *listFlags) rows(c *streams) (int, error) {
	if l.limit < 0 {
		return 0, usageError{errors.New("--limit: want 0 or more")}
	}
	if !l.fixed() && c.printsToTerminal() {
		return shortList, nil
	}
	return l.limit, nil
}

// errEnough ends a list at its limit.
var errEnough = errors.New("enough rows")

// limited lists rows up to the limit. If there are more, it prints how to go on; key returns the value of --after.
func limited[T any](
	c *streams, l *listFlags, heading []string, each func(func([]T) error) error,
	cells func(T) []string, key func(T) any,
) error {
	limit, err := l.rows(c)
	if err != nil {
		return err
	}
	left, last := limit, any(nil)
	bounded := func(do func([]T) error) error {
		err := each(func(page []T) error {
			more := limit > 0 && len(page) > left
			if more {
				page = page[:left]
			}
			if len(page) > 0 {
				last = key(page[len(page)-1])
				if err := do(page); err != nil {
					return err
				}
			}
			if left -= len(page); more {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			c.say("There are more: --after %v continues, --limit 0 lists all.", last)
			return nil
		}
		return err
	}
	return list(c, heading, bounded, cells)
}

// mayEnd asks before logins end. Without a terminal it refuses, unless no login ends.
func (a *app) mayEnd(op *operator, yes bool, what string, live int64, uncounted error) error {
	if yes || live == 0 && uncounted == nil && !a.asks() {
		return nil
	}
	ends := fmt.Sprintf("%d logins end", live)
	switch {
	case uncounted != nil:
		ends = fmt.Sprintf("logins end (they could not be counted: %v)", uncounted)
	case live == 1:
		ends = "1 login ends"
	}
	if !a.asks() {
		return refusedError{fmt.Errorf("%s: %s, and nothing was changed: --yes does it without asking", what, ends)}
	}
	if err := a.ask(fmt.Sprintf("%s: %s. Type yes: ", what, ends)); err != nil {
		return err
	}
	return a.askReason(op)
}

// asks reports whether the command can ask a person.
func (c *streams) asks() bool {
	_, ok := c.terminal()
	return ok
}

// errDeclined refuses what a person did not confirm.
var errDeclined = refusedError{errors.New("not confirmed, and nothing was changed")}

// ask asks a question on the terminal, which only yes answers.
func (c *streams) ask(question string) error {
	answer, err := c.typeLine(question)
	if err != nil || answer != "yes" {
		return errDeclined
	}
	return nil
}

// askReason asks for a reason that was not given, if the command can ask.
func (a *app) askReason(op *operator) error {
	if op.reason != "" || !a.asks() {
		return nil
	}
	reason, err := a.typeLine("Reason, for the audit trail (Enter for none): ")
	if err != nil {
		return err
	}
	if err := checkWord(reason); err != nil {
		return usageError{fmt.Errorf("reason: %w", err)}
	}
	op.reason = reason
	return op.Because(reason)
}
