package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// peerPatience bounds every wait for an answer: it says that there will be none.
const peerPatience = time.Minute

// row is one state of a connection and what is done with clients in it. run calls
// next twice: the traffic has been moved to the target when it returns, and back when it
// returns again. alone is for those that share their servers with no other row.
type row struct {
	state string
	run   func(*act)
	alone bool
}

// scene is what all rows act on: two servers, the sidecar between, and the steps that
// all take together.
type scene struct {
	proto    int
	src, dst *redistest.Server
	c        *sidecar
	steps    steps
	acting   sync.WaitGroup

	mu     sync.Mutex
	side   router.Side
	shut   bool
	opened []net.Conn
}

// forgotten is a script that the source knew once.
const forgotten = "return 'forgotten'"

// forget has the source forget a script, before anybody else has loaded one.
func (sc *scene) forget(t *testing.T) {
	a := &act{scene: sc}
	var done sync.WaitGroup
	done.Go(func() {
		p := a.client()
		p.do("SCRIPT", "LOAD", forgotten)
		p.want(ok, "SCRIPT", "FLUSH")
		p.close()
	})
	done.Wait()
	for _, problem := range a.problems() {
		t.Error(problem)
	}
}

// enter begins a row.
func (sc *scene) enter(r row) *act {
	a := &act{scene: sc, row: r, stop: make(chan struct{})}
	sc.steps.join()
	sc.acting.Go(func() {
		defer sc.steps.leave()
		defer a.helpers.Wait()
		defer a.quit()
		r.run(a)
	})
	return a
}

// close ends all clients and waits until every row has.
func (sc *scene) close() {
	sc.mu.Lock()
	opened := sc.opened
	sc.opened, sc.shut = nil, true
	sc.mu.Unlock()
	for _, c := range opened {
		_ = c.Close()
	}
	sc.steps.end()
	sc.acting.Wait()
}

func (sc *scene) setSide(side router.Side) {
	sc.mu.Lock()
	sc.side = side
	sc.mu.Unlock()
}

// server is the one that the traffic is on.
func (sc *scene) server() *redistest.Server {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.side == router.Target {
		return sc.dst
	}
	return sc.src
}

// steps has several goroutines wait for each other between two steps.
type steps struct {
	mu              sync.Mutex
	cond            *sync.Cond
	acting, waiting int
	step            int
	over            bool
}

func (s *steps) lock() {
	s.mu.Lock()
	if s.cond == nil {
		s.cond = sync.NewCond(&s.mu)
	}
}

func (s *steps) join() {
	s.lock()
	defer s.mu.Unlock()
	s.acting++
}

func (s *steps) leave() {
	s.lock()
	defer s.mu.Unlock()
	s.acting--
	s.cond.Broadcast()
}

// next waits for the next step; false says that there is none.
func (s *steps) next() bool {
	s.lock()
	defer s.mu.Unlock()
	s.waiting++
	s.cond.Broadcast()
	for at := s.step; s.step == at && !s.over; {
		s.cond.Wait()
	}
	return !s.over
}

// awaitAll waits until all wait, or have left.
func (s *steps) awaitAll() {
	s.lock()
	defer s.mu.Unlock()
	for s.waiting < s.acting {
		s.cond.Wait()
	}
}

func (s *steps) advance() {
	s.lock()
	defer s.mu.Unlock()
	s.step++
	s.waiting = 0
	s.cond.Broadcast()
}

func (s *steps) end() {
	s.lock()
	defer s.mu.Unlock()
	s.over = true
	s.cond.Broadcast()
}

// act is one row at work.
type act struct {
	*scene
	row     row
	helpers sync.WaitGroup
	once    sync.Once
	stop    chan struct{} // closed when the helpers are to end

	mu    sync.Mutex
	wrong []string
	more  int
}

// next waits for the next switch to be made.
func (a *act) next() {
	if !a.steps.next() {
		runtime.Goexit()
	}
}

// quit has the helpers end.
func (a *act) quit() { a.once.Do(func() { close(a.stop) }) }

// helper runs f beside the row.
func (a *act) helper(f func()) { a.helpers.Go(f) }

// failf notes what is wrong and ends the goroutine that found it.
func (a *act) failf(format string, args ...any) {
	a.mu.Lock()
	if len(a.wrong) < 10 {
		a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
	} else {
		a.more++
	}
	a.mu.Unlock()
	runtime.Goexit()
}

func (a *act) problems() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.more > 0 {
		return append(a.wrong, fmt.Sprintf("and %d more", a.more))
	}
	return a.wrong
}

// null and nullArray are what the protocol says for nothing.
func (a *act) null() string {
	if a.proto == 3 {
		return "_\r\n"
	}
	return "$-1\r\n"
}

func (a *act) nullArray() string {
	if a.proto == 3 {
		return "_\r\n"
	}
	return "*-1\r\n"
}

// head begins what a server says unasked.
func (a *act) head(n int) string {
	if a.proto == 3 {
		return fmt.Sprintf(">%d\r\n", n)
	}
	return fmt.Sprintf("*%d\r\n", n)
}

// peer is a client that sees bytes. No library stands between it and the proxy.
type peer struct {
	a    *act
	n    int // its number in its row
	conn net.Conn
	in   *bufio.Reader
	mu   sync.Mutex // for those whom several goroutines have ask, by do and want
	id   string     // at the server, where it was asked for
}

// client connects to the proxy and speaks the row's protocol.
func (a *act) client() *peer {
	p := a.connect(a.c.addr)
	if a.proto == 3 {
		if got := p.do("HELLO", "3"); !strings.HasPrefix(got, "%") {
			a.failf("HELLO 3: %q", got)
		}
	}
	return p
}

// direct connects to the server that the traffic is on, past the proxy.
func (a *act) direct() *peer { return a.connect(a.server().Addr()) }

func (a *act) connect(addr string) *peer {
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		a.failf("connecting: %v", err)
	}
	a.scene.mu.Lock()
	shut := a.shut
	a.opened = append(a.opened, conn)
	a.scene.mu.Unlock()
	if shut {
		_ = conn.Close()
	}
	return &peer{a: a, conn: conn, in: bufio.NewReaderSize(conn, 4<<10)}
}

// clients connects n of them; every second one is in database 3.
func (a *act) clients(n int) []*peer {
	all := make([]*peer, n)
	a.each(all, func(i int, _ *peer) {
		p := a.client()
		p.n = i
		if i%2 == 1 {
			p.want(ok, "SELECT", "3")
		}
		all[i] = p
	})
	return all
}

// each does something with all clients at the same time. When that fails for one, it
// is the end of the row.
func (a *act) each(list []*peer, f func(i int, p *peer)) {
	var at sync.WaitGroup
	for i, p := range list {
		at.Go(func() { f(i, p) })
	}
	at.Wait()
	a.check()
}

// check ends the row when something was found to be wrong.
func (a *act) check() {
	if len(a.problems()) > 0 {
		runtime.Goexit()
	}
}

func (p *peer) failf(format string, args ...any) {
	p.a.failf("client %d: %s", p.n, fmt.Sprintf(format, args...))
}

func (p *peer) close() { _ = p.conn.Close() }

// command is one command's bytes.
func command(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		b.WriteString(bulk(w))
	}
	return b.String()
}

// write sends bytes as they are.
func (p *peer) write(text string) {
	_ = p.conn.SetWriteDeadline(time.Now().Add(peerPatience))
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.failf("writing: %v", err)
	}
}

func (p *peer) send(words ...string) { p.write(command(words...)) }

// next returns the next element as its bytes. At the end of the connection it fails.
func (p *peer) next() string {
	got, err := p.read()
	if err != nil {
		p.failf("reading: %v (have %q)", err, got)
	}
	return got
}

func (p *peer) read() (string, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(peerPatience))
	var f resp.Framer
	var text strings.Builder
	for {
		if _, err := p.in.Peek(1); err != nil {
			return text.String(), err
		}
		have, _ := p.in.Peek(p.in.Buffered())
		n, done, err := f.Feed(have)
		text.Write(have[:n])
		_, _ = p.in.Discard(n)
		if done || err != nil {
			return text.String(), err
		}
	}
}

// ended reads to the end of the connection; it fails if there is none.
func (p *peer) ended() {
	_ = p.conn.SetReadDeadline(time.Now().Add(peerPatience))
	_, err := io.Copy(io.Discard, p.in)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		p.failf("the connection is still open")
	}
}

func (p *peer) do(words ...string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.send(words...)
	return p.next()
}

// want says a command and expects one answer.
func (p *peer) want(answer string, words ...string) {
	if got := p.do(words...); got != answer {
		p.failf("%.80q: got %.200q, want %.200q", words, got, answer)
	}
}

// expect expects one element.
func (p *peer) expect(what, answer string) {
	if got := p.next(); got != answer {
		p.failf("%s: got %.200q, want %.200q", what, got, answer)
	}
}

// text returns the payload of a string, status or number.
func (p *peer) text(el string) string {
	text, _, ok := resp.Text([]byte(el))
	if !ok {
		p.failf("%.200q is no text", el)
	}
	return string(text)
}

// elements splits an aggregate.
func (p *peer) elements(el string) []string {
	parts := resp.Elements([]byte(el))
	if len(parts) == 0 {
		p.failf("%.200q has no elements", el)
	}
	out := make([]string, len(parts))
	for i, part := range parts {
		out[i] = string(part)
	}
	return out
}

// askID asks for the id that the server knows the client by.
func (p *peer) askID() { p.id = p.text(p.do("CLIENT", "ID")) }

// awaitBlocked waits until the server says that p, which has asked for its id, is
// blocked there. look is a connection past the proxy.
func (p *peer) awaitBlocked(look *peer) {
	for deadline := time.Now().Add(peerPatience); ; runtime.Gosched() {
		line := look.text(look.do("CLIENT", "LIST", "ID", p.id))
		_, flags, _ := strings.Cut(line, " flags=")
		flags, _, _ = strings.Cut(flags, " ")
		if strings.Contains(flags, "b") {
			return
		}
		if time.Now().After(deadline) {
			p.failf("it does not block: %q", line)
		}
	}
}

const ok = "+OK\r\n"

func bulk(s string) string { return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n" }

// array is an array of whole elements.
func array(elements ...string) string {
	return fmt.Sprintf("*%d\r\n%s", len(elements), strings.Join(elements, ""))
}

func bulks(words ...string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = bulk(w)
	}
	return array(all...)
}
