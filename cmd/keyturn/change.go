package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

// changes makes the verbs that change one row of a table and print it.
type changes[Table, Row any] struct {
	*app
	noun, argument string // for instance client, ID
	table          func(*operator) Table
	complete       completion
	find           func(Table, context.Context, string) (Row, error)
}

// change makes one of the verbs. done is its message.
func (c changes[Table, Row]) change(
	name, short, done string, change func(Table, context.Context, string) error,
) *cobra.Command {
	return c.verb(verb{
		use:      name + " " + c.argument,
		short:    short,
		args:     cobra.ExactArgs(1),
		complete: c.complete,
		act: func(ctx context.Context, op *operator, args []string) error {
			return c.apply(ctx, op, args[0], done, false, change)
		},
	})
}

// delete makes the verb that deletes a row, with all its logins, after a question. live counts the logins.
func (c changes[Table, Row]) delete(
	short, done string,
	live func(context.Context, *operator, string) (int64, error),
	change func(Table, context.Context, string) error,
) *cobra.Command {
	yes := false
	cmd := c.verb(verb{
		use:      "delete " + c.argument,
		short:    short,
		args:     cobra.ExactArgs(1),
		complete: c.complete,
		act: func(ctx context.Context, op *operator, args []string) error {
			if _, err := c.find(c.table(op), ctx, args[0]); errors.Is(err, admin.ErrNotFound) {
				return err
			}
			if !yes {
				n, err := live(ctx, op, args[0])
				if err := c.mayEnd(op, false, "delete "+c.noun+" "+args[0], n, err); err != nil {
					return err
				}
			}
			return c.apply(ctx, op, args[0], done, true, change)
		},
	})
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// apply makes a change and prints the row.
func (c changes[Table, Row]) apply(
	ctx context.Context, op *operator, key, done string, deletes bool,
	change func(Table, context.Context, string) error,
) error {
	table := c.table(op)
	find := func() (Row, error) { return c.find(table, ctx, key) }
	apply := func() error { return change(table, ctx, key) }
	return changeOne(c.streams, c.noun+" "+key, done, deletes, find, apply)
}

// changeOne changes a row and prints it. A failed read never prevents the change: the row is read after it, or, if the
// change deletes the row, before it.
func changeOne[T any](c *streams, name, done string, deletes bool, read func() (T, error), change func() error) error {
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
