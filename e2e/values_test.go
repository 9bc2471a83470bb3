package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"time"
)

// valueClient sends and takes values as streams: it never has a value as a whole. One
// goroutine may send while another takes.
type valueClient struct {
	conn net.Conn
	in   *bufio.Reader
}

// dialValues connects; all has to be done within patience.
func dialValues(addr string, patience time.Duration) (*valueClient, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &valueClient{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}, nil
}

func (c *valueClient) close() { _ = c.conn.Close() }

// sendSet sends a SET with so many bytes of body.
func (c *valueClient) sendSet(key string, size int, body io.Reader) error {
	if _, err := fmt.Fprintf(c.conn, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", len(key), key, size); err != nil {
		return fmt.Errorf("sending SET %s: %w", key, err)
	}
	sent, err := io.CopyBuffer(struct{ io.Writer }{c.conn}, io.LimitReader(body, int64(size)), make([]byte, 64<<10))
	if err == nil {
		_, err = io.WriteString(c.conn, "\r\n")
	}
	if err != nil {
		return fmt.Errorf("sending the value of %s, after %d bytes: %w", key, sent, err)
	}
	return nil
}

func (c *valueClient) sendGet(key string) error {
	if _, err := fmt.Fprintf(c.conn, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key); err != nil {
		return fmt.Errorf("sending GET %s: %w", key, err)
	}
	return nil
}

// take takes a reply, or the beginning of one, that has to be these bytes.
func (c *valueClient) take(want string) error {
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c.in, got); err != nil || string(got) != want {
		return fmt.Errorf("instead of %q: %q %w", want, got[:n], err)
	}
	return nil
}

// takeValue takes a reply that is a value of size bytes.
func (c *valueClient) takeValue(size int, to io.Writer) error {
	if err := c.take(fmt.Sprintf("$%d\r\n", size)); err != nil {
		return err
	}
	n, err := io.CopyBuffer(to, struct{ io.Reader }{io.LimitReader(c.in, int64(size))}, make([]byte, 64<<10))
	if err == nil && n < int64(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("receiving a value, after %d bytes: %w", n, err)
	}
	return c.take("\r\n")
}

// pattern is the same bytes over and over: it is read from without end, and what is
// written to it has to be equal.
type pattern struct {
	block []byte
	at    int
}

func (p *pattern) next() []byte { return p.block[p.at%len(p.block):] }

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, p.next())
	p.at += n
	return n, nil
}

func (p *pattern) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		want := p.next()
		want = want[:min(len(want), len(b)-done)]
		if !bytes.Equal(b[done:done+len(want)], want) {
			return done, fmt.Errorf("the %d bytes from %d on differ", len(want), p.at)
		}
		done += len(want)
		p.at += len(want)
	}
	return len(b), nil
}
