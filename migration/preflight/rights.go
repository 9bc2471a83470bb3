package preflight

import (
	"context"
	"fmt"
	"slices"

	"github.com/crossfade/crossfade/sync/conn"
)

// OwnRights are the ACL rules of a user that may do what the whole migration needs at one
// server, there and back, and nothing else.
type OwnRights struct {
	Server  string   `json:"server"`  // its address, without secrets
	Product string   `json:"product"` // "Redis 7.0.15"
	Rules   []string `json:"rules"`   // in the order in which ACL SETUSER takes them
}

// RightsAt asks a server what it is, and returns the rules for its version.
func RightsAt(ctx context.Context, p *conn.Pool) (OwnRights, error) {
	if p.Endpoint().Cluster != nil {
		return OwnRights{}, fmt.Errorf("%s is a cluster: what a user needs to be allowed on its nodes is not told yet", p)
	}
	text, err := p.DB(0).Info(ctx, "server").Result()
	if err != nil {
		return OwnRights{}, fmt.Errorf("asking %s for its version: %w", p, err)
	}
	i := parseInfo(text)
	if i.compatible().before(version{6, 0, 0}) {
		return OwnRights{}, fmt.Errorf("%s is %s, which has no ACL users: they are there since Redis 6.0", p, i.product())
	}
	return OwnRights{Server: p.String(), Product: i.product(), Rules: rights(i)}, nil
}

// rights are made of the needs, so that `check` looks for each of them. The sides are
// exchanged on the way back: each server needs what is needed at either.
func rights(i info) []string {
	s := &server{info: i, up: true}
	rules := []string{"resetkeys", "~*"}
	var commands, channels []string
	for _, n := range needs(probePrefix + "key") {
		if !n.applies(s) {
			continue
		}
		commands = append(commands, "+"+n.name())
		if n.channel != "" {
			channels = append(channels, "&"+n.channel)
		}
	}
	if !i.compatible().before(version{6, 2, 0}) { // before, everybody hears everything
		slices.Sort(channels)
		rules = append(append(rules, "resetchannels"), slices.Compact(channels)...)
	}
	slices.Sort(commands)
	return append(append(rules, "-@all"), slices.Compact(commands)...)
}
