package fleet

import (
	"hash/fnv"
	"strconv"

	"github.com/crossfade/crossfade/internal/resp"
)

// The cursor of HSCAN, SSCAN and ZSCAN means something to one node alone, since each orders
// the elements by a seed of its own. Where the key has gone to another one in the middle, by
// its slot or because its master was replaced, the other would leave elements out. So the
// cursors that clients get have some bits of a hash of the node's id in them, as those of SCAN
// have one of all nodes, and at a node that is not the one the scan begins again. What a script
// calls itself has the node's own cursors.

// scansElements reports whether a command is one of a key's elements, page by page.
func scansElements(name []byte) bool {
	return len(name) == len("hscan") && (is(name, "hscan") || is(name, "sscan") || is(name, "zscan"))
}

// elementsAt is the order of a scan at one node.
func (f *Fleet) elementsAt(address string) order {
	id := address
	if n := f.topo.Map().Node(address); n != nil && n.ID != "" {
		id = n.ID
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return order{masters: []string{address}, print: h.Sum64()}
}

// forNode is a scan of elements as a node has to be told it.
func (f *Fleet) forNode(raw []byte, address string) []byte {
	args := parsed(raw)
	if len(args) < 3 {
		return raw
	}
	cursor, err := strconv.ParseUint(string(args[2]), 10, 64)
	if err != nil || cursor == 0 {
		return raw // the node says what is wrong with it
	}
	o := f.elementsAt(address)
	_, own := o.read(cursor)
	args[2] = strconv.AppendUint(nil, own, 10)
	return wireOf(args...)
}

// fromNode is a node's page as the client is told it.
func (f *Fleet) fromNode(page []byte, address string) []byte {
	parts := resp.Elements(page)
	if len(parts) != 2 {
		return page // an error, or QUEUED
	}
	text, _, _ := resp.Text(parts[0])
	own, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || own == 0 {
		return page
	}
	o := f.elementsAt(address)
	cursor, fits := o.cursor(0, own)
	if !fits {
		return errorOf(farText)
	}
	return append(bulk(header(nil, '*', 2), strconv.FormatUint(cursor, 10)), parts[1]...)
}

// pagesOf returns an answer to EXEC with its pages, whose places are given, as the client is
// told them.
func (f *Fleet) pagesOf(answer []byte, places []int, address string) []byte {
	parts := resp.Elements(answer)
	if len(parts) == 0 {
		return answer
	}
	for _, i := range places {
		if i < len(parts) {
			parts[i] = f.fromNode(parts[i], address)
		}
	}
	b := header(nil, '*', len(parts))
	for _, part := range parts {
		b = append(b, part...)
	}
	return b
}
