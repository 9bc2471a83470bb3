package fleet

import (
	"bytes"
	"strconv"
	"sync"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
)

type keyAt = keyspec.Key

// learned are the commands that only the cluster's servers know, modules' above all, by
// name: *keyspec.Command.
type learned struct{ byName sync.Map }

// longestName is more than the name of any command in the table has.
const longestName = 32

// commandOf returns what is known of a command, nil where that is nothing.
func (f *Fleet) commandOf(name []byte) *keyspec.Command {
	if len(name) <= longestName {
		var buf [longestName]byte
		low := buf[:copy(buf[:], name)]
		for i, c := range low {
			if c >= 'A' && c <= 'Z' {
				low[i] = c + 'a' - 'A'
			}
		}
		if c := keyspec.Named(string(low)); c != nil {
			return c
		}
	}
	if c, ok := f.learned.byName.Load(string(bytes.ToLower(name))); ok {
		return c.(*keyspec.Command)
	}
	return nil
}

// keysOf returns the keys of a command, as far as they can be told.
func (f *Fleet) keysOf(args [][]byte) []keyAt {
	if len(args) == 0 {
		return nil
	}
	if c := f.commandOf(args[0]); c != nil {
		return c.Keys(nil, args)
	}
	return nil
}

// slotOf is the one slot of the keys, -1 where there are none; false where they have several.
func slotOf(args [][]byte, keys []keyAt) (int, bool) {
	at := -1
	for _, k := range keys {
		s := int(slot.Of(args[k.At]))
		if at >= 0 && s != at {
			return at, false
		}
		at = s
	}
	return at, true
}

// readsOnly reports whether a command changes nothing.
func readsOnly(c *keyspec.Command) bool {
	return c != nil && c.Is("readonly") && !c.Is("blocking")
}

// learn asks the cluster what it says of a command that is not in the table: nil where it
// does not know it either. What it does not know is asked again each time.
func (c *conn) learn(name []byte) (*keyspec.Command, error) {
	if known := c.f.commandOf(name); known != nil {
		return known, nil
	}
	n, err := c.homeNode()
	if err != nil {
		return nil, err
	}
	replies, err := c.ask(n, wireOf([]byte("COMMAND"), []byte("INFO"), name))
	if err != nil {
		return nil, err
	}
	value, _, ok := decode(replies[0])
	list, isList := value.([]any)
	if !ok || !isList {
		return nil, nil
	}
	commands, err := keyspec.Parse(list)
	if err != nil || len(commands) != 1 {
		return nil, nil //nolint:nilerr // a server that says nothing of use knows nothing
	}
	command := &commands[0]
	c.f.learned.byName.Store(command.Name, command)
	return command, nil
}

// decode reads a reply into strings, numbers and lists, as keyspec.Parse wants them.
func decode(b []byte) (value any, rest []byte, ok bool) {
	if _, n, rest, is := resp.Header(b); is {
		if n < 0 {
			return nil, rest, true
		}
		list := make([]any, 0, n)
		for range n {
			var el any
			if el, rest, ok = decode(rest); !ok {
				return nil, nil, false
			}
			list = append(list, el)
		}
		return list, rest, true
	}
	i := bytes.Index(b, []byte("\r\n"))
	if i < 1 {
		return nil, nil, false
	}
	switch b[0] {
	case '_':
		return nil, b[i+2:], true
	case '$':
		if b[1] == '-' {
			return nil, b[i+2:], true
		}
	case ':':
		n, err := strconv.ParseInt(string(b[1:i]), 10, 64)
		return n, b[i+2:], err == nil
	}
	text, rest, ok := resp.Text(b)
	return string(text), rest, ok
}
