package migration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// forget has the store forget members of whom nothing was heard for long, but for those that
// are connected: such a one is asleep, and may wake up behind a switch that is yet to come.
func (c *crew) forget(ctx context.Context, old []string) error {
	for side := range c.m.ids {
		there, err := c.connected(ctx, router.Side(side))
		if err != nil {
			c.m.log.Debug("whether silent sidecars are gone is not known", "error", err)
			return nil // asked again
		}
		old = slices.DeleteFunc(old, func(id string) bool { return there[id] })
	}
	if err := c.store.Leave(ctx, old...); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range old {
		delete(c.seen, id)
	}
	return nil
}

// connected returns the ids of the members that have connections to a server. Before a
// cluster there are none.
func (c *crew) connected(ctx context.Context, side router.Side) (map[string]bool, error) {
	p := c.m.ids[side].Pool()
	if topologyOf(p) != nil {
		return nil, nil
	}
	text, err := p.Control().ClientList(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("listing clients of %s: %w", p, err)
	}
	ids := make(map[string]bool)
	for _, one := range listed(text) {
		if rest, is := strings.CutPrefix(one.name, conn.NamePrefix+memberInstance); is {
			id, _, _ := strings.Cut(rest, ":")
			ids[id] = true
		}
	}
	return ids, nil
}

// unkept says why the fence on a server that is to be left would not keep the clients of
// members from it that a word does not reach.
func unkept(id *identity, kept Kept) (why []string) {
	if f := kept.Fence; f != nil && f.Level != FenceACL {
		why = append(why, fmt.Sprintf("other sidecars serve clients of this migration, and those of them that a word does not reach are kept off the %s by a fence of ACL users only (F3); here it would be %s", id.side, f.Level))
	}
	if sparesOperator(id, kept) {
		why = append(why, fmt.Sprintf("other sidecars serve clients of this migration, and the fence on the %s would spare the user of its URL, as whom those of their clients go that have not logged in: allow cutover.create_user", id.side))
	}
	return why
}

// meetSilent finds out about members of which nothing was ever heard, because they do not
// reach the target, by their connections to a server that is to be left.
func (c *crew) meetSilent(ctx context.Context, from router.Side) error {
	there, err := c.connected(ctx, from)
	if err != nil {
		return fmt.Errorf("looking for other sidecars: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ever = c.ever || len(there) > 0
	return nil
}

// letKnow waits until nobody can hold anything for known any more that was so before the last
// switch: a member that has lost its connections since uses new ones without asking for as
// long as it has looked lately, and behind cannot see it.
func (c *crew) letKnow(ctx context.Context) error {
	if !c.exists() || c.m.record().Phase.Ended() {
		return nil
	}
	c.mu.Lock()
	wait := overAfter - time.Since(c.let)
	c.mu.Unlock()
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// behind says which members may still send their clients' commands to a server that is about
// to lose its fence: those that are connected, and have not said that they have followed all
// switches. One that has died is not connected; one that only sleeps is, whatever has become
// of what it had said of itself.
func (c *crew) behind(ctx context.Context) (why []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*crewTime)
	defer cancel()
	epoch := c.m.record().Epoch
	list, err := c.store.Members(ctx)
	if err != nil && c.exists() {
		return []string{"whether all other sidecars have followed the switches cannot be asked: " + err.Error()}
	}
	names, followed := make(map[string]string), make(map[string]bool)
	late := false
	for _, m := range list {
		names[m.ID], followed[m.ID] = m.Name, m.Epoch >= epoch
		late = late || !followed[m.ID]
	}
	told := make(map[string]bool)
	for side := range c.m.ids {
		there, err := c.connectedAgain(ctx, router.Side(side))
		if err != nil && late {
			why = append(why, "whether all other sidecars have followed the switches cannot be asked: "+err.Error())
		}
		if err != nil { // who cannot ask it cannot open it either
			c.m.log.Warn("whether other sidecars are connected is not known", "server", c.m.ids[side].Pool().String(), "error", err)
		}
		for id := range there {
			if followed[id] || told[id] {
				continue
			}
			told[id] = true
			name := id
			if names[id] != "" {
				name = names[id]
			}
			why = append(why, fmt.Sprintf("sidecar %s has not followed all switches, and is connected to the %s: it would send commands to the %s, which is about to be opened. Let it go on, or end it", name, router.Side(side), c.m.record().Side.Other()))
		}
	}
	slices.Sort(why)
	return why
}

// connectedAgain is connected, also where a restart has made the server forget our user.
func (c *crew) connectedAgain(ctx context.Context, side router.Side) (map[string]bool, error) {
	there, err := c.connected(ctx, side)
	if err == nil || !loginRefused(err) || ctx.Err() != nil {
		return there, err
	}
	if password, perr := c.m.ownPassword(); perr != nil || c.m.ids[side].become(ctx, password) != nil {
		return nil, err
	}
	return c.connected(ctx, side)
}
