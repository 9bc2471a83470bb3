package main

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// plainClient speaks inline commands that have answers of one line.
type plainClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func clientOf(t *testing.T, dir string) *plainClient {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(dir, "clients.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &plainClient{t, c, bufio.NewReader(c)}
}

// do sends a command and fails the test when the answer is an error.
func (c *plainClient) do(words ...string) string {
	c.t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c.conn, strings.Join(words, " ")+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.in.ReadString('\n')
	if err != nil || strings.HasPrefix(line, "-") {
		c.t.Fatalf("%v: %q, %v", words, line, err)
	}
	return line
}
