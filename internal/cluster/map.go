package cluster

import (
	"slices"
	"sort"

	"github.com/crossfade/crossfade/internal/slot"
)

// Node is one server of a cluster, as a node has announced it. It must not be changed.
type Node struct {
	ID      string // "" from a server before 4.0
	Address string // HOST:PORT for clients like ours, which is the TLS port where we speak TLS
	Master  string // the address of a replica's master; "" for a master
	// Failed is set where the node that was asked thinks so.
	Failed bool
}

// Map is who has which slots at one time. It is immutable.
type Map struct {
	// Epoch counts the maps that a Topology has had: a greater one is newer. It is 0 while
	// nothing is known, and then the map is empty.
	Epoch uint64

	nodes  []*Node            // by address; masters and replicas
	owners [slot.Count]uint16 // 1 + index in nodes; 0: nobody that we know of
}

// Owner returns the master that has a slot, nil where none is known.
func (m *Map) Owner(slot uint16) *Node {
	if i := m.owners[slot]; i > 0 {
		return m.nodes[i-1]
	}
	return nil
}

// OwnerOf returns the master that has a key, nil where none is known.
func (m *Map) OwnerOf(key []byte) *Node { return m.Owner(slot.Of(key)) }

// Node returns the node at an address, nil where none is known there.
func (m *Map) Node(address string) *Node {
	i, found := sort.Find(len(m.nodes), func(i int) int {
		switch at := m.nodes[i].Address; {
		case address < at:
			return -1
		case address > at:
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	return m.nodes[i]
}

// Nodes returns all nodes, masters and replicas, by address.
func (m *Map) Nodes() []*Node { return slices.Clone(m.nodes) }

// Masters returns the masters that have slots, by address.
func (m *Map) Masters() []*Node {
	has := make([]bool, len(m.nodes)+1)
	for _, i := range m.owners {
		has[i] = true
	}
	var masters []*Node
	for i, n := range m.nodes {
		if has[i+1] {
			masters = append(masters, n)
		}
	}
	return masters
}

// Empty returns the masters that have no slots, by address. A slot that is being moved to
// one has keys there already.
func (m *Map) Empty() []*Node {
	has := m.Masters()
	return slices.DeleteFunc(m.Nodes(), func(n *Node) bool { return n.Master != "" || n.Failed || slices.Contains(has, n) })
}

// Replicas returns the replicas of a master, by address.
func (m *Map) Replicas(master *Node) []*Node {
	return slices.DeleteFunc(m.Nodes(), func(n *Node) bool { return n.Master != master.Address })
}

// Slots returns the slots of a master, in order.
func (m *Map) Slots(master *Node) []uint16 {
	var all []uint16
	for s := range uint16(slot.Count) {
		if m.Owner(s) == master {
			all = append(all, s)
		}
	}
	return all
}

// Whole reports whether every slot has a master that is known.
func (m *Map) Whole() bool { return !slices.Contains(m.owners[:], 0) }

// Moved returns the slots whose masters differ in two maps.
func (m *Map) Moved(other *Map) []uint16 {
	var all []uint16
	for s := range uint16(slot.Count) {
		a, b := m.Owner(s), other.Owner(s)
		if a == b || a != nil && b != nil && a.Address == b.Address {
			continue
		}
		all = append(all, s)
	}
	return all
}

// same reports whether two maps say the same, beside their epochs.
func (m *Map) same(other *Map) bool {
	return slices.EqualFunc(m.nodes, other.nodes, func(a, b *Node) bool { return *a == *b }) && m.owners == other.owners
}

// with returns a map in which a slot is with the node at an address.
func (m *Map) with(slot uint16, address string) *Map {
	next := &Map{nodes: m.nodes, owners: m.owners}
	next.set(slot, Node{Address: address})
	return next
}

// set says that a slot is with a master, which need not be known. It is for a map that
// nobody else has yet.
func (m *Map) set(slot uint16, master Node) {
	n := m.Node(master.Address)
	if n == nil || n.Master != "" {
		// A new one, or one that was a replica.
		if master.Master = ""; master.ID == "" && n != nil {
			master.ID = n.ID
		}
		*m = *build(m, &master)
		n = m.Node(master.Address)
	}
	m.owners[slot] = m.index(n)
}

func (m *Map) index(n *Node) uint16 { return uint16(slices.Index(m.nodes, n)) + 1 }

// build returns m with one node more, or another one at its address.
func build(m *Map, n *Node) *Map {
	nodes := slices.DeleteFunc(m.Nodes(), func(o *Node) bool { return o.Address == n.Address })
	nodes = append(nodes, n)
	next := new(Map)
	next.setNodes(nodes)
	for s := range uint16(slot.Count) {
		if owner := m.Owner(s); owner != nil {
			if owner.Address == n.Address {
				owner = n
			}
			next.owners[s] = next.index(owner)
		}
	}
	return next
}

func (m *Map) setNodes(nodes []*Node) {
	slices.SortFunc(nodes, func(a, b *Node) int {
		switch {
		case a.Address < b.Address:
			return -1
		case a.Address > b.Address:
			return 1
		}
		return 0
	})
	m.nodes = nodes
}
