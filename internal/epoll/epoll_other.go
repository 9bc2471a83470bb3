//go:build !linux

// Package epoll waits for many sockets at once; see the version for Linux, the only system that has it.
package epoll

import (
	"errors"
	"net"
	"time"
)

// What to wait for, and what has happened.
const (
	Read uint32 = 1 << iota
	Write
	Gone
)

// Supported says whether this system has epoll.
const Supported = false

var errNone = errors.New("this system has no epoll")

// Poller cannot be had here.
type Poller struct{}

// Event is a descriptor and what has happened to it.
type Event struct {
	FD   int
	What uint32
}

// New fails.
func New() (*Poller, error) { return nil, errNone }

// Close does nothing.
func (p *Poller) Close() {}

// Wake does nothing.
func (p *Poller) Wake() {}

// Add fails.
func (p *Poller) Add(int, uint32) error { return errNone }

// Change fails.
func (p *Poller) Change(int, uint32) error { return errNone }

// Remove does nothing.
func (p *Poller) Remove(int) {}

// Wait fails.
func (p *Poller) Wait(into []Event, _ time.Duration) ([]Event, error) { return into, errNone }

// Receive fails.
func Receive(int, []byte) (n int, again bool, err error) { return 0, false, errNone }

// Send fails.
func Send(int, []byte) (n int, err error) { return 0, errNone }

// Taken is not known here.
func Taken(int) (uint64, bool) { return 0, false }

// Peer is not known here.
func Peer(int) string { return "" }

// Take fails.
func Take(net.Conn) (fd int, err error) { return -1, errNone }

// Copy fails.
func Copy(net.Conn) (fd int, err error) { return -1, errNone }

// Give fails.
func Give(int) (net.Conn, error) { return nil, errNone }

// Close does nothing.
func Close(int) {}
