package fleet

import (
	"bytes"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/spread"
)

// fan is a command that goes to several nodes, and becomes one reply. It is guarded by its
// connection's mu.
type fan struct {
	call   *call // the whole, in the order of the replies
	merge  spread.Merge
	parts  []*call
	left   int     // parts without an answer
	places [][]int // of each part: where its elements belong (InOrder)
	width  int     // … and how many there are
	lost   error
	stream *stream // nil: the reply is made when all parts are there
}

// add counts a part that has ended.
func (f *fan) add(c *conn, part *call) {
	f.left--
	if part.lost != nil {
		f.lost = part.lost
	}
	if f.stream != nil {
		f.flow(c, part)
	}
}

// merged makes one reply of those of all parts. mu is held.
func (f *fan) merged(c *conn) []byte {
	replies := make([][]byte, len(f.parts))
	for i, p := range f.parts {
		replies[i] = p.buf
		c.drop(p)
	}
	switch s := f.stream; {
	case s != nil && !s.begun && f.lost != nil:
		f.lost = nil
		return errorOf(downText)
	case f.lost != nil, s != nil && s.begun:
		return nil
	}
	return merge(f, replies)
}

// oddText is the answer where nodes say what they do not say.
const oddText = "ERR Crossfade: the nodes of the cluster have answered in different ways"

// merge makes one reply of several: any error is the whole's, too, unless one success is enough.
func merge(f *fan, replies [][]byte) []byte {
	if f.merge == spread.One {
		return bestOf(replies)
	}
	for _, r := range replies {
		if resp.IsError(r) {
			return r
		}
	}
	switch f.merge {
	case spread.Sum, spread.Least:
		return mergeNumbers(f.merge, replies)
	case spread.And, spread.Sums, spread.Heard:
		return mergeEach(f.merge, replies)
	case spread.Concat, spread.Union:
		return concatenated(replies, f.merge == spread.Union)
	case spread.InOrder:
		return inOrder(f, replies)
	}
	return replies[0]
}

// bestOf is the first success, or the error that says the most: that a node had nothing to do
// says less than any other.
func bestOf(replies [][]byte) []byte {
	best := replies[0]
	for _, r := range replies {
		if !resp.IsError(r) {
			return r
		}
		if prefixed(resp.ErrorText(best), "NOTBUSY") {
			best = r
		}
	}
	return best
}

func mergeNumbers(how spread.Merge, replies [][]byte) []byte {
	var total int64
	for i, r := range replies {
		n, ok := number(r)
		switch {
		case !ok:
			return errorOf(oddText)
		case how == spread.Sum:
			total += n
		case i == 0 || n < total:
			total = n
		}
	}
	return integer(total)
}

// mergeEach merges arrays of the same length, element by element.
func mergeEach(how spread.Merge, replies [][]byte) []byte {
	first := resp.Elements(replies[0])
	b := header(nil, '*', len(first))
	all := make([][][]byte, len(replies))
	for i, r := range replies {
		if all[i] = resp.Elements(r); len(all[i]) != len(first) {
			return errorOf(oddText)
		}
	}
	for at, el := range first {
		total, isNumber := number(el)
		everywhere := how == spread.Heard && at > 0 && isNotification(textOf(first[at-1]))
		for _, other := range all[1:] {
			n, _ := number(other[at])
			switch {
			case everywhere: // each of our clients listens at every master, once
				total = max(total, n)
			case how == spread.And:
				total = min(total, n)
			default:
				total += n
			}
		}
		if isNumber {
			el = integer(total)
		}
		b = append(b, el...)
	}
	return b
}

func textOf(el []byte) string {
	text, _, _ := resp.Text(el)
	return string(text)
}

// concatenated is one array of the elements of all; once means that no element is twice.
func concatenated(replies [][]byte, once bool) []byte {
	var seen map[string]bool
	if once {
		seen = make(map[string]bool)
	}
	var body []byte
	count := 0
	for _, r := range replies {
		typ, n, rest, ok := resp.Header(r)
		if !ok || n < 0 || typ != '*' && typ != '~' {
			return errorOf(oddText)
		}
		if !once {
			body = append(body, rest...)
			count += n
			continue
		}
		for _, el := range resp.Elements(r) {
			if !seen[string(el)] {
				seen[string(el)] = true
				body = append(body, el...)
				count++
			}
		}
	}
	return append(header(make([]byte, 0, len(body)+16), replies[0][0], count), body...)
}

// inOrder puts each part's elements where they belong.
func inOrder(f *fan, replies [][]byte) []byte {
	all := make([][]byte, f.width)
	size := 16
	for i, r := range replies {
		elements := resp.Elements(r)
		if len(elements) != len(f.places[i]) {
			return errorOf(oddText)
		}
		for k, at := range f.places[i] {
			all[at] = elements[k]
		}
		size += len(r)
	}
	b := header(make([]byte, 0, size), '*', f.width)
	return append(b, bytes.Join(all, nil)...)
}
