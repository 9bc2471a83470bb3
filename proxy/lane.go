package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/router"
)

const (
	lanePause    = time.Millisecond // in which reads gather, so that few writes carry many
	lanePauses   = 20               // without any, after which the next one wakes the lane
	laneIdle     = 30 * time.Second // after which it is closed
	lanePatience = 2 * time.Second  // for the replies to a batch
	laneRetry    = time.Second      // after a failure; what comes meanwhile is skipped
	laneBuffer   = 64 << 10         // bytes read at a time
)

// lane is a connection to the target for the shadow reads of clients that have the
// user, the database and the protocol in common, and the goroutine that asks and
// compares. No client ever waits for it.
type lane struct {
	srv  *Server
	key  string
	ends [2]laneEnd // by router.Side
	db   int        // the clients'

	ended atomic.Bool
	wake  chan struct{}

	mu      sync.Mutex
	queue   []*shadowBatch
	waiting int  // reads in it
	bytes   int  // … and bytes of their requests
	resting bool // the goroutine waits to be woken
	closed  bool // takes no more
	broken  bool // cannot be asked at the moment: what comes is skipped

	k    *link // nil when there is none; the goroutine's, as is buf
	buf  []byte
	tell string // the last failure that was logged
}

// laneEnd is how to get where such clients are on one side.
type laneEnd struct {
	route router.Route
	lines []line
}

// laneLike returns the lane of the same key as one that is not begun, which it may
// become. nil: there are too many, or shadow reads are off.
func (s *Server) laneLike(like *lane) *lane {
	m := &s.shadows
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel == nil {
		return nil
	}
	ln := m.lanes[like.key]
	if ln == nil {
		if len(m.lanes) >= mostLanes {
			return nil
		}
		ln = like
		ln.wake = make(chan struct{}, 1)
		m.lanes[ln.key] = ln
		ctx := m.ctx
		s.serving.Go(func() { ln.run(ctx) })
	}
	return ln
}

// offer hands reads over, for good: those that there is no room for are skipped.
func (ln *lane) offer(b *shadowBatch) {
	ln.mu.Lock()
	full := ln.closed || ln.broken || ln.waiting+len(b.reads) > laneReads || ln.bytes+len(b.b) > laneBytes
	wake := !full && ln.resting
	if !full {
		ln.queue = append(ln.queue, b)
		ln.waiting += len(b.reads)
		ln.bytes += len(b.b)
		ln.resting = false
	}
	ln.mu.Unlock()
	if full {
		ln.srv.shadows.skipAll(b.reads)
		ln.srv.shadows.giveBack(b)
	}
	if wake {
		select {
		case ln.wake <- struct{}{}:
		default:
		}
	}
}

// run asks until ctx ends, or nobody has had a read for a while.
func (ln *lane) run(ctx context.Context) {
	defer ln.end()
	for {
		b := ln.next(ctx)
		if b == nil {
			return
		}
		err := ln.ask(ctx, b)
		ln.srv.shadows.giveBack(b)
		if err != nil && ctx.Err() == nil {
			ln.fail(ctx, err)
		}
	}
}

// next waits for reads. nil means that there will be none.
func (ln *lane) next(ctx context.Context) *shadowBatch {
	for empty := 0; ; {
		rest := empty > lanePauses
		ln.mu.Lock()
		if len(ln.queue) > 0 {
			b := ln.queue[0]
			ln.queue[0] = nil
			if ln.queue = ln.queue[1:]; len(ln.queue) == 0 {
				ln.queue = nil
			}
			ln.waiting -= len(b.reads)
			ln.bytes -= len(b.b)
			for len(ln.queue) > 0 && len(b.b)+len(ln.queue[0].b) <= batchBytes {
				ln.join(b)
			}
			ln.mu.Unlock()
			return b
		}
		ln.resting = rest
		ln.mu.Unlock()
		wait := lanePause
		if rest {
			wait = laneIdle
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-ln.wake:
			t.Stop()
			empty = 0
		case <-t.C:
			if rest {
				return nil
			}
			empty++
		}
	}
}

// join adds the next batch of the queue to b, with mu held.
func (ln *lane) join(b *shadowBatch) {
	more := ln.queue[0]
	ln.queue[0] = nil
	ln.queue = ln.queue[1:]
	ln.waiting -= len(more.reads)
	ln.bytes -= len(more.b)
	begin := len(b.b)
	b.b = append(b.b, more.b...)
	for _, r := range more.reads {
		r.end += begin
		b.reads = append(b.reads, r)
	}
	ln.srv.shadows.giveBack(more)
}

// end closes the lane. Whoever has staged reads for it finds that it takes none.
func (ln *lane) end() {
	ln.ended.Store(true)
	m := &ln.srv.shadows
	m.mu.Lock()
	if m.lanes[ln.key] == ln {
		delete(m.lanes, ln.key)
	}
	m.mu.Unlock()
	ln.mu.Lock()
	ln.closed = true
	ln.mu.Unlock()
	ln.throwAway()
	ln.hangUp()
}

// throwAway skips what waits.
func (ln *lane) throwAway() {
	ln.mu.Lock()
	queue := ln.queue
	ln.queue, ln.waiting, ln.bytes = nil, 0, 0
	ln.mu.Unlock()
	for _, b := range queue {
		ln.srv.shadows.skipAll(b.reads)
		ln.srv.shadows.giveBack(b)
	}
}

func (ln *lane) hangUp() {
	if ln.k != nil {
		ln.k.close()
		ln.k = nil
	}
}

// fail waits a moment after a failure; all that comes meanwhile is skipped.
func (ln *lane) fail(ctx context.Context, err error) {
	ln.hangUp()
	if text := err.Error(); text != ln.tell {
		ln.tell = text
		ln.srv.log.Warn("the target cannot be asked for shadow reads; clients do not feel that", "err", err)
	}
	ln.setBroken(true)
	ln.throwAway()
	t := time.NewTimer(laneRetry)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	ln.setBroken(false)
}

func (ln *lane) setBroken(broken bool) {
	ln.mu.Lock()
	ln.broken = broken
	ln.mu.Unlock()
}

// connect makes a connection to a side.
func (ln *lane) connect(ctx context.Context, side router.Side) (*link, error) {
	end := &ln.ends[side]
	k, err := ln.srv.dial(ctx, end.route)
	if err != nil {
		return nil, err
	}
	err = k.run(ctx, end.lines)
	switch {
	case err == nil && k.unselected:
		err = errAlone
	case err == nil && k.busy != nil:
		err = k.busy
	}
	if err != nil {
		k.close()
		return nil, fmt.Errorf("shadow reads: %w", err)
	}
	return k, nil
}

// ask sends a batch and compares the replies. With an error, the reads that were not
// answered are skipped.
func (ln *lane) ask(ctx context.Context, b *shadowBatch) error {
	done := 0
	defer func() { ln.srv.shadows.skipAll(b.reads[done:]) }()
	if ln.k == nil {
		k, err := ln.connect(ctx, router.Target)
		if err != nil {
			return err
		}
		ln.k = k
	}
	sent := ln.srv.clock()
	if last := b.reads[len(b.reads)-1]; sent-last.asked-last.took > int64(lanePatience) {
		return nil // much may have changed since
	}
	conn := ln.k.conn
	if err := conn.SetDeadline(time.Now().Add(lanePatience)); err != nil {
		return fmt.Errorf("shadow reads: asking the target: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(ln.said(b)); err != nil {
		return fmt.Errorf("shadow reads: asking the target: %w", err)
	}
	in := replyReader{read: conn.Read, buf: ln.buf}
	defer func() {
		if ln.buf = in.buf; len(ln.buf) > 4*laneBuffer {
			ln.buf = nil
		}
	}()
	for from := 0; done < len(b.reads); done++ {
		r := &b.reads[done]
		reply, whole, err := in.next()
		if err != nil {
			return fmt.Errorf("shadow reads: reading from the target: %w", err)
		}
		how := rows[r.row].read.how
		got := how.shapeOf(reply)
		if !whole { // the source's was not that large
			got = shape{sum: ^r.shape.sum}
		}
		ln.compare(r, got, b.b[from:r.end], ln.srv.clock(), sent)
		from = r.end
	}
	ln.tell = ""
	return nil
}

// said returns the requests of a batch as the target is to have them.
func (ln *lane) said(b *shadowBatch) []byte {
	with := prefixOf(ln.k.route, ln.db)
	if with == "" {
		return b.b
	}
	var w prefix.Rewriter
	out, from := make([]byte, 0, len(b.b)+len(b.reads)*(len(with)+2)), 0
	for i := range b.reads {
		r := &b.reads[i]
		out, _ = w.Append(out, prefix.Keys, rows[r.row].command, parsed(b.b[from:r.end]), with)
		from = r.end
	}
	return out
}

// compare counts a read that both have answered.
func (ln *lane) compare(r *readOnce, got shape, raw []byte, now, sent int64) {
	m, sp := &ln.srv.shadows, rows[r.row]
	count := &m.families[sp.family]
	m.source.observe(r.took, 1)
	m.target.observe(now-sent, 1)
	switch {
	case sp.read.how.same(r.shape, got, time.Duration(now-r.asked)):
		count.equal.Add(1)
	case !got.tellsOfData(), !r.shape.tellsOfData():
		kind := r.shape.kind
		if !got.tellsOfData() {
			kind = got.kind
		}
		m.failed[kind].Add(1)
		count.failed.Add(1)
	default:
		count.differed.Add(1)
		if m.obs != nil {
			read := ShadowRead{DB: ln.db, Keys: sp.keysOf(raw), Command: sp.name, Family: sp.family.String()}
			if len(raw) <= mostAgain {
				kept := bytes.Clone(raw)
				read.Again = func(ctx context.Context, arrived func() (bool, error)) (bool, error) {
					return ln.again(ctx, sp.read.how, kept, arrived)
				}
			}
			m.obs.Differed(read)
		}
	}
}

// again asks the source, the target once what the source had is across, and the source
// once more.
func (ln *lane) again(ctx context.Context, how comparison, raw []byte, arrived func() (bool, error)) (differs bool, err error) {
	var links [2]*link
	for side := range links {
		if links[side], err = ln.connect(ctx, router.Side(side)); err != nil {
			return false, err
		}
		defer links[side].close()
	}
	var got [3]shape
	began := time.Now()
	for i, side := range []router.Side{router.Source, router.Target, router.Source} {
		if side == router.Target {
			if there, err := arrived(); err != nil || !there {
				return false, err
			}
		}
		wire := raw
		if with := prefixOf(links[side].route, ln.db); with != "" {
			args := parsed(raw)
			wire, _ = new(prefix.Rewriter).Append(nil, prefix.Keys, lookup(args[0]).command, args, with)
		}
		reply, err := links[side].exchange(ctx, wire)
		if err != nil {
			return false, fmt.Errorf("shadow reads: asking the %s again: %w", side, err)
		}
		got[i] = how.shapeOf(reply)
	}
	took := time.Since(began)
	return how.same(got[0], got[2], took) && !how.same(got[0], got[1], took) && got[0].tellsOfData() && got[1].tellsOfData(), nil
}

var errTooLarge = errors.New("the reply is larger than any that is compared")

// exchange says one command and returns its reply, as long as that can be compared.
func (l *link) exchange(ctx context.Context, raw []byte) ([]byte, error) {
	if err := l.conn.SetDeadline(time.Now().Add(lanePatience)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := l.conn.Write(raw); err != nil {
		return nil, err
	}
	in := replyReader{read: l.conn.Read}
	reply, whole, err := in.next()
	if err == nil && !whole {
		err = errTooLarge
	}
	return reply, err
}

// keysOf returns the keys that a request names.
func (s *spec) keysOf(raw []byte) []string {
	return s.keysIn(parsed(raw), anyUse)
}
