package admin

import (
	"sync"
	"time"
)

const (
	watchEvery = time.Second // between two looks, however many pages are open
	watchKept  = 300         // points that a page gets when it opens
	maxPages   = 500         // open ones: each takes a file descriptor, which clients need too
)

// watch looks once a second, as long as a page is open, and gives all of them the same.
type watch struct {
	look func() (event []byte, p Point)

	mu      sync.Mutex // guards what follows; not held over a look
	pages   map[chan []byte]struct{}
	past    []Point // the oldest first
	latest  []byte
	at      time.Time // of the latest
	running bool
	closed  chan struct{}
	loops   sync.WaitGroup
}

func newWatch(look func() ([]byte, Point)) *watch {
	return &watch{look: look, pages: make(map[chan []byte]struct{}), closed: make(chan struct{})}
}

// join adds a page. The channel holds the newest event alone: whoever is slow misses some.
// It has one already, unless there is none that is recent; past is what was before.
func (w *watch) join() (events chan []byte, past []Point, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.closed:
		return nil, nil, false
	default:
	}
	if len(w.pages) >= maxPages {
		return nil, nil, false
	}
	events = make(chan []byte, 1)
	w.pages[events] = struct{}{}
	if time.Since(w.at) < 2*watchEvery {
		events <- w.latest
	}
	if !w.running {
		w.running = true
		w.loops.Go(w.run)
	}
	return events, append([]Point{}, w.past...), true
}

func (w *watch) leave(events chan []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pages, events)
}

// run looks until no page is left at a tick.
func (w *watch) run() {
	w.mu.Lock()
	wait := time.Until(w.at.Add(watchEvery))
	w.mu.Unlock()
	if wait > 0 { // the last page has left within this second
		select {
		case <-time.After(wait):
		case <-w.closed:
			return
		}
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for w.tell() {
		select {
		case <-tick.C:
		case <-w.closed:
			return
		}
	}
}

// tell looks and gives it to all pages; false when there are none.
func (w *watch) tell() bool {
	w.mu.Lock()
	if len(w.pages) == 0 {
		w.running = false
		w.mu.Unlock()
		return false
	}
	w.mu.Unlock()
	event, point := w.look()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest, w.at = event, point.At
	w.past = append(w.past, point)
	if len(w.past) >= 2*watchKept {
		w.past = append([]Point(nil), w.past[len(w.past)-watchKept:]...)
	}
	for page := range w.pages {
		select {
		case <-page: // not read yet
		default:
		}
		page <- event
	}
	return true
}

// end ends the looking, and lets nobody join any more.
func (w *watch) end() {
	w.mu.Lock()
	close(w.closed)
	w.mu.Unlock()
	w.loops.Wait()
}
