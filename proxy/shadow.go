package proxy

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/crossfade/crossfade/router"
)

// Shadow reads. A share of the plain reads that guests send to the source is asked of
// the target as well, over a connection of the same user, database and protocol, once
// the source has answered. The client gets the source's reply, as always: it is handed
// on before anybody asks the target. What the loop does is to keep the request until
// the reply is there, take the reply's shape, and hand both over at the end of the
// round; all else is done by the lane's goroutine (lane.go), for which nobody waits:
// what it does not get done in time is thrown away and counted.

// ShadowRead is a read to which the two servers have given different replies.
type ShadowRead struct {
	DB      int      // the client's
	Keys    []string // that it names
	Command string   // its name in lower case
	Family  string
	// Again asks both servers once more, over connections of its own. differs says that
	// the source has given the same reply before and after the target gave another one.
	// arrived is asked between the source's first reply and the target's, and says
	// whether all that was written to the keys before is across: if not, nothing is
	// proved. nil where the request was too large to be kept.
	Again func(ctx context.Context, arrived func() (bool, error)) (differs bool, err error)
}

// ShadowObserver is an Observer that also wants to hear of reads that were answered
// differently. It must not block: a difference may be no more than a change that has
// not arrived, or one that came in between, which is its part to find out.
type ShadowObserver interface {
	Differed(read ShadowRead)
}

// Bounds. What is past them is not asked, but counted.
const (
	mostShadowed = 1 << 20  // bytes of requests in flight kept on one connection
	mostShaped   = 1 << 20  // bytes of a reply
	mostLanes    = 64       // connections
	laneReads    = 4096     // reads that wait for one
	laneBytes    = 4 << 20  // … and bytes of their requests
	mostAgain    = 4 << 10  // … of one that may be asked once more
	batchBytes   = 64 << 10 // … that are sent at a time, about
	wholeShare   = 1 << 32
)

// shadows is all that a Server has of them. The zero value has them off.
type shadows struct {
	share atomic.Uint64 // of wholeShare
	obs   ShadowObserver

	mu     sync.Mutex
	ctx    context.Context // of the lanes of now; nil when it is off
	cancel context.CancelFunc
	lanes  map[string]*lane

	batches        sync.Pool
	families       [families]shadowCount
	failed         [errorKinds]atomic.Int64
	source, target sharedHistogram
}

// shadowCount counts what has become of reads.
type shadowCount struct{ equal, differed, failed, skipped atomic.Int64 }

// Shadow has a share of the plain reads, from 0 to 1, asked of the target as well, from
// now on. A Hold ends that; it must be asked for again afterwards, and while clients
// are served by the target nothing comes of it.
func (s *Server) Shadow(share float64) {
	m := &s.shadows
	m.mu.Lock()
	defer m.mu.Unlock()
	next := uint64(max(0, min(1, share)) * wholeShare)
	if math.IsNaN(share) || s.stopping.Err() != nil {
		next = 0
	}
	switch {
	case next == 0:
		m.end()
	case m.cancel == nil:
		m.ctx, m.cancel = context.WithCancel(s.stopping)
		m.lanes = make(map[string]*lane)
	}
	m.share.Store(next)
}

// end closes the lanes, with mu held, and waits for none.
func (m *shadows) end() {
	m.share.Store(0)
	if m.cancel != nil {
		m.cancel()
		m.ctx, m.cancel, m.lanes = nil, nil, nil
	}
}

// stopShadows ends them for a switch.
func (s *Server) stopShadows() {
	s.shadows.mu.Lock()
	defer s.shadows.mu.Unlock()
	s.shadows.end()
}

// shadowCalls are the requests in flight on one connection that will be asked again,
// oldest first. The zero value is ready.
type shadowCalls struct {
	b    []byte // each with its length before it
	head int
	last int // where the newest begins
}

func (q *shadowCalls) any() bool { return q.head < len(q.b) }

// keep remembers a request, unless there are too many.
func (q *shadowCalls) keep(raw []byte) bool {
	if len(q.b)-q.head+len(raw) > mostShadowed {
		return false
	}
	if q.head == len(q.b) {
		q.b, q.head = q.b[:0], 0
	} else if q.head > 64<<10 && q.head > len(q.b)/2 {
		q.b = append(q.b[:0], q.b[q.head:]...)
		q.head = 0
	}
	q.last = len(q.b)
	q.b = binary.LittleEndian.AppendUint32(q.b, uint32(len(raw)))
	q.b = append(q.b, raw...)
	return true
}

// drop forgets what the last keep has kept.
func (q *shadowCalls) drop() { q.b = q.b[:q.last] }

// take returns the oldest, which stays as it is until the next keep.
func (q *shadowCalls) take() []byte {
	n := int(binary.LittleEndian.Uint32(q.b[q.head:]))
	raw := q.b[q.head+4 : q.head+4+n]
	q.head += 4 + n
	if q.head == len(q.b) && cap(q.b) > mostShadowed/4 {
		q.b, q.head = nil, 0
	}
	return raw
}

// shadows reports whether a request will be asked again, and keeps it if so.
func (l *loop) shadows(t *trunk, sp *spec, args [][]byte, raw []byte) bool {
	if l.share < wholeShare && uint64(rand.Uint32()) >= l.share || !sp.read.fits(args) {
		return false
	}
	if _, mapped := l.route.Map.Target(t.db); !mapped {
		return false
	}
	if !t.calls.shadows.keep(raw) {
		l.srv.shadows.skip(sp.row, 1)
		return false
	}
	return true
}

// keepPart keeps a piece of a reply that does not come in one, while it may be needed.
func (t *trunk) keepPart(b []byte) {
	if t.size == len(b) { // the first one
		t.part = t.part[:0]
	}
	if t.size > mostShaped {
		t.part = nil
		return
	}
	t.part = append(t.part, b...)
}

// shadowed takes the reply to a request that is to be asked again: nil when it did not
// come in one piece.
func (l *loop) shadowed(t *trunk, g *guest, c call, reply []byte) {
	raw := t.calls.shadows.take()
	if reply == nil && len(t.part) == t.size {
		reply = t.part
	}
	if reply == nil || l.share == 0 {
		l.srv.shadows.skip(c.row, 1)
		return
	}
	if t.staged == nil {
		if t.lane = l.laneOf(t, g); t.lane == nil {
			l.srv.shadows.skip(c.row, 1)
			return
		}
		t.staged = l.srv.shadows.batch()
		l.staged = append(l.staged, t)
	}
	t.staged.add(raw, readOnce{row: c.row, shape: rows[c.row].read.how.shapeOf(reply), asked: c.sent, took: l.now - c.sent})
	if cap(t.part) > 64<<10 {
		t.part = nil
	}
}

// laneOf finds where the reads of a trunk go, nil when there is no room for more.
func (l *loop) laneOf(t *trunk, g *guest) *lane {
	if t.lane != nil && !t.lane.ended.Load() {
		return t.lane
	}
	st := g.state()
	ln := lane{srv: l.srv, db: t.db}
	for side := range ln.ends {
		end := &ln.ends[side]
		end.route = l.route
		end.route.Side = router.Side(side)
		lines, key, ok := l.srv.bearing(&st, end.route)
		if !ok {
			return nil
		}
		end.lines = lines
		ln.key += key
	}
	return l.srv.laneLike(&ln)
}

// handShadows hands over what the round has staged.
func (l *loop) handShadows() {
	for i, t := range l.staged {
		t.lane.offer(t.staged)
		t.staged = nil
		l.staged[i] = nil
	}
	l.staged = l.staged[:0]
}

// shadowBatch are reads to be asked together.
type shadowBatch struct {
	b     []byte // their requests
	reads []readOnce
}

// readOnce is a read that the source has answered. Times are nanoseconds since the
// server was made.
type readOnce struct {
	row   uint16
	shape shape
	asked int64 // when it was passed on
	took  int64 // … and how long the reply took
	end   int   // of its request in the batch
}

func (b *shadowBatch) add(raw []byte, r readOnce) {
	b.b = append(b.b, raw...)
	r.end = len(b.b)
	b.reads = append(b.reads, r)
}

func (m *shadows) batch() *shadowBatch {
	if b, ok := m.batches.Get().(*shadowBatch); ok {
		return b
	}
	return new(shadowBatch)
}

func (m *shadows) giveBack(b *shadowBatch) {
	if cap(b.b) > batchBytes {
		b.b = nil
	}
	b.b, b.reads = b.b[:0], b.reads[:0]
	m.batches.Put(b)
}

func (m *shadows) skip(row uint16, n int64) { m.families[rowFamily[row]].skipped.Add(n) }

// skipAll counts reads that nobody will ask again.
func (m *shadows) skipAll(reads []readOnce) {
	for i := range reads {
		m.skip(reads[i].row, 1)
	}
}

// Shadowed is what has become of the reads that were chosen to be asked of the target
// as well, since the start.
type Shadowed struct {
	Families []ShadowFamily   // those that have any, in the order of their names' table
	Failed   map[string]int64 // replies that one of the servers refused, by the error's first word
	// Source and Target are how long their replies took, of the same reads.
	Source, Target Histogram
	Connections    int
}

// ShadowFamily counts those of one group of commands.
type ShadowFamily struct {
	Name     string
	Equal    int64 // the replies were the same
	Differed int64 // they were not: the observer was told
	Failed   int64 // one of the servers could not or would not answer
	Skipped  int64 // the target was not asked, or did not answer in time
}

// Alike counts the reads to which both servers have given the same reply, since the
// start.
func (s *Server) Alike() (n int64) {
	for i := range s.shadows.families {
		n += s.shadows.families[i].equal.Load()
	}
	return n
}

// Shadowed returns the counts of this moment.
func (s *Server) Shadowed() Shadowed {
	m := &s.shadows
	out := Shadowed{Failed: make(map[string]int64)}
	for i := range m.families {
		c := &m.families[i]
		f := ShadowFamily{Name: family(i).String(), Equal: c.equal.Load(), Differed: c.differed.Load(), Failed: c.failed.Load(), Skipped: c.skipped.Load()}
		if f.Equal+f.Differed+f.Failed+f.Skipped > 0 {
			out.Families = append(out.Families, f)
		}
	}
	for i := range m.failed {
		if n := m.failed[i].Load(); n > 0 {
			out.Failed[errorNames[i]] = n
		}
	}
	m.source.addTo(&out.Source)
	m.target.addTo(&out.Target)
	m.mu.Lock()
	out.Connections = len(m.lanes)
	m.mu.Unlock()
	return out
}
