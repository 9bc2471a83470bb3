package proxy

import (
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/tidwall/redcon"
)

// waitName is the channel and the key that claimWrites uses. Nobody hears the
// channel, because there are no patterns of shard channels; the key is never there.
const waitName = "crossfade:wait"

// noClaim is the answer where WAIT could only be answered with a guess.
const noClaim = "ERR WAIT behind shared connections needs the right to publish to the shard channel " + waitName +
	" or to SET and DEL the key " + waitName + "; upstream: pinned needs neither"

// noClaimWatching is the answer to who may not publish and watches keys: the transaction
// with the key would be an EXEC, and that lifts the WATCH.
const noClaimWatching = "ERR WAIT behind shared connections cannot follow a WATCH without the right to publish to the shard channel " +
	waitName + ": WAIT after EXEC or UNWATCH; upstream: pinned has no such limit"

// What is said of WAITAOF, which only the key can be used for.
const (
	noClaimOnDisk = "ERR WAITAOF behind shared connections needs the right to SET and DEL the key " + waitName +
		"; upstream: pinned does not"
	noClaimOnDiskWatching = "ERR WAITAOF behind shared connections cannot follow a WATCH: WAITAOF after EXEC or UNWATCH; " +
		"upstream: pinned has no such limit"
)

// claimWrites has a WAIT wait for what the client has written on shared
// connections too. Servers since Redis 7.2 have a connection wait for the last of
// its own commands that was replicated, and answer at once where there was none. So
// the connection replicates something now: a message that nobody hears, or, for who
// may not send that, a key that is set and deleted in one step. For WAITAOF it is the
// key: a server that has no replicas puts the message nowhere.
//
// text is the error for a client that may do neither, or whose WATCH the key would lift, or the
// server's own where it takes no writes. It says so instead of a number of replicas that may not have its writes.
func (s *session) claimWrites(command string) (text string, err error) {
	if s.home == nil || !s.srv.cfg.Shared {
		return "", nil
	}
	probe, mayNot, watches := words("WAIT", "0", "0"), noClaim, noClaimWatching
	if command == "waitaof" {
		probe, mayNot, watches = words("WAITAOF", "0", "0", "0"), noClaimOnDisk, noClaimOnDiskWatching
	} else if replies, err := s.ask(words("SPUBLISH", waitName, "")); err != nil || !resp.IsError(replies[0]) {
		return "", err
	}
	if command != "waitaof" { // which is claimed anew each time
		// It keeps its connection from now on, so that its next writes are this one's.
		s.keep()
	}
	// HELLO is everybody's. An error of WAIT itself is for the server to say.
	replies, err := s.ask(words("HELLO"), probe)
	if err != nil || resp.WaitsForAll(replies[0]) || resp.IsError(replies[1]) {
		return "", err
	}
	if s.watching() {
		return watches, nil
	}
	replies, err = s.ask(words("MULTI"), words("SET", waitName, ""), words("DEL", waitName), words("EXEC"))
	if err != nil || done(replies[3]) {
		return "", err
	}
	for _, r := range append(replies, resp.Elements(replies[3])...) {
		said := resp.ErrorText(r)
		if said != "" && !strings.HasPrefix(said, "NOPERM ") && !strings.HasPrefix(said, "ERR unknown") {
			return said, nil // out of memory, say: no right is missing
		}
		if said != "" {
			break
		}
	}
	return mayNot, nil
}

// watching reports whether the server watches keys for the client, by the answers that have
// come.
func (s *session) watching() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.watch
}

// noClaimWatched is the answer where a transaction cannot be begun anew for a WAIT.
const noClaimWatched = "ERR WAIT inside a transaction behind shared connections cannot follow a WATCH, nor very many commands; " +
	"upstream: pinned has neither limit"

// confirming is how long replicas have to confirm what a WAIT inside a transaction is for,
// in milliseconds: there it does not wait, but counts those that have.
const confirming = "50"

// queueWait queues a WAIT inside a transaction. What claimWrites does is of no use there,
// for it would happen with the rest of it: so the transaction is discarded, and begun anew
// behind that and behind a short wait for the replicas.
func (s *session) queueWait(it *item, wire []byte) error {
	if err := s.awaitEmpty(); err != nil {
		return err
	}
	s.mu.Lock()
	st := &s.st
	s.multi = st.multi
	void, firm := st.dirty || st.broken, st.watch || st.stuck != ""
	var lines []line
	if st.multi && !void && !firm {
		st.forgetOurs()
		lines = s.srv.begun(st, s.route)
		st.multi = false // until it is begun again
	}
	s.mu.Unlock()
	switch {
	case !s.multi: // MULTI was refused
		alone := &item{spec: it.spec, mode: modeLine, gate: true, epoch: it.epoch, with: it.with}
		return s.special(alone, redcon.Command{Raw: it.raw, Args: it.args}, wire)
	case void: // it will not run
		return s.push(it, wire)
	case firm:
		return s.refuse(noClaimWatched)
	}
	text, err := s.beginAnew(it.args, lines)
	switch {
	case err != nil:
		return err
	case text != "":
		return s.refuse(text)
	}
	return s.push(it, wire)
}

// beginAnew discards the transaction that the server has, claims the client's writes for a
// WAIT, and says the transaction again.
func (s *session) beginAnew(wait [][]byte, lines []line) (text string, err error) {
	about, err := s.ask(words("DISCARD"), words("HELLO"))
	if err != nil {
		return "", err
	}
	// An older server is right by itself, and to have it wait would only be one more thing
	// that its replicas have to confirm.
	asIs := resp.WaitsForAll(about[1])
	if !asIs {
		if text, err = s.claimWrites(strings.ToLower(string(wait[0]))); err != nil {
			return "", err
		}
	}
	if n, ok := resp.Integer(wait[len(wait)-2]); ok && text == "" && !asIs {
		now := cloneArgs(wait)
		now[len(now)-2] = strconv.AppendInt(nil, max(1, n), 10)
		now[len(now)-1] = []byte(confirming)
		if _, err := s.ask(wireOf(now...)); err != nil {
			return "", err
		}
	}
	wires := make([][]byte, len(lines))
	for i, ln := range lines {
		wires[i] = ln.wire
	}
	replies, err := s.ask(wires...)
	if err != nil {
		return "", err
	}
	spoilt := false
	for i, ln := range lines {
		if said := resp.ErrorText(replies[i]); said != "" {
			spoilt = spoilt || ln.queued
			if err := s.link.refused(ln, said); err != nil {
				s.refuseClient(err)
				return "", err
			}
		}
	}
	s.mu.Lock()
	s.st.multi, s.st.dirty = true, spoilt
	s.mu.Unlock()
	return text, nil
}

// done reports whether EXEC has run all its commands.
func done(reply []byte) bool {
	elements := resp.Elements(reply)
	for _, e := range elements {
		if resp.IsError(e) {
			return false
		}
	}
	return len(elements) == 2
}
