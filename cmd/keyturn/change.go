package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// changes makes the verbs that change one row of a table and print it.
type changes[Table, Row any] struct {
	*app
	noun, argument string // for instance client, ID
	table          func(*operator) Table
	find           func(Table, context.Context, string) (Row, error)
}

// change makes one of the verbs. done is its message.
func (c changes[Table, Row]) change(
	name, short, done string, change func(Table, context.Context, string) error,
) *cobra.Command {
	return c.verb(verb{
		use:   name + " " + c.argument,
		short: short,
		args:  cobra.ExactArgs(1),
		act: func(ctx context.Context, op *operator, args []string) error {
			table, key := c.table(op), args[0]
			find := func() (Row, error) { return c.find(table, ctx, key) }
			apply := func() error { return change(table, ctx, key) }
			return changeOne(c.console, c.noun+" "+key, done, name == "delete", find, apply)
		},
	})
}

// changeOne changes a row and prints it. A failed read never prevents the change: the row is read after it, or, if the
// change deletes the row, before it.
func changeOne[T any](c *console, name, done string, deletes bool, read func() (T, error), change func() error) error {
	var row T
	var unread error
	if deletes {
		row, unread = read()
	}
	if err := change(); err != nil {
		return err
	}
	c.say("%s %s", name, done)
	if !deletes {
		row, unread = read()
	}
	if unread != nil {
		return fmt.Errorf("%s %s, but its row could not be read: %w", name, done, unread)
	}
	return c.print(row, func() {})
}
