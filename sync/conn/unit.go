package conn

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/slot"
)

// unit is what goes to one node as one: a command, or what stands from MULTI to EXEC.
type unit struct {
	cmds []redis.Cmder
	tx   bool // of a TxPipeline: without MULTI and EXEC, which belong to that

	how  reach
	slot uint16
	node string // where it is sent
	ask  bool   // behind an ASKING
	hops int    // redirections that were followed
}

// reach says where a unit goes.
type reach uint8

const (
	unknown  reach = iota
	byKey          // to the master that has its slot
	anywhere       // to any master
	split          // its keys are in several slots, which may be asked one by one
	everyone       // to all masters
	scanning       // SCAN
	telling        // INFO keyspace
	guessing       // RANDOMKEY
)

// keyless are commands that name no keys, and where they may go.
var keyless = map[string]reach{
	"ping": anywhere, "echo": anywhere, "time": anywhere, "command": anywhere,
	"dbsize": everyone, "flushdb": everyone, "flushall": everyone,
	"script|load": everyone, "script|flush": everyone, "script|exists": everyone,
	"function|load": everyone, "function|delete": everyone, "function|flush": everyone, "function|restore": everyone,
	"function|list": anywhere, "function|dump": anywhere, "function|stats": anywhere,
	"scan": scanning, "randomkey": guessing, "info|keyspace": telling,
}

// parts are commands that are the sum of what they do with each of their keys, which all
// words behind the name are.
var parts = map[string]bool{"del": true, "unlink": true, "exists": true, "touch": true}

// personal are commands that name keys and change what a connection is: there is no telling
// which one that is.
var personal = map[string]bool{"watch": true, "ssubscribe": true, "sunsubscribe": true}

// single reports whether a unit goes to one node.
func (u *unit) single() bool { return u.how == byKey || u.how == anywhere }

// transaction returns what is in a TxPipeline's MULTI and EXEC, nil where cmds are none.
func transaction(cmds []redis.Cmder) []redis.Cmder {
	if len(cmds) < 2 {
		return nil
	}
	first, is := cmds[0].(*redis.StatusCmd)
	last, also := cmds[len(cmds)-1].(*redis.SliceCmd)
	if !is || !also || first.Name() != "multi" || last.Name() != "exec" {
		return nil
	}
	return cmds[1 : len(cmds)-1]
}

// unitsOf divides what is sent as commands of their own.
func unitsOf(cmds []redis.Cmder) []*unit {
	var units []*unit
	var open *unit
	for _, c := range cmds {
		name := c.Name()
		switch {
		case open != nil:
			open.cmds = append(open.cmds, c)
			if name == "exec" || name == "discard" {
				open = nil
			}
			continue
		case name == "multi":
			open = &unit{cmds: []redis.Cmder{c}}
			units = append(units, open)
		default:
			units = append(units, &unit{cmds: []redis.Cmder{c}})
		}
	}
	return units
}

// errCrossSlot is a server's answer, in its words.
const errCrossSlot = Refusal("CROSSSLOT Keys in request don't hash to the same slot")

// inspect finds out what keys a unit has.
func (u *unit) inspect() error {
	if u.how != unknown {
		return nil
	}
	for _, c := range u.cmds {
		if name := c.Name(); name == "multi" || name == "exec" || name == "discard" {
			continue
		}
		how, s, err := reachOf(c.Args())
		switch {
		case err != nil:
			return err
		case how != byKey && len(u.cmds) == 1 && !u.tx:
			u.how = how
			return nil
		case how == anywhere: // at the node of the others
			continue
		case how != byKey:
			return Refusal(fmt.Sprintf("ERR %s is about more than one node of a cluster, and cannot be in a transaction", c.Name()))
		case u.how == byKey && u.slot != s:
			return errCrossSlot
		}
		u.how, u.slot = byKey, s
	}
	if u.how == unknown {
		u.how = anywhere
	}
	return nil
}

// reachOf returns where a command goes, and the slot of its keys.
func reachOf(args []any) (reach, uint16, error) {
	if len(args) == 0 {
		return unknown, 0, errNoPlace
	}
	name := strings.ToLower(fmt.Sprint(args[0]))
	spec := keyspec.Named(name)
	if how := keylessReach(name, args); how != unknown {
		return how, 0, nil
	}
	if spec == nil || !spec.Exact() {
		return unknown, 0, Refusal(fmt.Sprintf("ERR nobody knows where the keys of %s are, so it cannot be sent to a cluster", name))
	}
	keys := keysOf(spec, args)
	if len(keys) == 0 || personal[name] {
		return unknown, 0, Refusal(fmt.Sprintf("ERR %s is about one server or connection, and not about a cluster: ask its nodes", name))
	}
	at := slotOf(args[keys[0].At])
	for _, k := range keys[1:] {
		if slotOf(args[k.At]) == at {
			continue
		}
		if parts[name] {
			return split, 0, nil
		}
		return unknown, 0, errCrossSlot
	}
	return byKey, at, nil
}

func keylessReach(name string, args []any) reach {
	if how := keyless[name]; how != unknown {
		return how
	}
	if len(args) < 2 || name != "script" && name != "function" && name != "info" {
		return unknown
	}
	return keyless[name+"|"+strings.ToLower(fmt.Sprint(args[1]))]
}

func slotOf(arg any) uint16 {
	switch a := arg.(type) {
	case string:
		return slot.Of(a)
	case []byte:
		return slot.Of(a)
	}
	return slot.Of(fmt.Sprint(arg))
}

// keysOf returns which words of a command are keys. What comes behind the first ones may be
// large, and is looked at only where it must be.
func keysOf(spec *keyspec.Command, args []any) []keyspec.Key {
	const few = 4
	if keys, enough := spec.Head(nil, words(args[:min(len(args), few)])); enough {
		return keys
	}
	return spec.Keys(nil, words(args))
}

// fail gives an error to all commands of a unit.
func (u *unit) fail(err error) {
	for _, c := range u.cmds {
		c.SetErr(err)
	}
}

// clear takes the errors of the last attempt away.
func (u *unit) clear() { u.fail(nil) }

// broken returns the first error of a unit that is no answer of a server.
func (u *unit) broken() error {
	for _, c := range u.cmds {
		if err := c.Err(); err != nil && !isReply(err) {
			return err
		}
	}
	return nil
}

// refusal returns what a node has answered that does not have the slot, or not now; "" where
// it has done the command, or refused it for another reason.
func (u *unit) refusal() string {
	for _, c := range u.cmds {
		err := c.Err()
		if err == nil || !isReply(err) {
			continue
		}
		text := err.Error()
		if strings.HasPrefix(text, "EXECABORT") { // which follows from another one's
			continue
		}
		if displaced(text) {
			return text
		}
		return ""
	}
	return ""
}

func (u *unit) refused() bool { return u.refusal() != "" || u.unsent() }

// unsent reports whether no connection could be made, so that nothing was sent.
func (u *unit) unsent() bool {
	for _, c := range u.cmds {
		var dial *net.OpError
		if !errors.As(c.Err(), &dial) || dial.Op != "dial" {
			return false
		}
	}
	return len(u.cmds) > 0
}

// owe has the commands of a unit that was never sent say so.
func (u *unit) owe() {
	if !u.unsent() {
		return
	}
	for _, c := range u.cmds {
		c.SetErr(&notSent{c.Err()})
	}
}

// displaced reports whether an error reply says that a command was not run where it was
// sent, and that it may be elsewhere, or later.
func displaced(text string) bool {
	_, is := cluster.ParseRedirect(text, "")
	return is || cluster.Later(text) || strings.HasPrefix(text, "READONLY")
}

// doubtful reports whether such a reply means that somebody else may be the master by now: of
// a node that is none, or is cut off from the others.
func doubtful(text string) bool {
	for _, word := range []string{"READONLY", "CLUSTERDOWN", "MASTERDOWN"} {
		if strings.HasPrefix(text, word) {
			return true
		}
	}
	return false
}
