//go:build !linux

package load

import (
	"errors"
	"time"
)

// clock cannot be had here, and is not needed: there is no epoll either.
type clock struct{ fd int }

func newClock() (clock, error)          { return clock{-1}, errors.New("this system has no timer descriptors") }
func (c clock) set(time.Duration) error { return errors.New("this system has no timer descriptors") }
func (c clock) heard()                  {}
