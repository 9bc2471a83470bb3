package mirror

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// mostListed is with how many clients From is asked for all of them: more would keep it
// from others for some milliseconds.
const mostListed = 2000

// company is who was connected to From at a moment, as far as From says it.
type company struct {
	counted   bool     // received and connected are known
	listed    bool     // the rest is, too
	received  int64    // connections that it has taken since it began to count
	connected int64    // clients, replicas left out
	ids       []int64  // of all clients; From gives them in ascending order, and none twice
	others    []string // who was there past the proxy
}

// alone returns why it cannot be said that from one moment to a later one nobody was
// connected past the proxy; "" when it can. Who came and went in between is nowhere
// but in From's count of connections.
func alone(before, now company) string {
	switch {
	case !before.counted || !now.listed:
		return "who is connected past it is not known"
	case len(now.others) > 0:
		return now.others[0] + " is connected past it"
	case len(before.others) > 0:
		return before.others[0] + " was connected past it"
	}
	left := now.received - before.received
	if before.listed {
		var newest int64
		for _, id := range before.ids {
			newest = max(newest, id)
		}
		for _, id := range now.ids {
			if id > newest {
				left--
			}
		}
	} else {
		left += before.connected - now.connected
	}
	if left != 0 {
		return "clients of the server have come and gone"
	}
	return ""
}

// look reads how often From ran each silent command and, where scripts went through the
// proxy, who is connected: as one step.
func (m *Mirror) look(ctx context.Context, scripted bool) (map[string]int64, company, error) {
	c := m.cfg.From.DB(m.home[0])
	f := &m.foreign
	f.mu.Lock()
	refused, connected := f.refused, f.company.connected
	f.mu.Unlock()
	var now company
	if refused || m.cfg.Others == nil {
		calls, err := m.silentCalls(c.Info(ctx, "commandstats"))
		return calls, now, err
	}
	var list *redis.StringCmd
	var others func(string) []string
	pipe := c.TxPipeline()
	ran, stats, clients := pipe.Info(ctx, "commandstats"), pipe.Info(ctx, "stats"), pipe.Info(ctx, "clients")
	if scripted && connected < mostListed {
		others = m.cfg.Others()
		list = pipe.ClientList(ctx)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		var answer redis.Error
		if !errors.As(err, &answer) {
			return nil, now, fmt.Errorf("reading INFO commandstats of %s: %w", m.cfg.From, err)
		}
		f.mu.Lock()
		f.refused = true // not asked each second: it may be written down there
		f.mu.Unlock()
		calls, err := m.silentCalls(c.Info(ctx, "commandstats"))
		return calls, now, err
	}
	var there, also bool
	now.received, there = number(stats.Val(), "total_connections_received")
	now.connected, also = number(clients.Val(), "connected_clients")
	now.counted = there && also
	if list != nil && now.counted {
		now.listed, now.others = true, others(list.Val())
		for line := range strings.Lines(list.Val()) {
			id, err := strconv.ParseInt(strings.TrimPrefix(strings.Fields(line)[0], "id="), 10, 64)
			if err != nil {
				now.listed = false
			}
			now.ids = append(now.ids, id)
		}
	}
	calls, err := m.silentCalls(ran)
	return calls, now, err
}

// number reads one field of INFO.
func number(info, name string) (n int64, ok bool) {
	for line := range strings.Lines(info) {
		if text, found := strings.CutPrefix(line, name+":"); found {
			n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
