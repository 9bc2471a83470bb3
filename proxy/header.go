package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Headers says whose headers of the PROXY protocol are believed. The zero value
// believes nobody, and looks for none.
type Headers struct {
	Networks []netip.Prefix
	Unix     bool // clients of unix sockets
	Required bool // refuse who is not among these, or sends no header
}

func (h Headers) on() bool { return h.Unix || len(h.Networks) > 0 }

func (h Headers) trusts(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return h.Unix
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, network := range h.Networks {
		if network.Contains(ip) {
			return true
		}
	}
	return false
}

// The PROXY protocol, https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt.
const (
	header1    = "PROXY "
	header1Max = 107
	header2    = "\r\n\r\n\x00\r\nQUIT\n"
	header2Min = 16
)

var (
	errNoHeader  = errors.New("no PROXY header came")
	errBadHeader = errors.New("the PROXY header cannot be read")
)

// readHeader takes a header off the connection and returns the client's address in
// it, "" when it names none. Nothing behind the header is read, so that the socket
// can be handed on; that is why it is done here and not by a library, which would
// buffer. Without required there may be none, and then a client may stay silent
// for as long as it likes, unless hurried.
func readHeader(conn net.Conn, required, hurried bool) (string, error) {
	deadline := time.Now().Add(greeting)
	if !required && !hurried {
		if err := awaitFirst(conn); err != nil {
			return "", err
		}
		deadline = time.Now().Add(greeting)
	}
	_ = conn.SetDeadline(deadline)
	var head [header1Max]byte
	size := more
	n, err := peek(conn, head[:], func(b []byte) bool { size = headerSize(b); return size != more })
	switch {
	case err != nil:
		return "", fmt.Errorf("reading a PROXY header: %w", err)
	case size == 0 && required:
		return "", errNoHeader
	case size == 0:
		return "", nil
	case size < 0:
		return "", fmt.Errorf("%w: it begins with %q", errBadHeader, head[:n])
	}
	header := make([]byte, size)
	if _, err := io.ReadFull(conn, header); err != nil {
		return "", fmt.Errorf("reading a PROXY header: %w", err)
	}
	if header[0] == header1[0] {
		return parseHeader1(string(header))
	}
	return parseHeader2(header)
}

const (
	more = -1 // more must come to tell
	bad  = -2
)

// headerSize returns the size of the header at the begin of b, 0 when there is none.
func headerSize(b []byte) int {
	begins := func(with string) bool { return strings.HasPrefix(with, string(b[:min(len(b), len(with))])) }
	switch {
	case begins(header1):
		if i := bytes.Index(b, []byte("\r\n")); i >= 0 {
			return i + 2
		}
		if len(b) == header1Max {
			return bad
		}
		return more
	case begins(header2):
		if len(b) < header2Min {
			return more
		}
		return header2Min + int(binary.BigEndian.Uint16(b[14:]))
	}
	return 0
}

// awaitFirst waits until a byte is there.
func awaitFirst(conn net.Conn) error {
	var b [1]byte
	_, err := peek(conn, b[:], func([]byte) bool { return true })
	return err
}

// peek looks at what has come, without taking it, until that is enough. The end of
// the stream is io.EOF.
func peek(conn net.Conn, buf []byte, enough func([]byte) bool) (n int, err error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("a %T is no socket", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, failed = unix.Recvfrom(int(fd), buf, unix.MSG_PEEK)
			if !errors.Is(failed, unix.EINTR) {
				break
			}
		}
		switch {
		case errors.Is(failed, unix.EAGAIN):
			failed = nil
			return false
		case failed != nil:
			return true
		case n == 0:
			failed = io.EOF
			return true
		}
		return enough(buf[:n])
	})
	return n, errors.Join(err, failed)
}

// parseHeader1 reads "PROXY TCP4 source destination port port\r\n".
func parseHeader1(text string) (string, error) {
	words := strings.Split(strings.TrimSuffix(text, "\r\n"), " ")
	if len(words) > 1 && words[1] == "UNKNOWN" {
		return "", nil
	}
	if len(words) == 6 && (words[1] == "TCP4" || words[1] == "TCP6") {
		addr, err := netip.ParseAddr(words[2])
		port, portErr := strconv.ParseUint(words[4], 10, 16)
		if err == nil && portErr == nil && addr.Is4() == (words[1] == "TCP4") {
			return netip.AddrPortFrom(addr, uint16(port)).String(), nil
		}
	}
	return "", fmt.Errorf("%w: %q", errBadHeader, text)
}

// parseHeader2 reads the binary form.
func parseHeader2(b []byte) (string, error) {
	command, family, addresses := b[12], b[13], b[header2Min:]
	switch {
	case command == 0x20: // LOCAL: the proxy itself, for a health check
		return "", nil
	case command != 0x21:
		return "", fmt.Errorf("%w: version and command %#x", errBadHeader, command)
	}
	short := fmt.Errorf("%w: %d bytes of addresses for family %#x", errBadHeader, len(addresses), family)
	switch family {
	case 0x11: // TCP over IPv4
		if len(addresses) < 12 {
			return "", short
		}
		return addrPort(addresses[:4], addresses[8:]), nil
	case 0x21: // TCP over IPv6
		if len(addresses) < 36 {
			return "", short
		}
		return addrPort(addresses[:16], addresses[32:]), nil
	case 0x31: // a unix socket
		if len(addresses) < 216 {
			return "", short
		}
		path, _, _ := bytes.Cut(addresses[:108], []byte{0})
		return "unix:" + string(path), nil
	}
	return "", nil // unspecified, or nothing that speaks Redis
}

func addrPort(ip, port []byte) string {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)).String()
}
