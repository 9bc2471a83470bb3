package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxSocketPath is what Linux takes as the path of a unix socket, in bytes.
const maxSocketPath = 107

// SplitAddress splits an address to listen on or to reach the admin API, as in
// Admin.Address: "unix:PATH" (or "unix:///PATH") gives "unix"
// and the path, "HOST:PORT" gives "tcp" and the same text. Port 0 is allowed. The
// error says what would be right.
func SplitAddress(text string) (network, address string, err error) {
	if text == "" {
		return "", "", errors.New("missing: write HOST:PORT or unix:PATH")
	}
	if path, is := strings.CutPrefix(text, "unix:"); is {
		path = strings.TrimPrefix(path, "//")
		return "unix", path, checkSocketPath(path)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", "", fmt.Errorf("%q is not an address: write HOST:PORT (such as 127.0.0.1:6380, [::1]:6380) or unix:PATH", text)
	}
	if number, err := strconv.Atoi(port); err != nil || number < 0 || number > 65535 {
		return "", "", fmt.Errorf("%q has the port %q: give a number from 0 to 65535", text, port)
	}
	if strings.ContainsAny(host, "/ \t\r\n\x00") {
		return "", "", fmt.Errorf("%q has no host name before the port: write HOST:PORT or unix:PATH", text)
	}
	return "tcp", text, nil
}

// Listen is one address for clients.
type Listen struct {
	Network string // "tcp" or "unix"
	Address string // HOST:PORT, or the path of the socket
	TLS     bool
	Mode    fs.FileMode // of the socket; 0 leaves it to the process's umask
}

// ParseListen reads one of Config.Listen: HOST:PORT, tls://HOST:PORT, unix:PATH or
// unix:PATH?mode=0660. The error says what would be right.
func ParseListen(text string) (Listen, error) {
	if rest, is := strings.CutPrefix(text, "tls://"); is {
		network, address, err := SplitAddress(rest)
		if err == nil && network != "tcp" {
			err = fmt.Errorf("%q: TLS is for HOST:PORT only", text)
		}
		return Listen{Network: network, Address: address, TLS: true}, err
	}
	path, mode, has := strings.Cut(text, "?mode=")
	if !has || !strings.HasPrefix(text, "unix:") {
		network, address, err := SplitAddress(text)
		return Listen{Network: network, Address: address}, err
	}
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil || bits == 0 || bits > 0o777 {
		return Listen{}, fmt.Errorf("%q has the mode %q: give an octal one such as 0660", text, mode)
	}
	network, address, err := SplitAddress(path)
	return Listen{Network: network, Address: address, Mode: fs.FileMode(bits)}, err
}

// Listeners reads Listen. All problems are reported; their texts begin with the key. One that
// serves nobody (role: sync) has none, whatever Listen says.
func (c Config) Listeners() ([]Listen, []error) {
	if c.Role == "sync" {
		if !slices.Equal(c.Listen, Default().Listen) {
			return nil, []error{errors.New("listen: with the role sync nobody is served: leave it out, or give the role full")}
		}
		return nil, nil
	}
	var list []Listen
	var problems []error
	if len(c.Listen) == 0 {
		problems = append(problems, errors.New("listen: missing: write HOST:PORT or unix:PATH"))
	}
	seen := map[string]string{}
	for _, text := range c.Listen {
		l, err := ParseListen(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("listen: %w", err))
			continue
		}
		place := l.Network + " " + l.Address
		before, twice := seen[place]
		if twice && !strings.HasSuffix(l.Address, ":0") {
			problems = append(problems, fmt.Errorf("listen: %q and %q are one address: keep one", before, text))
			continue
		}
		seen[place] = text
		list = append(list, l)
	}
	return list, problems
}

func checkSocketPath(path string) error {
	switch {
	case path == "":
		return errors.New("no path after unix: write unix:PATH")
	case strings.ContainsRune(path, 0):
		return fmt.Errorf("the socket path %q holds a zero byte: give a plain path", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("the socket path %q has %d bytes: give one of at most %d", path, len(path), maxSocketPath)
	}
	return nil
}

// loopback tells whether only this machine can reach a TCP address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}

// samePlace tells whether two addresses are the same without asking the network.
// It knows localhost and the addresses that mean every local one; it cannot know
// that two names are one machine.
func samePlace(networkA, a, networkB, b string) bool {
	if networkA != networkB {
		return false
	}
	if networkA == "unix" {
		return cleanPath(a) == cleanPath(b)
	}
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && portA != "0" && plainHost(hostA) == plainHost(hostB)
}

// plainHost gives one spelling to a host; all of this machine's own count as one.
func plainHost(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || host == "localhost" {
		return "localhost"
	}
	if ip := net.ParseIP(host); ip != nil {
		if ip.IsUnspecified() || ip.Equal(net.IPv4(127, 0, 0, 1)) || ip.Equal(net.IPv6loopback) {
			return "localhost"
		}
		return ip.String()
	}
	return host
}

func cleanPath(path string) string {
	if absolute, err := filepath.Abs(path); err == nil {
		return absolute
	}
	return filepath.Clean(path)
}
