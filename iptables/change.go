package iptables

import (
	"context"
	"errors"
	"fmt"
)

// change is one step on the way to a plan.
type change struct {
	what string
	// do changes everything or, with an error, nothing. undo leads back to what
	// there was before; nil is nothing to do.
	do func(ctx context.Context) (undo undo, err error)
}

type undo func(ctx context.Context) error

// take does the changes in their order. If one fails, those before it are
// undone, and what there was is there again.
func take(ctx context.Context, changes []change) error {
	var done []undo
	for _, c := range changes {
		undo, err := c.do(ctx)
		if err == nil {
			done = append(done, undo)
			continue
		}
		err = fmt.Errorf("%s: %w", c.what, err)
		// The way back is gone also when ctx has ended: that may be why.
		if back := rollback(context.WithoutCancel(ctx), done); back != nil {
			err = fmt.Errorf("%w; and what was done before could not be undone: %w", err, back)
		}
		return err
	}
	return nil
}

// rollback undoes the last first.
func rollback(ctx context.Context, done []undo) error {
	var errs []error
	for i := range done {
		if undo := done[len(done)-1-i]; undo != nil {
			errs = append(errs, undo(ctx))
		}
	}
	return errors.Join(errs...)
}
