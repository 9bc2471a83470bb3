package e2e

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// peerPatience bounds every wait for an answer: it says that there will be none.
const peerPatience = time.Minute

// row is one state of a connection and what is done with clients in it. run calls
// next twice: the traffic has been moved to the target when it returns, and back when it
// returns again. A server shows each client in the state by one of the flags, where there
// is a flag for it. alone is for those that share their servers with no other row.
type row struct {
	state string
	run   func(*act)
	flags string
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
	moved sync.Cond // a client has done something, or something is wrong
	wrong []string
	more  int
}

// next waits for the next switch to be made. in are the clients that are in the row's
// state until then.
func (a *act) next(in []*peer) {
	if len(in) < rowSessions() {
		a.failf("%d clients are in this state at the switch, want %d", len(in), rowSessions())
	}
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
	a.moved.Broadcast()
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
