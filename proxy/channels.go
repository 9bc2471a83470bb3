package proxy

import (
	"bytes"
	"regexp"
	"strconv"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/tidwall/redcon"
)

// What a server says unasked, where keys have prefixes: notifications, whose channels or
// messages name keys, and which keys a client may have cached are no longer so.

var ofKeys = regexp.MustCompile(`^__keyspace@([0-9]+)__:`)

// channelOn returns how a channel, or a pattern, of a client's is called where a route
// leads. Several of a client's may be called alike: notifications of events do not name
// the key in the channel.
func channelOn(route router.Route, set byte, name []byte) []byte {
	there := mapChannel(route, name)
	if !prefixed(route) {
		return there
	}
	at := ofKeys.FindSubmatchIndex(name)
	if at == nil {
		return there
	}
	n, ok := resp.Integer(name[at[2]:at[3]])
	if !ok || n >= 1<<30 {
		return there
	}
	place, _ := route.Place(int(n))
	with := place.Prefix
	if set == patterns {
		with = place.Pattern("")
	}
	return splice(there, len(there)-len(name[at[1]:]), len(there)-len(name[at[1]:]), with)
}

// noticeOn returns a notification that a client publishes itself as the target is to have
// it.
func noticeOn(route router.Route, channel, message []byte) (there, what []byte) {
	there = channelOn(route, channels, channel)
	at := keyspace.FindSubmatchIndex(channel)
	if n, ok := resp.Integer(channel[at[2]:at[3]]); ok && n < 1<<30 && !ofKeys.Match(channel) {
		message = append([]byte(prefixOf(route, int(n))), message...)
	}
	return there, message
}

// heardAs returns what a client knows a channel of the target by. what is the message; it
// is the key where the channel is one of events. ok is false for what is nobody's.
func heardAs(route router.Route, channel, what []byte) (client, message []byte, ok bool) {
	at := keyspace.FindSubmatchIndex(channel)
	if at == nil {
		return channel, what, true
	}
	n, good := resp.Integer(channel[at[2]:at[3]])
	if !good || n >= 1<<30 {
		return channel, what, true
	}
	key, isEvent := channel[at[1]:], !ofKeys.Match(channel)
	if isEvent {
		key = what
	}
	db, length, ok := route.Map.Source(int(n), key)
	if !ok {
		return nil, nil, false
	}
	client = splice(channel, at[2], at[3], strconv.Itoa(db))
	if isEvent {
		return client, what[length:], true
	}
	head := len(client) - len(key)
	return splice(client, head, head+length, ""), what, true
}

// patternFor returns the client's pattern by which the target has sent a message that the
// client knows as one of this channel; nil where it has none.
func (st *state) patternFor(route router.Route, pattern, channel []byte) []byte {
	if _, its := st.subs[patterns][string(pattern)]; its && bytes.Equal(channelOn(route, patterns, pattern), pattern) {
		return pattern
	}
	at := keyspace.FindSubmatchIndex(channel)
	if at == nil {
		return pattern
	}
	db := channel[at[2]:at[3]]
	for name := range st.subs[patterns] {
		if in := keyspace.FindStringSubmatchIndex(name); in != nil && name[in[2]:in[3]] == string(db) && bytes.Equal(channelOn(route, patterns, []byte(name)), pattern) {
			return []byte(name)
		}
	}
	return nil
}

const invalidated = "__redis__:invalidate"

// asHeard returns a message as the client is to have it, nil where it is not for it. It runs
// under the session's lock.
func (s *session) asHeard(route router.Route, el []byte) []byte {
	typ, n, rest, ok := resp.Header(el)
	if !ok || n < 2 {
		return el
	}
	kind, rest, ok := resp.Text(rest)
	if !ok {
		return el
	}
	out := append([]byte{typ}, redcon.AppendArray(nil, n)[1:]...)
	out = redcon.AppendBulk(out, kind)
	switch {
	case isConfirmation(kind):
		return el
	case string(kind) == "invalidate":
		return stale(out, route.Map, rest)
	}
	var pattern, channel []byte
	if string(kind) == "pmessage" {
		if pattern, rest, ok = resp.Text(rest); !ok {
			return el
		}
	}
	if channel, rest, ok = resp.Text(rest); !ok {
		return el
	}
	if string(channel) == invalidated {
		return stale(redcon.AppendBulk(out, channel), route.Map, rest)
	}
	what, _, ok := resp.Text(rest)
	if !ok {
		return el
	}
	client, message, known := heardAs(route, channel, what)
	if !known {
		return nil
	}
	switch string(kind) {
	case "pmessage":
		if pattern = s.st.patternFor(route, pattern, client); pattern == nil {
			return nil
		}
		out = redcon.AppendBulk(out, pattern)
	case "message":
		if _, its := s.st.subs[channels][string(client)]; !its {
			return nil
		}
	}
	return redcon.AppendBulk(redcon.AppendBulk(out, client), message)
}

// stale appends the keys that a client's cache may have wrong, in its names, and returns
// nil where all of them are nobody's. A key is the same in whatever database it is, as to
// any server.
func stale(dst []byte, m router.DBMap, keys []byte) []byte {
	list := resp.Elements(keys)
	if list == nil {
		return append(dst, keys...) // all of them
	}
	var out []byte
	n := 0
	for _, el := range list {
		key, _, ok := resp.Text(el)
		if !ok {
			continue
		}
		said := make(map[string]bool)
		for _, db := range m.Sources() {
			place, _ := m.Place(db)
			name, its := bytes.CutPrefix(key, []byte(place.Prefix))
			if its && !said[string(name)] {
				said[string(name)] = true
				out = redcon.AppendBulk(out, name)
				n++
			}
		}
	}
	if n == 0 {
		return nil
	}
	return append(redcon.AppendArray(dst, n), out...)
}

// asksTracked reports whether a command is CLIENT TRACKINGINFO, which names prefixes.
func asksTracked(args [][]byte) bool { return len(args) == 2 && is(args[1], "trackinginfo") }

// trackedAs returns the reply to it as the client is to have it: each prefix once, without
// those that are ours.
func trackedAs(m router.DBMap, reply []byte) []byte {
	fields := resp.Elements(reply)
	for i := 0; i+1 < len(fields); i += 2 {
		name, _, _ := resp.Text(fields[i])
		if string(name) != "prefixes" {
			continue
		}
		var out []byte
		said := make(map[string]bool)
		for _, el := range resp.Elements(fields[i+1]) {
			text, _, _ := resp.Text(el)
			for _, db := range m.Sources() {
				place, _ := m.Place(db)
				if p, its := place.CutBytes(text); its && len(p) < len(text) && !said[string(p)] {
					said[string(p)] = true
					out = redcon.AppendBulk(out, p)
				}
			}
		}
		_, _, rest, _ := resp.Header(reply)
		head := reply[:len(reply)-len(rest)]
		list := redcon.AppendArray(nil, len(said))
		return bytes.Join([][]byte{head, bytes.Join(fields[:i+1], nil), list, out, bytes.Join(fields[i+2:], nil)}, nil)
	}
	return reply
}

// confirmedAs follows a confirmation of a subscription and returns it as the client is to
// have it: its names are in the order in which it has said them. It runs under the
// session's lock.
func (st *state) confirmedAs(it *item, el []byte) []byte {
	typ, n, rest, ok := resp.Header(el)
	if !ok || n != 3 {
		return el
	}
	kind, rest, _ := resp.Text(rest)
	name, _, ok := resp.Text(rest)
	if !ok {
		return el // a null: nothing was subscribed
	}
	if it.confirmed++; it.confirmed < len(it.args) {
		name = it.args[it.confirmed]
	}
	set := it.spec.set
	st.subscribe(set, string(name), it.spec.verb == vSubscribe)
	total := len(st.subs[channels]) + len(st.subs[patterns])
	if set == shards {
		total = len(st.subs[shards])
	}
	out := append([]byte{typ}, redcon.AppendArray(nil, n)[1:]...)
	out = redcon.AppendBulk(redcon.AppendBulk(out, kind), name)
	return redcon.AppendInt(out, int64(total))
}

// unsubscribe forwards an UNSUBSCRIBE. What the target knows by the same name as another
// one that the client keeps stays subscribed there.
func (s *session) unsubscribe(sp *spec, cmd redcon.Command) error {
	if err := s.awaitEmpty(); err != nil {
		return err
	}
	s.mu.Lock()
	s.multi = s.st.multi // MULTI may have been refused
	then := s.st.subscriptions()
	for _, q := range s.st.effects {
		if isConfirming(q) {
			then.applySubscriptions(q)
		}
	}
	leaving := then.leaving
	if s.multi {
		leaving = then.leavingLater
	}
	named, there := leaving(s.route, sp.set, cmd.Args)
	s.mu.Unlock()
	it := &item{spec: sp, mode: modeWhole, gate: true, epoch: s.route.Epoch, args: named}
	if s.multi {
		return s.queue(it, redcon.Command{Raw: cmd.Raw, Args: named}, wireOf(there...))
	}
	return s.push(it, wireOf(there...))
}
