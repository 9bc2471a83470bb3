package migration

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// notifyClasses are the event classes that a change can come as (notify.c);
// "A" stands for all of them and for module types.
const notifyClasses = "g$lshzxet"

// notifyMerged returns flags that report every change and keep what is there,
// and whether have already does.
func notifyMerged(have string) (need string, enough bool) {
	all := strings.Contains(have, "A")
	if !all {
		all = true
		for _, c := range notifyClasses {
			all = all && strings.ContainsRune(have, c)
		}
	}
	channel := strings.ContainsAny(have, "KE")
	need = have
	if !all {
		need += "A"
	}
	if !channel {
		need += "E"
	}
	return need, all && channel
}

// notifyLacks returns those flags of want that have does not stand for.
func notifyLacks(have, want string) string {
	var out strings.Builder
	for _, f := range want {
		all := strings.Contains(have, "A") && strings.ContainsRune(notifyClasses+"d", f)
		if !all && !strings.ContainsRune(have+out.String(), f) {
			out.WriteRune(f)
		}
	}
	return out.String()
}

func notifyCommand(p *conn.Pool, flags string) string {
	e := p.Endpoint()
	network, address := e.Where()
	where := "-s " + address
	if network == "tcp" {
		if host, port, err := net.SplitHostPort(address); err == nil {
			where = "-h " + host + " -p " + port
		}
	}
	return fmt.Sprintf("redis-cli %s CONFIG SET notify-keyspace-events %s", where, flags)
}

// checkNotifications returns *mirror.NotificationsOff when the server says that
// it does not report every change, nil when it does or may not tell us, and
// other errors when it could not be asked.
func checkNotifications(ctx context.Context, p *conn.Pool) error {
	got, err := p.DB(0).ConfigGet(ctx, "notify-keyspace-events").Result()
	switch {
	case err == nil:
	case refusedForGood(err) && !loginRefused(err):
		return nil // CONFIG is forbidden; the heartbeat proves what it can
	default:
		return fmt.Errorf("asking %s for notify-keyspace-events: %w", p, err)
	}
	have, known := got["notify-keyspace-events"]
	if !known {
		return nil
	}
	if need, enough := notifyMerged(have); !enough {
		return &mirror.NotificationsOff{Have: have, Need: need, Command: notifyCommand(p, need)}
	}
	return nil
}

// ensureNotifications switches them on where that is needed and allowed, on the target also
// those that clients have on the source. What was there before is in the record first, so that
// complete puts it back.
func (m *Migration) ensureNotifications(ctx context.Context, side router.Side) error {
	p := m.ids[side].Pool()
	if err := m.meetBeside(side); err != nil {
		return err
	}
	var off *mirror.NotificationsOff
	if err := checkNotifications(ctx, p); err == nil {
		m.notifyClients(ctx, side)
		return nil
	} else if ok := asOff(err, &off); !ok {
		return err
	}
	if !m.cfg.Sync.SetNotifications {
		return fmt.Errorf("%s: %w (sync.set_notifications is off, so it is not done for you)", p, off)
	}
	need, _ := notifyMerged(off.Have + notifyLacks(off.Have, m.clientsHear(ctx, side)))
	err := m.setNotifications(ctx, side, off.Have, need)
	if err != nil && need != off.Need && refusedFlag(err) { // an older server does not know all of them
		if err = m.setNotifications(ctx, side, off.Have, off.Need); err == nil {
			m.notifyClients(ctx, side)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w (switching it on ourselves: %w)", p, off, err)
	}
	return nil
}

func refusedFlag(err error) bool { return errorPrefix(err, "ERR") && !refusedForGood(err) }

// setNotifications changes the setting of a server, which has is what it is now.
func (m *Migration) setNotifications(ctx context.Context, side router.Side, has, need string) error {
	if err := m.meetBeside(side); err != nil { // who has answered may be another one than before
		return err
	}
	if m.record().Servers[side].Notify == nil {
		if err := m.save(true, func(r *Record) { r.Servers[side].Notify = &has }); err != nil {
			return err
		}
	}
	p := m.ids[side].Pool()
	if err := p.DB(0).ConfigSet(ctx, "notify-keyspace-events", need).Err(); err != nil {
		return err
	}
	m.log.Info("keyspace notifications switched on", "server", p.String(), "were", has, "are", need)
	return nil
}

// notifyClients has a server, which reports all that the copy needs, report what clients hear
// on the source as well: another kind of channel, or events that change no key. The copy goes
// on where that cannot be.
func (m *Migration) notifyClients(ctx context.Context, side router.Side) {
	want := m.clientsHear(ctx, side)
	if want == "" || !m.cfg.Sync.SetNotifications {
		return
	}
	p := m.ids[side].Pool()
	got, err := p.DB(0).ConfigGet(ctx, "notify-keyspace-events").Result()
	has, known := got["notify-keyspace-events"]
	lacks := notifyLacks(has, want)
	m.mu.Lock()
	before := m.unheard
	m.mu.Unlock()
	if err != nil || !known || lacks == "" || lacks == before { // whoever is away is found by others
		return
	}
	lacks, err = m.addNotifications(ctx, side, has, lacks)
	if err == nil {
		return
	}
	if refusedForGood(err) || refusedFlag(err) { // anything else is tried again
		m.mu.Lock()
		m.unheard = lacks
		m.mu.Unlock()
	}
	m.log.Warn("clients may miss keyspace notifications that they have on the source", "server", p.String(), "lacks", lacks, "error", err)
}

// addNotifications adds flags to a server's setting, which is has: all of them, or those that
// it knows. left are the others, err is why.
func (m *Migration) addNotifications(ctx context.Context, side router.Side, has, flags string) (left string, err error) {
	if err = m.setNotifications(ctx, side, has, has+flags); err == nil || !refusedFlag(err) || len(flags) == 1 {
		return flags, err
	}
	err = nil
	for _, flag := range flags {
		switch one := m.setNotifications(ctx, side, has, has+string(flag)); {
		case one == nil:
			has += string(flag)
		case err == nil || refusedFlag(err): // one that may pass counts for more
			left, err = left+string(flag), one
		default:
			left += string(flag)
		}
	}
	return left, err
}

// clientsHear returns what the source's notify-keyspace-events is but for us, for a server that
// its clients are moved to; "" where there is nothing to be carried over, or it is not known.
func (m *Migration) clientsHear(ctx context.Context, side router.Side) string {
	r := m.record()
	if side != router.Target {
		return ""
	}
	if was := r.Servers[router.Source].Notify; was != nil {
		return *was
	}
	m.mu.Lock()
	heard := m.heard
	m.mu.Unlock()
	if heard != "" || r.Side != router.Source { // one that was left may be away
		return heard
	}
	got, err := m.ids[router.Source].Pool().DB(0).ConfigGet(ctx, "notify-keyspace-events").Result()
	if err != nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = got["notify-keyspace-events"]
	return m.heard
}

func asOff(err error, off **mirror.NotificationsOff) bool {
	o, ok := err.(*mirror.NotificationsOff) //nolint:errorlint // made here, never wrapped
	if ok {
		*off = o
	}
	return ok
}

// restoreNotifications puts the setting back as we found it.
func (m *Migration) restoreNotifications(ctx context.Context, side router.Side) (changed bool, err error) {
	was := m.record().Servers[side].Notify
	if was == nil {
		return false, nil
	}
	p := m.ids[side].Pool()
	if err := p.DB(0).ConfigSet(ctx, "notify-keyspace-events", *was).Err(); err != nil {
		return false, fmt.Errorf("putting back notify-keyspace-events %q on %s: %w", *was, p, err)
	}
	return true, nil
}

// learn tells the proxy which commands a server has: modules' commands too change keys,
// and need not notify.
func (m *Migration) learn(ctx context.Context, side router.Side) {
	p := m.ids[side].Pool()
	reply, err := p.DB(0).Do(ctx, "COMMAND").Slice()
	var list []keyspec.Command
	if err == nil {
		list, err = keyspec.Parse(reply)
	}
	if err != nil {
		m.log.Info("the server does not tell where the keys are in its commands; of modules' commands it is not known what they change", "server", p.String(), "error", err)
		return
	}
	m.traffic.Learn(list)
}
