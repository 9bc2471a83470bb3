package proxy

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/tidwall/redcon"
)

// Where keys have prefixes, and only the server knows which words of a command are keys,
// it is asked, each time.

// mostInquired is how many words are asked about one by one.
const mostInquired = 256

// inquire forwards a command whose keys only the server knows.
func (s *session) inquire(sp *spec, cmd redcon.Command) error {
	at, refusal, err := s.findKeys(cmd.Args)
	if err != nil {
		return err
	}
	if refusal != "" {
		return s.refuse(refusal)
	}
	wire := prefix.Words(nil, cmd.Args, at, prefixOf(s.route, s.database()))
	if sp.verb == plain || sp.verb == vNoData {
		return s.pushPlain(wire)
	}
	it := &item{spec: sp, mode: modeLine, gate: true, epoch: s.route.Epoch, args: cmd.Args}
	s.describe(it)
	s.describeWrites(it, it.args)
	return s.push(it, wire)
}

// findKeys asks the server which words of a command are keys: it names them, but not their
// places. Where a key stands more often than it is named, each of those words is replaced
// in turn by one that is nowhere else, to see whether that is named then.
func (s *session) findKeys(args [][]byte) (at []int, refusal string, err error) {
	info := wireOf([]byte("COMMAND"), []byte("INFO"), args[0])
	if len(args) == 1 {
		replies, err := s.ask(info)
		if err == nil && (resp.IsError(replies[0]) || touchesKeys(replies[0])) {
			refusal = untold
		}
		return nil, refusal, err
	}
	replies, err := s.ask(wireOf(append([][]byte{[]byte("COMMAND"), []byte("GETKEYS")}, args...)...), info)
	if err != nil {
		return nil, "", err
	}
	switch text := resp.ErrorText(replies[0]); {
	case strings.HasPrefix(text, "ERR Invalid command"), strings.HasPrefix(text, "ERR Invalid number of arguments"):
		return nil, "", nil // it will say so of the command itself
	case strings.HasPrefix(text, "ERR The command has no key arguments") && !touchesKeys(replies[1]):
		return nil, "", nil
	case text != "":
		return nil, untold, nil
	}
	named := make(map[string]int)
	for _, el := range resp.Elements(replies[0]) {
		key, _, ok := resp.Text(el)
		if !ok {
			return nil, untold, nil
		}
		named[string(key)]++
	}
	var doubtful []int
	for key, n := range named {
		var places []int
		for i := 1; i < len(args); i++ {
			if string(args[i]) == key {
				places = append(places, i)
			}
		}
		if len(places) == n {
			at = append(at, places...)
		} else {
			doubtful = append(doubtful, places...)
		}
	}
	found, err := s.tryPlaces(args, doubtful)
	if err != nil {
		return nil, "", err
	}
	total := 0
	for _, n := range named {
		total += n
	}
	if at = append(at, found...); len(at) != total {
		return nil, untold, nil
	}
	return at, "", nil
}

// tryPlaces returns those of some places in which the server finds a key whatever stands
// there.
func (s *session) tryPlaces(args [][]byte, places []int) (at []int, err error) {
	if len(places) == 0 || len(places) > mostInquired {
		return nil, nil
	}
	mark := []byte("crossfade:?")
	for n := 0; containsArg(args, mark); n++ {
		mark = fmt.Appendf(nil, "crossfade:?%d", n)
	}
	var asks [][]byte
	for _, place := range places {
		question := append([][]byte{[]byte("COMMAND"), []byte("GETKEYS")}, args...)
		question[place+2] = mark
		asks = append(asks, wireOf(question...))
	}
	replies, err := s.ask(asks...)
	if err != nil {
		return nil, err
	}
	for i, r := range replies {
		for _, el := range resp.Elements(r) {
			if key, _, ok := resp.Text(el); ok && bytes.Equal(key, mark) {
				at = append(at, places[i])
				break
			}
		}
	}
	return at, nil
}

func containsArg(args [][]byte, arg []byte) bool {
	for _, a := range args {
		if bytes.Equal(a, arg) {
			return true
		}
	}
	return false
}

// touchesKeys reports whether a command without a key is one that reads or writes data all
// the same, by the server's reply to COMMAND INFO.
func touchesKeys(info []byte) bool {
	for _, row := range resp.Elements(info) {
		fields := resp.Elements(row)
		if len(fields) < 3 {
			continue
		}
		for _, el := range resp.Elements(fields[2]) {
			if flag, _, ok := resp.Text(el); ok && (string(flag) == "write" || string(flag) == "readonly") {
				return true
			}
		}
	}
	return false
}
