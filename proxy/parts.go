package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/tidwall/redcon"
)

// What concerns a database as a whole, where that is a part of one: it takes a scan.

const (
	walkCount = "1000" // keys that the server looks at in one step
	randomTry = 64     // of any keys, before one is looked for
)

// errRerouted says that the traffic was moved in the midst of a scan.
var errRerouted = errors.New("the traffic was moved")

// wholly returns how a command is done that takes more than one where some keys have
// prefixes; nil for all others. But for UNSUBSCRIBE it is in no transaction.
func (s *session) wholly(sp *spec, args [][]byte, with string) func(*spec, redcon.Command) error {
	switch {
	case sp.verb == vFlushAll:
		return s.flushParts
	case sp.verb == vUnsubscribe:
		return s.unsubscribe
	case with == "":
		return nil
	case sp.verb == vFlushDB:
		return s.flushPart
	case sp.isWhole(args) && sp.name == "dbsize":
		return s.countPart
	case sp.isWhole(args):
		return s.randomOfPart
	case sp.keysUnclear(args):
		return s.inquire
	}
	return nil
}

// answer answers what was done, or says it again where the traffic has gone meanwhile.
func (s *session) answer(sp *spec, cmd redcon.Command, reply []byte, err error) error {
	if errors.Is(err, errRerouted) {
		if text := s.barred(sp); text != "" {
			return s.refuse(text)
		}
		return s.dispatch(cmd)
	}
	if err == nil {
		s.local(reply)
	}
	return err
}

// walk calls each for the keys of a place, in the names that they have there, while the
// session is in its database there: some at a time, and any of them twice. An error of the
// server's ends it, and is returned as it is. Between two steps a switch gets through.
func (s *session) walk(place router.Place, each func(keys [][]byte) (refusal []byte, err error)) (refusal []byte, err error) {
	before := s.route
	for cursor := "0"; ; {
		replies, err := s.ask(words("SCAN", cursor, "MATCH", place.Pattern("*"), "COUNT", walkCount))
		if err != nil {
			return nil, err
		}
		halves := resp.Elements(replies[0])
		if len(halves) != 2 {
			return replies[0], nil
		}
		next, _, _ := resp.Text(halves[0])
		var keys [][]byte
		for _, el := range resp.Elements(halves[1]) {
			if key, _, ok := resp.Text(el); ok && strings.HasPrefix(string(key), place.Prefix) {
				keys = append(keys, key)
			}
		}
		if len(keys) > 0 {
			if refusal, err := each(keys); refusal != nil || err != nil {
				return refusal, err
			}
		}
		if cursor = string(next); cursor == "0" {
			return nil, nil
		}
		if err := s.yield(); err != nil {
			return nil, err
		}
		if s.route.Side != before.Side || s.route.Epoch != before.Epoch {
			return nil, errRerouted
		}
	}
}

// yield lets a switch have its way.
func (s *session) yield() error {
	if !s.srv.gate.IsShut() {
		return nil
	}
	s.leave()
	return s.enter()
}

// allowed asks what the server would say of a command if it had one more word, which is
// nothing to it: whether the client may say it is looked at before that. nil is that it may.
func (s *session) allowed(name string) (refusal []byte, err error) {
	replies, err := s.askCounted(strings.ToLower(name), words(name, "crossfade"))
	if err != nil || strings.HasPrefix(resp.ErrorText(replies[0]), "ERR syntax") {
		return nil, err
	}
	return replies[0], nil
}

// askCounted is ask for commands of which the last one is of a kind that is counted. The
// server counts it too, a syntax error as well, but not what it has refused; one whose answer
// is lost counts as not run, see counter.
func (s *session) askCounted(kind string, wires ...[]byte) ([][]byte, error) {
	counter := s.srv.counters[kind]
	counter.pending.Add(1)
	counter.forwarded.Add(1)
	replies, err := s.ask(wires...)
	if err != nil {
		counter.pending.Add(-1)
		counter.forwarded.Add(-1)
		return nil, err
	}
	if refused(resp.ErrorText(replies[len(replies)-1])) {
		counter.forwarded.Add(-1)
	}
	counter.pending.Add(-1)
	return replies, nil
}

// emptied tells the observer what was deleted.
func (s *session) emptied(db int, place router.Place, keys [][]byte) {
	if !s.srv.wantsWrites() {
		return
	}
	e := event{kind: wrote, db: db}
	for _, k := range keys {
		e.keys = append(e.keys, string(k[len(place.Prefix):]))
	}
	s.srv.tell([]event{e})
}

// empty deletes the keys of a client's database.
func (s *session) empty(db int, place router.Place) (refusal []byte, err error) {
	return s.walk(place, func(keys [][]byte) ([]byte, error) {
		replies, err := s.ask(wireOf(append([][]byte{[]byte("UNLINK")}, keys...)...))
		s.emptied(db, place, keys)
		if err == nil && resp.IsError(replies[0]) {
			return replies[0], nil
		}
		return nil, err
	})
}

// flushMode reads the words behind FLUSHDB and FLUSHALL.
func flushMode(args [][]byte) (mode []string, ok bool) {
	switch {
	case len(args) == 1:
		return nil, true
	case len(args) == 2 && (is(args[1], "async") || is(args[1], "sync")):
		return []string{string(args[1])}, true
	}
	return nil, false
}

// flushPart is FLUSHDB. It is no single step: what others write meanwhile may stay.
func (s *session) flushPart(sp *spec, cmd redcon.Command) error {
	if _, ok := flushMode(cmd.Args); !ok {
		return s.answer(sp, cmd, []byte("-ERR syntax error\r\n"), nil)
	}
	db := s.database()
	place, _ := s.route.Place(db)
	refusal, err := s.allowed("FLUSHDB")
	if err == nil && refusal == nil {
		refusal, err = s.empty(db, place)
	}
	if refusal == nil {
		refusal = []byte("+OK\r\n")
	}
	return s.answer(sp, cmd, refusal, err)
}

// flushParts is FLUSHALL: it empties the mapped databases, and no others.
func (s *session) flushParts(sp *spec, cmd redcon.Command) error {
	mode, ok := flushMode(cmd.Args)
	if !ok {
		return s.answer(sp, cmd, []byte("-ERR syntax error\r\n"), nil)
	}
	refusal, err := s.allowed("FLUSHALL")
	if err != nil || refusal != nil {
		return s.answer(sp, cmd, refusal, err)
	}
	gone := false // from the client's database
	for _, db := range s.route.Map.Sources() {
		var there bool
		there, refusal, err = s.flushOne(db, mode)
		if gone = gone || there; err != nil || refusal != nil {
			break
		}
	}
	if err == nil && gone { // where it is now, unless the traffic was moved
		back, _ := s.route.DB(s.database())
		var replies [][]byte
		replies, err = s.ask(words("SELECT", strconv.Itoa(back)))
		if err == nil && resp.IsError(replies[0]) {
			// A server that is busy, say. What comes next would go to another database.
			return errUpstreamGone
		}
	}
	if refusal == nil {
		refusal = []byte("+OK\r\n")
	}
	return s.answer(sp, cmd, refusal, err)
}

// flushOne empties one of the client's databases, and leaves the connection there if it
// could go there.
func (s *session) flushOne(db int, mode []string) (there bool, refusal []byte, err error) {
	place, _ := s.route.Place(db)
	replies, err := s.ask(words("SELECT", strconv.Itoa(place.DB)))
	if err != nil || resp.IsError(replies[0]) {
		return false, firstOf(replies), err
	}
	if place.Prefix != "" {
		refusal, err = s.empty(db, place)
		return true, refusal, err
	}
	defer func() { s.srv.tell([]event{{kind: flushed, db: db}}) }()
	replies, err = s.askCounted("flushdb", words(append([]string{"FLUSHDB"}, mode...)...))
	if err == nil && resp.IsError(replies[0]) {
		refusal = replies[0]
	}
	return true, refusal, err
}

// countPart is DBSIZE.
func (s *session) countPart(sp *spec, cmd redcon.Command) error {
	place, _ := s.route.Place(s.database())
	replies, err := s.ask(cmd.Raw)
	if err != nil || resp.IsError(replies[0]) {
		return s.answer(sp, cmd, firstOf(replies), err)
	}
	n := 0
	refusal, err := s.walk(place, func(keys [][]byte) ([]byte, error) { n += len(keys); return nil, nil })
	if refusal == nil {
		refusal = fmt.Appendf(nil, ":%d\r\n", n)
	}
	return s.answer(sp, cmd, refusal, err)
}

func firstOf(replies [][]byte) []byte {
	if len(replies) == 0 {
		return nil
	}
	return replies[0]
}

// errFound ends a walk.
var errFound = errors.New("found")

// randomOfPart is RANDOMKEY: any key is asked for until one is the client's, and where
// they are too few for that the first ones that a scan finds are as good.
func (s *session) randomOfPart(sp *spec, cmd redcon.Command) error {
	place, _ := s.route.Place(s.database())
	asks := make([][]byte, randomTry)
	for i := range asks {
		asks[i] = cmd.Raw
	}
	replies, err := s.ask(asks...)
	if err != nil || resp.IsError(replies[0]) {
		return s.answer(sp, cmd, firstOf(replies), err)
	}
	var found []byte
	for _, r := range replies {
		if key, _, ok := resp.Text(r); ok && strings.HasPrefix(string(key), place.Prefix) {
			found = key
			break
		}
	}
	if found == nil {
		var refusal []byte
		refusal, err = s.walk(place, func(keys [][]byte) ([]byte, error) {
			found = keys[rand.IntN(len(keys))]
			return nil, errFound
		})
		if refusal != nil || err != nil && !errors.Is(err, errFound) {
			return s.answer(sp, cmd, refusal, err)
		}
	}
	s.mu.Lock()
	proto := s.st.proto
	s.mu.Unlock()
	switch {
	case found != nil:
		return s.answer(sp, cmd, redcon.AppendBulk(nil, found[len(place.Prefix):]), nil)
	case proto == 3:
		return s.answer(sp, cmd, []byte("_\r\n"), nil)
	}
	return s.answer(sp, cmd, []byte("$-1\r\n"), nil)
}
