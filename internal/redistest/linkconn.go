package redistest

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is a piece of the stream and when it may arrive.
type chunk struct {
	data []byte
	due  time.Time
}

// linkConn relays one client's connection. Each direction has a reader, which
// stamps what it reads with the time it is due, and a writer, which waits for
// that time: so a delay costs latency and no throughput.
type linkConn struct {
	link    *Link
	client  *net.TCPConn
	swallow atomic.Bool   // nothing passes any more
	stop    chan struct{} // closed by end
	once    sync.Once
	gone    chan struct{} // closed when nothing of the connection is left
}

func newLinkConn(l *Link, client *net.TCPConn) *linkConn {
	return &linkConn{link: l, client: client, stop: make(chan struct{}), gone: make(chan struct{})}
}

// end asks the connection to close; it does not wait.
func (c *linkConn) end() { c.once.Do(func() { close(c.stop) }) }

// run relays until both directions have ended or end is called, and returns
// when all goroutines of the connection have.
func (c *linkConn) run() {
	defer func() { _ = c.client.Close() }()
	conn, err := net.DialTimeout("tcp", *c.link.upstream.Load(), 5*time.Second)
	if err != nil {
		return // the client sees a closed connection, as behind any relay
	}
	server := conn.(*net.TCPConn)
	up, down := make(chan chunk, 1024), make(chan chunk, 1024)
	var readers, upWriter, downWriter sync.WaitGroup
	readers.Go(func() { c.read(c.client, up, &c.link.up) })
	readers.Go(func() { c.read(server, down, &c.link.down) })
	upWriter.Go(func() { c.write(server, up, &c.link.up) })
	downWriter.Go(func() { c.write(c.client, down, &c.link.down) })
	finished := make(chan struct{})
	go func() { // ends when both writers have, which the lines below wait for
		upWriter.Wait()
		downWriter.Wait()
		close(finished)
	}()
	select {
	case <-c.stop:
	case <-finished:
		c.end()
	}
	_ = server.Close()
	upWriter.Wait() // from here on nothing can reach the server
	_ = c.client.Close()
	<-finished
	readers.Wait()
}

// read passes on what arrives, until the end of the stream.
func (c *linkConn) read(from *net.TCPConn, to chan<- chunk, l *lane) {
	defer close(to)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			piece := chunk{data: append([]byte(nil), buf[:n]...), due: time.Now().Add(time.Duration(l.delay.Load()))}
			select {
			case to <- piece:
			case <-c.stop:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write sends each chunk when it is due and the lane is not stalled, and
// passes the end of the stream on. A failed write ends the connection.
func (c *linkConn) write(to *net.TCPConn, from <-chan chunk, l *lane) {
	for {
		var piece chunk
		var more bool
		select {
		case piece, more = <-from:
		case <-c.stop:
			return
		}
		if !c.wait(piece.due, l) {
			return
		}
		if c.swallow.Load() {
			if more {
				continue
			}
			<-c.stop
			return
		}
		if !more {
			_ = to.CloseWrite()
			return
		}
		n, cut := l.take(len(piece.data))
		_, err := to.Write(piece.data[:n])
		l.passed.Add(int64(n))
		if cut {
			for _, other := range c.link.live() {
				other.end()
			}
		}
		if err != nil || cut {
			c.end()
			return
		}
	}
}

// wait returns true when it is time to send, and false when the connection is
// to end first.
func (c *linkConn) wait(due time.Time, l *lane) bool {
	if d := time.Until(due); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.stop:
			return false
		}
	}
	for {
		stalled := l.blocked()
		if stalled == nil {
			break
		}
		select {
		case <-stalled:
		case <-c.stop:
			return false
		}
	}
	select {
	case <-c.stop: // a cut chunk must not slip through after the cut
		return false
	default:
		return true
	}
}
