package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Restarted reports whether To is another process than the one that the last Drain
// has filled, whoever has noticed that first. Everything is scanned again then, once
// the mirror is not frozen.
func (m *Mirror) Restarted(ctx context.Context) (bool, error) {
	is, _, err := m.lookRun(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	return err == nil && m.drained.id != "" && m.drained.id != is.id, err
}

// Filled asks, in p, who the server at the other end is; of a cluster, all masters behind it.
// What it returns is to be called when p has run, and returns an error unless that is the
// process that the last Drain has filled, and has kept it, but for what it has evicted.
func (m *Mirror) Filled(ctx context.Context, p redis.Pipeliner) func() error {
	return m.filled(ctx, p, m.filledBy)
}

// Whole is Filled, and an error too where keys were evicted since.
func (m *Mirror) Whole(ctx context.Context, p redis.Pipeliner) func() error {
	return m.filled(ctx, p, m.wholeBy)
}

func (m *Mirror) filled(ctx context.Context, p redis.Pipeliner, judge func(being) error) func() error {
	if m.toNodes != nil {
		return func() error {
			is, _, err := m.lookRun(ctx)
			if err != nil {
				return err
			}
			return judge(is)
		}
	}
	a := askHolder(ctx, p)
	return func() error {
		who, err := a.answer()
		if err != nil {
			return fmt.Errorf("asking %s who it is: %w", m.cfg.To, err)
		}
		is, _, err := m.toOne.judge(ctx, who, a.at)
		if err != nil {
			return err
		}
		return judge(is)
	}
}

// Refilled has those who are the masters of a cluster now stand for those that the last Drain
// has filled, if still says that they have all of it. It reports whether they do.
func (m *Mirror) Refilled(ctx context.Context, still func(context.Context) (bool, error)) (bool, error) {
	is, _, err := m.lookRun(ctx) // first: who comes later is another one
	if err != nil {
		return false, err
	}
	if whole, err := still(ctx); !whole || err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drained.id = is.id
	return true, nil
}

func (m *Mirror) filledBy(is being) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.drained.id != is.id {
		return fmt.Errorf("%s restarted, or was a replica, since it was filled", m.cfg.To)
	}
	return nil
}

func (m *Mirror) wholeBy(is being) error {
	if err := m.filledBy(is); err != nil || m.toIsLeft() {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := is.evicted - m.drained.evicted; n > 0 {
		return fmt.Errorf("%s has evicted %d keys since it was filled: it needs more memory", m.cfg.To, n)
	}
	return nil
}

// run returns what To was when it was looked at last.
func (m *Mirror) run() being {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.toRun
}

// Entered names the process that To was when it was looked at last: another name once it may
// have lost what it was given. It is made for being compared.
func (m *Mirror) Entered() string { return m.run().id }

// checkRun is lookRun for those who need no id.
func (m *Mirror) checkRun(ctx context.Context) (changed bool, err error) {
	_, changed, err = m.lookRun(ctx)
	return changed, err
}

// lookRun finds out whether To is still the process that was copied to, and has its data. One
// that restarted may have lost what it had acknowledged, as one that was a replica has, so
// everything is scanned again; changed reports that to one caller or to several, is what To is
// now. (For From see checkSource.) Of a cluster it is the same with each master, and with one
// that another has taken the place of. For what To has evicted see evicts.
func (m *Mirror) lookRun(ctx context.Context) (is being, changed bool, err error) {
	var why string
	if m.toNodes != nil {
		is, why, err = m.toNodes.look(ctx)
	} else {
		is, why, err = m.lookOne(ctx)
	}
	if err != nil {
		return being{}, false, err
	}
	m.mu.Lock()
	was := m.toRun
	m.mu.Unlock()
	other := was.id != is.id
	switch { // where somebody else has found it first
	case why == "" && other:
		why = fmt.Sprintf("%s may have lost keys", m.cfg.To)
	case why == "":
		why = is.evicted.words(m.cfg.To.String())
	}
	switch {
	case was.id == "" || was == is:
	case other:
		changed = true
		m.noteGap(why)
		m.functions.due.Store(true)
		for _, l := range m.lanes {
			l.requestScan()
		}
	case m.toIsLeft():
		m.errs.add("evicted", errors.New(why))
	default:
		changed = true
		m.evicts(why)
	}
	m.evictedOver()
	m.mu.Lock() // after the scans are asked for: who finds it known may wait for them
	m.toRun = is
	m.mu.Unlock()
	return is, changed, nil
}

// Followed asks, in p, who the server at the other end is. What it returns is to be called
// when p has run, and returns an error unless that is the process whose changes are
// followed now, and has the data that it had.
func (m *Mirror) Followed(ctx context.Context, p redis.Pipeliner) func() error {
	a := askWho(ctx, p)
	return func() error {
		who, err := a.answer()
		m.mu.Lock()
		l, up := m.life, m.feed != nil
		m.mu.Unlock()
		if err := l.differs(ctx, who, a.at, err); err != nil {
			return err
		}
		if !up {
			return fmt.Errorf("the changes of %s do not arrive, %w", m.cfg.From, errElsewhere)
		}
		return nil
	}
}

// fewKeys is up to how many keys a server may lose without a question.
const fewKeys = 100

// Lost reports whether a server that has from keys seems to have lost its data, as its copy
// has to keys.
func Lost(from, to int64) bool { return to > fewKeys && 2*from < to }

// checkLoss returns an error when From has less than half of the keys that To has, or is
// known to have come back in an older state: a scan would take from To what may be the
// only copy left.
func (m *Mirror) checkLoss(ctx context.Context) error {
	if m.cfg.AcceptLoss {
		return nil
	}
	from, to, err := m.keys(ctx)
	if err != nil {
		return err
	}
	if Lost(from, to) {
		return fmt.Errorf("%s has %d keys and %s still has %d: it seems to have lost its data, so the other server is left as it is; bring the data back, or restart crossfade with --sync.accept_loss to carry the loss over", m.cfg.From, from, m.cfg.To, to)
	}
	if m.cfg.Remembers == nil {
		return nil
	}
	return m.cfg.Remembers(ctx, m.counted().pool)
}

// replicaWait is how long it takes until a replica is looked at again.
const replicaWait = time.Second

// awaitWhole waits until it is plain that From, whose changes f tells of, has not lost its
// data. It returns false when that cannot be of any use any more: the mirror stops, or
// another process has taken the place of the one that f comes from.
func (m *Mirror) awaitWhole(f *feed) bool {
	if !m.consider(m.ctx, f.who, f.at) {
		return true
	}
	if f.who.replica && !m.source().line.first.replica {
		err := fmt.Errorf("%s is a replica now, so that its data is another server's; it is looked at again once it is a master", m.cfg.From)
		m.errs.add("feed", err)
		m.setReason(err.Error())
		f.Close()
		m.decide(false)
		sleep(m.ctx, replicaWait)
		return false
	}
	for {
		err := m.checkLoss(m.ctx)
		if err == nil {
			err = m.stillCounted()
		}
		if err == nil {
			m.decide(true)
			return true
		}
		m.errs.add("loss", err)
		m.setReason(err.Error())
		if errors.Is(err, errElsewhere) || !sleep(m.ctx, time.Second) {
			f.Close()
			m.decide(false)
			return false
		}
	}
}
