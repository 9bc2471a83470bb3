package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// header2Of makes a binary header.
func header2Of(command, family byte, addresses []byte) []byte {
	b := append([]byte(header2), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(addresses))), addresses...)
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHeaders(t *testing.T) {
	four := unhex(t, "cb007107 7f000001 d431 18ec")
	six := unhex(t, "20010db8000000000000000000000007 00000000000000000000000000000001 d431 18ec")
	path := append([]byte("/run/app.sock"), make([]byte, 203)...)
	tests := []struct {
		header []byte
		where  string
		bad    bool
	}{
		{[]byte("PROXY TCP4 203.0.113.7 127.0.0.1 54321 6380\r\n"), "203.0.113.7:54321", false},
		{[]byte("PROXY TCP6 2001:db8::7 ::1 54321 6380\r\n"), "[2001:db8::7]:54321", false},
		{[]byte("PROXY UNKNOWN\r\n"), "", false},
		{[]byte("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), "", false},
		{[]byte("PROXY TCP4 2001:db8::7 ::1 54321 6380\r\n"), "", true},
		{[]byte("PROXY TCP4 203.0.113.7 127.0.0.1 65536 6380\r\n"), "", true},
		{[]byte("PROXY UDP4 203.0.113.7 127.0.0.1 1 6380\r\n"), "", true},
		{[]byte("PROXY \r\n"), "", true},
		{[]byte("PROXY TCP4 " + strings.Repeat("1", 200)), "", true},
		{header2Of(0x21, 0x11, four), "203.0.113.7:54321", false},
		{header2Of(0x21, 0x11, append(slices.Clone(four), 3, 0, 4, 1, 2, 3, 4)), "203.0.113.7:54321", false}, // with a checksum behind
		{header2Of(0x21, 0x21, six), "[2001:db8::7]:54321", false},
		{header2Of(0x21, 0x31, path), "unix:/run/app.sock", false},
		{header2Of(0x21, 0x00, nil), "", false},
		{header2Of(0x20, 0x11, four), "", false},
		{header2Of(0x20, 0x00, make([]byte, 65535)), "", false},
		{header2Of(0x11, 0x11, four), "", true},
		{header2Of(0x22, 0x11, four), "", true},
		{header2Of(0x21, 0x11, four[:11]), "", true},
		{header2Of(0x21, 0x21, six[:35]), "", true},
		{header2Of(0x21, 0x31, path[:215]), "", true},
	}
	for i, test := range tests {
		for _, piece := range []int{1, 1000000} {
			where, rest, err := sendHeader(t, test.header, piece, "tail")
			if where != test.where || errors.Is(err, errBadHeader) != test.bad || !test.bad && rest != "tail" {
				t.Errorf("%d, %d at a time: got %q, %v, and %q behind", i, piece, where, err, rest)
			}
		}
	}
	for _, text := range []string{"PING\r\n", "PROXX", "*1\r\n", "\r\n\r\n\x00\r\nQUIP", "P\r\n"} {
		where, rest, err := sendHeader(t, []byte(text), 1, "")
		if where != "" || rest != text || err != nil {
			t.Errorf("%q: got %q, %v, and %q behind", text, where, err, rest)
		}
	}
}

// sendHeader has a header read that comes in pieces, and what is behind it.
func sendHeader(t *testing.T, header []byte, piece int, tail string) (where, rest string, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for b := range slices.Chunk(header, min(piece, len(header))) {
			if _, err := client.Write(b); err != nil || len(header) > 1000 && piece == 1 {
				_, _ = client.Write(header[1:])
				break
			}
		}
		_, _ = client.Write([]byte(tail))
		_ = client.(*net.TCPConn).CloseWrite()
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	where, err = readHeader(conn, false, false)
	buf := make([]byte, 64)
	for err == nil {
		n, rerr := conn.Read(buf)
		rest += string(buf[:n])
		if rerr != nil {
			break
		}
	}
	_ = conn.Close()
	<-sent
	_ = client.Close()
	return where, rest, err
}

// FuzzHeaders parses anything.
func FuzzHeaders(f *testing.F) {
	f.Add([]byte("PROXY TCP4 203.0.113.7 127.0.0.1 54321 6380\r\n"))
	f.Add(header2Of(0x21, 0x11, make([]byte, 12)))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := headerSize(b[:min(len(b), header1Max)])
		if size <= 0 || size > len(b) {
			return
		}
		header := b[:size]
		if header[0] == header1[0] {
			_, _ = parseHeader1(string(header))
			return
		}
		where, err := parseHeader2(header)
		if err == nil && where != "" && !strings.HasPrefix(where, "unix:") {
			if _, err := netip.ParseAddrPort(where); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestProxyProtocol(t *testing.T) {
	believed := netip.MustParsePrefix("127.0.0.0/8")
	header := "PROXY TCP4 203.0.113.7 127.0.0.1 54321 6380\r\n"
	ping := string(words("PING"))
	tests := []struct {
		headers Headers
		say     string
		want    string
	}{
		{Headers{}, header, "-ERR unknown command"},
		{Headers{Networks: []netip.Prefix{believed}}, header + ping, "+PONG"},
		{Headers{Networks: []netip.Prefix{believed}}, string(header2Of(0x21, 0x11, make([]byte, 12))) + ping, "+PONG"},
		{Headers{Networks: []netip.Prefix{believed}}, ping, "+PONG"},
		{Headers{Networks: []netip.Prefix{believed}}, "PING\r\n", "+PONG"},
		{Headers{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, header, "-ERR unknown command"},
		{Headers{Networks: []netip.Prefix{believed}, Required: true}, header + ping, "+PONG"},
		{Headers{Networks: []netip.Prefix{believed}, Required: true}, ping, "EOF"},
		{Headers{Networks: []netip.Prefix{believed}, Required: true}, string(header2Of(0x31, 0x11, nil)), "EOF"},
		{Headers{Networks: []netip.Prefix{netip.MustParsePrefix("::1/128")}, Required: true}, header + ping, "EOF"},
	}
	for i, test := range tests {
		w := newWorld(t, func(c *Config) { c.Headers = test.headers })
		c := w.client()
		c.write([]byte(test.say))
		if got := c.next(); !strings.HasPrefix(got, test.want) {
			t.Errorf("%d: got %q, want %q", i, got, test.want)
		}
	}
}

// TestProxiedAddressIsLogged finds the address of the header in the log, with and
// without TLS and at a unix socket, in a session and when it is refused.
func TestProxiedAddressIsLogged(t *testing.T) {
	ca := redistest.NewAuthority(t, "authority")
	pair := ca.Issue("127.0.0.1")
	settings := withTLS(t, config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile})
	socket := t.TempDir() + "/s"
	w := newWorld(t, settings, func(c *Config) {
		c.Listen = append(c.Listen, Listen{Network: "tcp", Address: "127.0.0.1:0"}, Listen{Network: "unix", Address: socket})
		c.Headers = Headers{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Unix: true, Required: true}
	})
	for i := range 3 {
		c := w.through(i)
		address := fmt.Sprintf("203.0.113.7:%d", 1000+i)
		_, port, _ := net.SplitHostPort(address)
		c.write([]byte("PROXY TCP4 203.0.113.7 127.0.0.1 " + port + " 6380\r\n"))
		if i == 0 {
			c.write([]byte("PING\r\n")) // this is no handshake
			until(t, "the refusal is logged", func() bool { return w.logs.has("refusing a client\" client=" + address) })
			continue
		}
		c.want("WATCH k", ok) // the session has an upstream of its own, whose end it logs
		id := fmt.Sprint(w.do(router.Source, 0, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
		c.expect("EOF")
		until(t, id+" were killed, the end is logged", func() bool { return w.logs.has("client=" + address) })
	}
}
