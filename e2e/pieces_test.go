package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestPiecesCostWhatTheyCarry sends commands of many arguments in small pieces, each of which
// the sidecar has read before the next one comes: one of them takes about as much of its
// processor's time as two of half as many arguments. One who looked at a command from its
// begin again with each piece would take twice as much for the one, and not only half as
// much again.
func TestPiecesCostWhatTheyCarry(t *testing.T) {
	attacks := []struct {
		what       string
		step, args int
	}{
		{"drip-fed byte by byte", 1, 3_000},
		{"in segments of 1460 bytes", 1460, 1 << 20},
	}
	eachUpstream(t, func(t *testing.T, mode string) {
		c, client := throughSocket(t, mode)
		for _, in := range []string{"alone", "in a transaction"} { // where a command has to come whole
			for _, a := range attacks {
				cost := func(args int) time.Duration {
					command := append(fmt.Appendf(nil, "*%d\r\n$3\r\nDEL\r\n", args+1), bytes.Repeat([]byte("$1\r\nk\r\n"), args)...)
					if in == "alone" {
						return client.cost(c, command, a.step, ":0\r\n")
					}
					client.say("MULTI\r\n", "+OK\r\n")
					defer client.say("EXEC\r\n", "*1\r\n:0\r\n")
					return client.cost(c, command, a.step, "+QUEUED\r\n")
				}
				var halves, whole time.Duration
				for try := 0; try == 0 || try < 3 && whole > halves*3/2; try++ { // other processes take caches away
					halves = cost(a.args/2) + cost(a.args/2)
					whole = cost(a.args)
					t.Logf("%d arguments %s, %s: %v of processor time, twice half as many: %v", a.args, in, a.what, whole, halves)
				}
				if whole > halves*3/2 {
					t.Errorf("%d arguments %s, %s, take %v of processor time, but twice half as many take %v", a.args, in, a.what, whole, halves)
				}
			}
		}
	})
}

// pieceClient writes so that the sidecar reads each piece alone.
type pieceClient struct {
	t    *testing.T
	conn *net.UnixConn
}

// throughSocket starts a sidecar and has a client come by a unix socket, where the kernel
// tells what the other end has yet to read.
func throughSocket(t *testing.T, mode string) (*sidecar, *pieceClient) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	c := proxyOnly(t, mode, "--listen", "unix:"+path)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return c, &pieceClient{t, conn}
}

func (p *pieceClient) say(text, want string) {
	p.t.Helper()
	_ = p.conn.SetDeadline(time.Now().Add(4 * time.Minute))
	if err := converse(p.conn, text, want); err != nil {
		p.t.Fatal(err)
	}
}

// cost is the sidecar's processor time for a command that comes in pieces of step bytes.
func (p *pieceClient) cost(c *sidecar, command []byte, step int, want string) time.Duration {
	p.t.Helper()
	raw, err := p.conn.SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	_ = p.conn.SetDeadline(time.Now().Add(4 * time.Minute))
	before := redistest.ProcessorTime(p.t, c.cmd.Process.Pid)
	for len(command) > 0 {
		n := min(step, len(command))
		if _, err := p.conn.Write(command[:n]); err != nil {
			p.t.Fatal(err)
		}
		command = command[n:]
		p.awaitRead(raw)
	}
	p.say("", want)
	return redistest.ProcessorTime(p.t, c.cmd.Process.Pid) - before
}

// awaitRead waits until the other end has read all.
func (p *pieceClient) awaitRead(raw syscall.RawConn) {
	p.t.Helper()
	for deadline, unread := time.Now().Add(time.Minute), 1; unread > 0; {
		var err error
		if e := raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); e != nil || err != nil {
			p.t.Fatal(e, err)
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%d bytes are not read", unread)
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // the sidecar may want this processor
	}
}
