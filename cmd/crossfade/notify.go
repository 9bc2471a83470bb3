package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// notify tells who started the process how it stands, as sd_notify(3) does: READY=1 when
// clients are served, STOPPING=1. Without a NOTIFY_SOCKET nobody wants to know.
func notify(state string) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	if abstract, is := strings.CutPrefix(address, "@"); is {
		address = "\x00" + abstract
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling NOTIFY_SOCKET %s: %w", state, err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling NOTIFY_SOCKET %s: %w", state, err)
	}
	return nil
}

// mayBeHidden reports whether a service may not see a file that others make: systemd gives
// services, as ours, a /tmp and a /var/tmp of their own (PrivateTmp).
func mayBeHidden(file string) bool {
	if file == "" || os.Getenv("NOTIFY_SOCKET") == "" {
		return false
	}
	if full, err := filepath.Abs(file); err == nil {
		file = full
	}
	return strings.HasPrefix(file, "/tmp/") || strings.HasPrefix(file, "/var/tmp/")
}
