package proxy

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/tidwall/redcon"
)

func unmapped(db int) string {
	return fmt.Sprintf("ERR Crossfade: database %d is not in the database map", db)
}

const badInteger = "ERR value is not an integer or out of range"

// loose matches what some servers read as a number and others do not. Such a
// number never leaves for the target: it would name a database of the target.
var loose = regexp.MustCompile(`^[ \t]*[+-]?[0-9]+[ \t]*$`)

// mapDB maps one argument. A text that no server takes for a database number is
// kept, so that the server's own error is answered.
func mapDB(route router.Route, arg []byte) (mapped []byte, refusal string) {
	n, ok := resp.Integer(arg)
	switch {
	case !ok && loose.Match(arg):
		return nil, badInteger
	case !ok || n < 0:
		return arg, ""
	case n > 1<<30:
		return nil, "ERR DB index is out of range"
	}
	db, ok := route.DB(int(n))
	if !ok {
		return nil, unmapped(int(n))
	}
	return strconv.AppendInt(nil, int64(db), 10), ""
}

// translate says how a command with database numbers reads on a route: nil for
// as it is, other bytes, or the text of an error when it must not run there.
func (s *Server) translate(route router.Route, sp *spec, args [][]byte) (wire []byte, refusal string) {
	out, refusal := s.translated(route, sp, args)
	if out == nil {
		return nil, refusal
	}
	return wireOf(out...), refusal
}

// translated is translate before it is written; nil is as it is.
func (s *Server) translated(route router.Route, sp *spec, args [][]byte) (out [][]byte, refusal string) {
	switch sp.verb {
	case vClient:
		return s.names.nameOn(route.Side, args), ""
	case vScan:
		return ownScan(route.Epoch, sp.cursor, args), ""
	}
	if !route.Rewrites() {
		return nil, ""
	}
	switch sp.verb {
	case vSelect:
		if len(args) == 2 {
			return mapArgs(route, args, 1)
		}
	case vMove:
		if len(args) == 3 {
			return mapArgs(route, args, 2)
		}
	case vSwapDB:
		if len(args) == 3 {
			return mapArgs(route, args, 1, 2)
		}
	case vCopy:
		if at := databasesOf(args); at != nil {
			return mapArgs(route, args, at...)
		}
	case vFlushAll:
		return nil, "ERR Crossfade: FLUSHALL cannot be part of a transaction since the switch: the server holds databases that are not in the database map"
	case vEval, vEvalSHA, vScript, vFunction:
		return nil, s.againstScript(route, sp, args)
	case vSubscribe, vUnsubscribe:
		return mapChannels(route, sp.set, args), ""
	}
	return nil, ""
}

// databasesOf finds the database numbers of a COPY, of which the last one holds.
func databasesOf(args [][]byte) (at []int) {
	for i := 3; i < len(args); i++ {
		if is(args[i], "db") && i+1 < len(args) {
			at = append(at, i+1)
			i++
		}
	}
	return at
}

func mapArgs(route router.Route, args [][]byte, at ...int) ([][]byte, string) {
	out := append([][]byte(nil), args...)
	for _, i := range at {
		arg, refusal := mapDB(route, args[i])
		if refusal != "" {
			return nil, refusal
		}
		out[i] = arg
	}
	return out, ""
}

// keyspace matches the channels of keyspace notifications, and patterns with a
// plain database number.
var keyspace = regexp.MustCompile(`^__key(?:space|event)@([0-9]+)__:`)

const nowhere = "crossfade-unmapped-"

var keyspaceNowhere = regexp.MustCompile(`^__key(?:space|event)@` + nowhere + `([0-9]+)__:`)

// mapChannel maps the database number in a keyspace channel on its way to the
// server. A database that the map does not have becomes a name that no server
// publishes to.
func mapChannel(route router.Route, name []byte) []byte {
	if !route.Rewrites() || route.Map.IsWhole() {
		return name
	}
	at := keyspace.FindSubmatchIndex(name)
	if at == nil {
		return name
	}
	to := nowhere + string(name[at[2]:at[3]])
	if n, ok := resp.Integer(name[at[2]:at[3]]); ok && n < 1<<30 {
		if db, ok := route.DB(int(n)); ok {
			to = strconv.Itoa(db)
		}
	}
	return splice(name, at[2], at[3], to)
}

// unmapChannel is the way back. ok is false for a database of the target that
// no database of the client maps to.
func unmapChannel(route router.Route, name []byte) (client []byte, ok bool) {
	if at := keyspaceNowhere.FindSubmatchIndex(name); at != nil {
		return splice(name, at[2]-len(nowhere), at[3], string(name[at[2]:at[3]])), true
	}
	at := keyspace.FindSubmatchIndex(name)
	if at == nil {
		return name, true
	}
	n, good := resp.Integer(name[at[2]:at[3]])
	if !good || n >= 1<<30 {
		return name, true
	}
	db, _, ok := route.Map.Source(int(n), nil)
	if !ok {
		return nil, false
	}
	return splice(name, at[2], at[3], strconv.Itoa(db)), true
}

// saysNoDatabase reports whether the names in a message, all of which have come, are such
// that it goes to the client as it is. rest is what follows its first word.
func saysNoDatabase(kind, rest []byte) bool {
	names := 1
	if string(kind) == "pmessage" {
		names = 2
	}
	for range names {
		name, after, ok := resp.Text(rest)
		if !ok || keyspace.Match(name) || keyspaceNowhere.Match(name) || string(name) == invalidated {
			return false
		}
		rest = after
	}
	return true
}

func splice(b []byte, from, to int, with string) []byte {
	out := make([]byte, 0, len(b)+len(with))
	out = append(out, b[:from]...)
	out = append(out, with...)
	return append(out, b[to:]...)
}

func mapChannels(route router.Route, set byte, args [][]byte) [][]byte {
	var out [][]byte
	for i := 1; i < len(args); i++ {
		mapped := channelOn(route, set, args[i])
		if !bytes.Equal(mapped, args[i]) && out == nil {
			out = append([][]byte(nil), args...)
		}
		if out != nil {
			out[i] = mapped
		}
	}
	return out
}

// A cursor means something on one side only. From the first switch on, cursors
// carry the epoch in the bits above cursorBits; they stay below 2^53, which every
// client can hold.
const cursorBits = 40

func cursorTag(epoch uint64) uint64 {
	if epoch == 0 {
		return 0
	}
	return 1 + (epoch-1)%4095
}

// ownCursor turns a client's cursor into the server's: 0 when it was made under
// another epoch, so that the scan starts again.
func ownCursor(epoch uint64, arg []byte) []byte {
	n, err := strconv.ParseUint(string(arg), 10, 64)
	if err != nil || n == 0 || epoch == 0 {
		return arg
	}
	if n>>cursorBits != cursorTag(epoch) {
		return []byte("0")
	}
	return strconv.AppendUint(nil, n&(1<<cursorBits-1), 10)
}

// ownScan keeps cursors of one side away from the other; nil is as it is.
func ownScan(epoch uint64, at int, args [][]byte) [][]byte {
	if len(args) <= at {
		return nil
	}
	own := ownCursor(epoch, args[at])
	if bytes.Equal(own, args[at]) {
		return nil
	}
	return slices.Concat(args[:at], [][]byte{own}, args[at+1:])
}

// tagCursors is tagCursor for those elements of a whole reply to EXEC that are of scans.
func tagCursors(epoch uint64, reply []byte, scans []int) []byte {
	elements, pushed := resp.Split(reply)
	for _, i := range scans {
		if i >= len(elements) {
			return reply
		}
		if head, used, need := tagCursor(epoch, elements[i]); head != nil && !need {
			elements[i] = append(head, elements[i][used:]...)
		}
	}
	return joined(len(elements), elements, pushed)
}

// joined is an array of n elements as resp.Split gives them; those that are to be left out
// are empty.
func joined(n int, els, pushed [][]byte) []byte {
	out := redcon.AppendArray(nil, n)
	for i, el := range els {
		if pushed != nil {
			out = append(out, pushed[i]...)
		}
		out = append(out, el...)
	}
	return out
}

// tagCursor rewrites the head of a SCAN reply. need is true while more bytes are
// wanted; otherwise head replaces the first used bytes.
func tagCursor(epoch uint64, b []byte) (head []byte, used int, need bool) {
	if len(b) > 0 && b[0] != '*' {
		return nil, 0, false
	}
	_, n, rest, ok := resp.Header(b)
	if !ok {
		return nil, 0, len(b) < 32
	}
	if n != 2 {
		return nil, 0, false
	}
	text, after, ok := resp.Text(rest)
	if !ok {
		return nil, 0, len(b) < 96
	}
	cur, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || cur == 0 || cur>>cursorBits != 0 {
		return nil, 0, false
	}
	cur |= cursorTag(epoch) << cursorBits
	head = append(head, "*2\r\n$"...)
	digits := strconv.FormatUint(cur, 10)
	head = strconv.AppendInt(head, int64(len(digits)), 10)
	head = append(append(append(head, "\r\n"...), digits...), "\r\n"...)
	return head, len(b) - len(after), false
}
