package config

// Cluster is where a Redis Cluster is: its slots are divided among masters, and move. It is
// shared and must not be changed.
type Cluster struct {
	Seeds []string // HOST:PORT each, at least one: any of its nodes
}

// Nodes knows the nodes of a Cluster. There is one in internal/cluster, whose package says
// what more it can do.
type Nodes interface {
	// Present returns the addresses of the masters as far as they are known. It does no I/O.
	Present() []string
}
