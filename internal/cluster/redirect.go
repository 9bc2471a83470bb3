package cluster

import (
	"net"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/slot"
)

// Redirect is what a node says about a key that it does not have.
type Redirect struct {
	Slot uint16
	// Address is where the key is: HOST:PORT.
	Address string
	// Ask is set where only this command goes there, behind an ASKING, because the slot is
	// being moved; otherwise the slot is there.
	Ask bool
}

// ParseRedirect reads an error reply, with or without its minus sign; ok is false where it is
// no redirection. from is the address of the node that answered: a node that knows no name
// for another one means that it is at the same host.
func ParseRedirect(text, from string) (r Redirect, ok bool) {
	text = strings.TrimPrefix(text, "-")
	rest, moved := strings.CutPrefix(text, "MOVED ")
	if !moved {
		if rest, r.Ask = strings.CutPrefix(text, "ASK "); !r.Ask {
			return Redirect{}, false
		}
	}
	number, address, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(number, 10, 16)
	// What follows is for people.
	address, _, _ = strings.Cut(strings.TrimRight(address, "\r\n"), " ")
	colon := strings.LastIndexByte(address, ':') // an IPv6 address has no brackets here
	if err != nil || n >= slot.Count || colon < 0 {
		return Redirect{}, false
	}
	port, err := strconv.ParseUint(address[colon+1:], 10, 16)
	if err != nil || port == 0 {
		return Redirect{}, false
	}
	r.Slot, r.Address = uint16(n), join(address[:colon], int64(port), from)
	return r, true
}

// join returns the address of a node at a host and a port. A host that is not known is that
// of from.
func join(host string, port int64, from string) string {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" || host == "?" {
		host, _, _ = net.SplitHostPort(from)
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10))
}

// Later reports whether an error reply says that the cluster, or the node, cannot do a
// command for the moment, and has not done it: TRYAGAIN (keys of a slot that is being moved
// are at two nodes), CLUSTERDOWN, LOADING, MASTERDOWN. READONLY is not among them: a node that
// says so is no master any more, and the topology is to be told with Doubt.
func Later(text string) bool {
	word, _, _ := strings.Cut(strings.TrimPrefix(text, "-"), " ")
	switch word {
	case "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN":
		return true
	}
	return false
}
