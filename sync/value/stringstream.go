package value

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// streamFrom is the size from which a string is written by one SET whose argument
// is sent piece by piece. A server reads such an argument as it comes and keeps
// it as the value. To grow a string by APPEND or SETRANGE would have it move, or
// fill with zeros, all that is there: seconds for half a gigabyte.
const streamFrom = 4 << 20

// streamString writes the first size bytes of a string. A string that became
// shorter meanwhile is not written at all.
func streamString(ctx context.Context, src *redis.Client, key string, t *temp, size int64) error {
	var readErr error
	reading := ctx
	err := t.through(ctx, func(ctx context.Context, dst *redis.Client) error {
		// The limit of a round trip is not this command's: each piece has its own.
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		w, err := dialRaw(ctx, dst, t.key)
		if err != nil {
			return err
		}
		defer w.close()
		w.header("SET", t.key, size)
		for at := int64(0); at < size; {
			part, err := src.GetRange(reading, key, at, min(at+chunkBytes, size)-1).Result()
			if err == nil && part == "" {
				err = fmt.Errorf("%w: it became shorter", errChanged)
			}
			if err != nil {
				readErr = err // the SET is not whole and will never be run
				return nil
			}
			if err := w.piece(part); err != nil {
				return err
			}
			at += int64(len(part))
			t.bytes += int64(len(part))
			if t.after != nil {
				t.length = at
				t.after()
			}
		}
		t.began = true
		return w.end("PEXPIRE", t.key, strconv.FormatInt(tempLife.Milliseconds(), 10))
	})
	t.length = 0
	if err = errors.Join(readErr, err); err == nil {
		t.length = size
	}
	return err
}

// rawConn writes commands to a server without a client between.
type rawConn struct {
	nc    net.Conn
	r     *bufio.Reader
	limit time.Duration
	stop  func() bool
}

// dialRaw connects as c does for a key, under the same name, and so that whoever closes
// c's connections on the server closes this one. The client of a cluster dials who has the key.
func dialRaw(ctx context.Context, c *redis.Client, key string) (*rawConn, error) {
	o := c.Options()
	address := o.Addr
	if Clustered(c) {
		address = key
	}
	nc, err := o.Dialer(ctx, o.Network, address)
	if err != nil {
		return nil, err
	}
	w := &rawConn{nc: nc, r: bufio.NewReader(nc), limit: max(o.ReadTimeout, time.Second)}
	w.stop = context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	greet := [][]string{{"SELECT", strconv.Itoa(o.DB)}}
	if o.Password != "" {
		auth := []string{"AUTH", o.Password}
		if o.Username != "" {
			auth = []string{"AUTH", o.Username, o.Password}
		}
		greet = append([][]string{auth}, greet...)
	}
	if o.ClientName != "" {
		greet = append(greet, []string{"CLIENT", "SETNAME", o.ClientName})
	}
	for _, args := range greet {
		if err := w.call(args...); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *rawConn) close() {
	w.stop()
	_ = w.nc.Close()
}

func (w *rawConn) write(s string) error {
	_ = w.nc.SetDeadline(time.Now().Add(w.limit))
	_, err := w.nc.Write([]byte(s))
	return err
}

func (w *rawConn) call(args ...string) error {
	var b strings.Builder
	command(&b, args)
	if err := w.write(b.String()); err != nil {
		return err
	}
	return w.reply()
}

func command(b *strings.Builder, args []string) {
	fmt.Fprintf(b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(b, "$%d\r\n%s\r\n", len(a), a)
	}
}

// header begins a command whose last argument has size bytes, which follow. An
// error shows when they are written.
func (w *rawConn) header(name, key string, size int64) {
	_ = w.write(fmt.Sprintf("*3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n$%d\r\n", len(name), name, len(key), key, size))
}

func (w *rawConn) piece(s string) error { return w.write(s) }

// end finishes the command, sends another, and reads both answers.
func (w *rawConn) end(then ...string) error {
	var b strings.Builder
	b.WriteString("\r\n")
	command(&b, then)
	if err := w.write(b.String()); err != nil {
		return err
	}
	return errors.Join(w.reply(), w.reply())
}

// reply reads a short answer; one that is an error is returned as the server's.
func (w *rawConn) reply() error {
	_ = w.nc.SetReadDeadline(time.Now().Add(w.limit))
	line, err := w.r.ReadString('\n')
	if err != nil {
		return err
	}
	if text, refused := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "-"); refused {
		return discreet(answer(text))
	}
	return nil
}
