//go:build !linux

package relay

import (
	"context"
	"errors"
	"time"
)

// Lot has no relays: only Linux has epoll.
type Lot struct {
	spawn func(func())
	after time.Duration
}

// NewLot makes none, which is a Lot that Options take.
func NewLot(time.Duration, func(func())) (*Lot, error) { return nil, nil }

// Run waits for ctx.
func (l *Lot) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (l *Lot) park(*relaying) error { return errors.ErrUnsupported }
func (l *Lot) leave(*relaying)      {}
