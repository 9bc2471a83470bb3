package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Cluster is a Redis Cluster: masters that share one key space, database 0, by slots.
// It is shared and must not be changed.
type Cluster struct {
	Seeds []string // HOST:PORT each, at least one; who else belongs to it these say
}

// Nodes knows the nodes of a Cluster. There is one in internal/cluster, whose package says
// what more it can do.
type Nodes interface {
	// Present returns the addresses of the masters as far as they are known. It does no I/O.
	Present() []string
}

const clusterForm = "write redis+cluster://[user:password@]host[:port],host[:port] with some of the nodes, or rediss+cluster://… for TLS"

func clusterScheme(scheme string) bool {
	return strings.EqualFold(scheme, "redis+cluster") || strings.EqualFold(scheme, "rediss+cluster")
}

func (s Server) namesCluster() bool {
	scheme, _, _ := strings.Cut(string(s.URL), ":")
	return clusterScheme(scheme)
}

// parseCluster is parseURL for a cluster. The texts are fixed for the same reason.
func (s Server) parseCluster() (Endpoint, []error) {
	fail := func(format string, args ...any) (Endpoint, []error) {
		return Endpoint{}, []error{fmt.Errorf("url: "+format, args...)}
	}
	hosts, plain := hostsOf(string(s.URL))
	u, err := url.Parse(plain)
	if err != nil || u.Opaque != "" {
		return fail("%q is not a URL: %s; in a password, percent-encode all but letters and digits (%%40 is @)", s.URL, clusterForm)
	}
	if u.RawQuery != "" {
		return fail("query parameters (%s) are not known here: use the keys of the configuration; a ? in a password is written %%3F", queryNames(u))
	}
	if u.Fragment != "" || strings.HasSuffix(string(s.URL), "#") {
		return fail("%q has a fragment: a # in a password is written %%23", s.URL)
	}
	e, err := s.loginOf(u)
	if err != nil {
		return Endpoint{}, []error{err}
	}
	if u.Path != "" && u.Path != "/" && u.Path != "/0" {
		return fail("%q has a path: a cluster has database 0 alone, and the database map (databases, --map) says what goes there", s.URL)
	}
	e.Cluster = &Cluster{}
	for _, host := range hosts {
		address, err := hostPort(host, "6379")
		switch {
		case errors.Is(err, errNoHost):
			return fail("%q: a node has no host name: %s", s.URL, clusterForm)
		case err != nil:
			return fail("%q: a node's port is out of range: give 1 to 65535", s.URL)
		case slices.Contains(e.Cluster.Seeds, address):
			return fail("%q names the node %s twice: name it once", s.URL, address)
		}
		e.Cluster.Seeds = append(e.Cluster.Seeds, address)
	}
	e.Network, e.Address = "cluster", clusterMark+strings.Join(e.Cluster.Seeds, ",")
	return e, nil
}

// clusterMark begins the Address of a cluster: one node of it alone is something else. No
// HOST:PORT, path of a socket or list of sentinels begins like that, whatever a host is called.
const clusterMark = "redis+cluster://"

// NamesCluster tells whether an address that was written down is a cluster's.
func NamesCluster(address string) bool { return strings.HasPrefix(address, clusterMark) }

// seedsOf are the nodes in such an address.
func seedsOf(address string) []string {
	return strings.Split(strings.TrimPrefix(address, clusterMark), ",")
}

// checkCluster says what cannot be where the target is a cluster, or the source.
func (c Config) checkCluster() []error {
	var problems []error
	if c.Source.namesCluster() {
		problems = append(problems, errors.New("source.url: a cluster cannot be the source: clusters are supported as the target only"))
	}
	if !c.Target.namesCluster() {
		return problems
	}
	for _, db := range slices.Sorted(maps.Keys(c.Databases)) {
		if place := c.Databases[db]; place.DB != 0 {
			problems = append(problems, fmt.Errorf("databases: %d=%s: a cluster has database 0 alone: map it to a part of that with a prefix (%d=0:c%d: for example)", db, place, db, db))
		}
	}
	return problems
}
